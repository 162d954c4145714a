"""The forward pass of a network that is only read: by ONNX Runtime on a CPU, by torch on a GPU.

ONNX Runtime makes activations part of the convolutions before them and lays out channels in blocks: of
MobileNetV2 at 224 px it takes half of eager torch's time on two cores. Its answers agree with torch's to the
rounding of float32, as those of folded BatchNorms do (see folding.py). A network that its exporter or it can't
take is answered by torch.
"""

import io
from collections.abc import Callable

import torch
from torch import nn

from pipeline.transfer.device import laid_out
from pipeline.transfer.exporter import export

__all__ = ["fell_back", "forward", "runtime"]

Forward = Callable[[torch.Tensor], torch.Tensor]
KEPT = 2  # networks that stay ready: the two halves of one that was cut

_ready: dict[str, Forward] = {}
_by_torch_instead: set[str] = set()


def runtime(device: str) -> str:
    """What computes on this device, with its version: other versions give other last bits."""
    if device.startswith("cuda"):
        return f"torch {torch.__version__}"
    import onnxruntime as ort

    return f"torch {torch.__version__}, onnxruntime {ort.__version__}"


def forward(key: str, network: Callable[[], nn.Module], inputs: torch.Tensor, device: str) -> Forward:
    """What maps batches shaped as ``inputs``, float32, where ``device`` is, to the network's answers on the CPU.

    Args:
        key: names the network; the last ones of this process stay ready under theirs.
    """
    if key not in _ready:
        for old in list(_ready)[: len(_ready) + 1 - KEPT]:
            del _ready[old]
        module = network().eval()
        made = None if device.startswith("cuda") else _by_onnx_runtime(module, inputs)
        if made is None:
            _by_torch_instead.add(key)
        _ready[key] = made or _by_torch(module, device)
    return _ready[key]


def fell_back() -> bool:
    """Whether this process had torch answer for a network: whether it can be exported is then not known."""
    return bool(_by_torch_instead)


def _by_onnx_runtime(module: nn.Module, inputs: torch.Tensor) -> Forward | None:
    """None where the network can't be exported, or not run."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    file = io.BytesIO()
    try:
        export(module, inputs, file, inputs=["images"], outputs=["values"])
        session = ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    except Exception:  # the exporter and ONNX Runtime raise a dozen unrelated types
        return None

    def run(values: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"images": values.contiguous().numpy()})[0])

    return run


def _by_torch(module: nn.Module, device: str) -> Forward:
    laid_out(module, device, torch.channels_last)

    @torch.inference_mode()
    def run(values: torch.Tensor) -> torch.Tensor:
        values = values.to(device)
        if values.dim() == 4:  # a transformer's tokens have no channels
            values = values.contiguous(memory_format=torch.channels_last)
        answers: torch.Tensor = module(values).float().cpu()
        return answers

    return run
