"""What ships: one folder that holds the network, its preprocessing, its calibration and its reference.

    python -m pipeline bundle        # the verb: artifacts/checkpoint/ → artifacts/bundle/

Loading needs ONNX Runtime and numpy, never torch. A bundle is named by the sha256 of its bundle.json,
which holds the sha256 of every other file: one flipped byte anywhere and it is refused.

    bundle = Bundle.load(Path("artifacts/bundle"))
    prediction = bundle.predict(bundle.preprocessing.view(image)[None])
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.artifacts import Workspace, digest_file
from pipeline.errors import IntegrityError
from pipeline.params import Params
from pipeline.transforms import Preprocessing

__all__ = ["FORMAT", "NETWORKS", "Bundle", "Form", "Prediction", "open_session", "run", "verify"]

FORMAT = 1
Form = Literal["onnx", "int8"]
NETWORKS: dict[Form, str] = {"onnx": "model.onnx", "int8": "model.int8.onnx"}  # by bundle.formats' name
BATCH = 16  # images through the network at once; 64 took four times the memory and a third longer at 224 px


@dataclass(frozen=True)
class Prediction:
    """What a bundle says of n images, float32."""

    logits: np.ndarray  # [n, classes], before the temperature
    probabilities: np.ndarray  # [n, classes], softmax(logits / temperature)
    embedding: np.ndarray  # [n, d], the pooled features before the head


class Bundle:
    """A verified bundle, ready to predict; safe to share between threads."""

    def __init__(
        self, path: Path, digest: str, info: dict[str, Any], session: Any, form: Form = "onnx"
    ) -> None:
        self.path = path
        self.digest = digest
        self.info = info
        self.classes: list[str] = list(info["classes"])
        self.preprocessing = Preprocessing.from_dict(info["preprocessing"])
        self.temperature = float(info["temperature"])
        self.form: Form = form
        self.session = session

    @classmethod
    def load(cls, path: Path, *, threads: int | None = None, form: Form = "onnx") -> "Bundle":
        """Verify every file and the preprocessing, then open the network on ``threads`` CPU threads.

        Args:
            form: ``serve.format`` of params.yaml: onnx is float32, int8 the quantised network beside it.

        Raises:
            IntegrityError: a file is missing or changed, the bundle has no network of this form, or this
                machine's preprocessing is not the one that the bundle was made with.
        """
        digest, info = _verified(path)
        if NETWORKS[form] not in info["files"]:
            raise IntegrityError(
                f"{path} holds no {form} network (its report says why where one was tried): set serve.format to onnx, or "
                f"add {form} to bundle.formats and run `dvc repro`"
            )
        preprocessing = Preprocessing.from_dict(info["preprocessing"])
        if preprocessing.fingerprint() != info["fingerprint"]:
            raise IntegrityError(
                f"{path}: this machine's preprocessing gives another result on the probe image than the one that the "
                "bundle was made with (another Pillow, or changed code): install requirements.lock, or run `dvc repro`"
            )
        return cls(path, digest, info, open_session(path, info, threads, form), form)

    def predict(self, views: np.ndarray, rows: Sequence[int] | None = None) -> Prediction:
        """Logits, calibrated probabilities and embeddings of uint8 [n, H, W, 3] views, or of these ``rows`` of them."""
        size = self.preprocessing.image_size
        if views.ndim != 4 or views.shape[1:] != (size, size, 3) or views.dtype != np.uint8:
            raise ValueError(
                f"views must be uint8 [n, {size}, {size}, 3], they are {views.dtype} {views.shape}"
            )
        order = np.arange(len(views)) if rows is None else np.asarray(rows, dtype=np.int64)
        logits = np.empty((len(order), len(self.classes)), dtype=np.float32)
        embedding = np.empty((len(order), int(self.info["embedding_size"])), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            part = slice(start, start + BATCH)
            feed = {"images": self.preprocessing.normalise(views[order[part]])}
            logits[part], embedding[part] = self.session.run(["logits", "embedding"], feed)
        return Prediction(logits, self._probabilities(logits), embedding)

    def calibrated(self, said: Prediction) -> Prediction:
        """``said`` by this network at an earlier temperature, with the probabilities of the present one."""
        return replace(said, probabilities=self._probabilities(said.logits))

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        return softmax(logits / np.float32(self.temperature))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Row-wise, for [n, classes] logits."""
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def verify(path: Path) -> str:
    """The bundle's digest, after re-hashing every file in it.

    Raises:
        IntegrityError: names the file that is missing or changed.
    """
    return _verified(path)[0]


def _verified(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        raw = (path / "bundle.json").read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} holds no bundle ({error.strerror}): run `dvc repro bundle`") from error
    try:
        info = json.loads(raw)
        files = dict(info["files"])
        version = info["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path}/bundle.json is damaged ({error!r}): it is no bundle any more"
        ) from error
    if version != FORMAT:
        raise IntegrityError(
            f"{path} is of format {version}; this version reads {FORMAT}: run `dvc repro -f bundle`"
        )
    for name, expected in files.items():
        if Path(name).name != name:
            raise IntegrityError(f"{path}/bundle.json names {name!r}, which lies outside of the bundle")
        try:
            found = digest_file(path / name)
        except OSError as error:
            raise IntegrityError(f"{path / name} is missing or unreadable ({error.strerror})") from error
        if found != expected:
            raise IntegrityError(
                f"{path / name} has changed since the bundle was made: sha256 {found[:12]}…, expected {expected[:12]}…. "
                "Restore it (`dvc checkout`, or another copy in the registry), or run `dvc repro -f bundle`"
            )
    return hashlib.sha256(raw).hexdigest(), info


def open_session(path: Path, info: dict[str, Any], threads: int | None, form: Form = "onnx") -> Any:
    """An ONNX Runtime session whose inputs and outputs are those that the bundle declares."""
    import onnxruntime as ort

    file = path / NETWORKS[form]
    options = ort.SessionOptions()
    options.log_severity_level = 3  # the graph's initialisers are not our user's business
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    try:
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise IntegrityError(f"{file} can't be opened by ONNX Runtime {ort.__version__}: {error}") from error
    shapes = {output.name: output.shape for output in session.get_outputs()}
    widths = {"logits": len(info["classes"]), "embedding": info["embedding_size"]}
    if {name: shapes.get(name, [None])[-1] for name in widths} != widths:
        raise IntegrityError(f"{file} gives {shapes}, bundle.json declares the widths {widths}")
    return session


def run(workspace: Workspace, params: Params) -> int:
    """Export the checkpoint into ``artifacts/bundle/``, which appears whole or not at all."""
    from pipeline.transfer.export import export

    export(workspace, params)
    return 0
