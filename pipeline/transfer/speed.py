"""How to do the arithmetic here: precision, memory layout and compilation, by a short measurement.

What a network runs fastest with can't be told from a table: on one CPU a step of MobileNetV2's upper half took .55 times
as long in bfloat16, and 1.3 times with contiguous tensors. So a few steps of the real network are timed, and another
choice than the default (float32, channels last, eager) is taken only where it is clearly faster. The
outcome is kept under the workspace's cache by network, batch, machine and number of steps (to a power of
two), so that a later run on the same machine does the same; ``train.precision``, ``train.memory_format``
and ``train.compile`` override it.
torch.compile costs its time at once: it is tried only where the steps that are left could win it back.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.artifacts import Workspace, digest_json, write_json
from pipeline.params import Train
from pipeline.transfer.captured import replayed
from pipeline.transfer.device import laid_out, out_of_memory
from pipeline.transfer.recipe import Flags

__all__ = ["Speed", "decide", "machine", "words"]

CLEARLY = 1.25  # times as fast: less is within what two measurements on one machine differ by
TIMED = 3  # steps, after one to warm up; the fastest counts. One is enough for a candidate that it shows to be slower
# Steps (a power of two, as in the record's name), below which one is timed and the layout is not: the measurement had
# been a tenth of such a training, and the layout rarely pays.
FEW = 256
HOPELESS = 2.0  # a candidate whose first step takes so many times the best is not timed further
WORTH = 20.0  # nominal seconds of training, from which on choosing is worth a measurement
SAVING = 0.35  # of a step, that compiling may save at most (a ResNet-50's on an H100)
COMPILING = {
    "cpu": 300.0,
    "cuda": 20.0,
}  # seconds that it takes at least (a MobileNetV2 on two cores, a ViT-B/16 on an H100)


@dataclass(frozen=True)
class Speed:
    """The flags, and why, in words."""

    flags: Flags
    reason: str
    lasting: bool = True  # else the default, for want of memory at this moment: nothing to remember


def machine() -> list[str | int]:
    """What the measurement depends on besides the network."""
    return [torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability(),
            os.cpu_count() or 1, torch.get_num_threads()]  # fmt: skip


def decide(
    workspace: Workspace,
    train: Train,
    network: nn.Module,
    inputs: torch.Tensor,
    classes: int,
    *,
    steps: int,
    seconds: float,
    device: str,
    name: str,
) -> Speed:
    """The flags for ``steps`` steps of ``network`` on batches like ``inputs``, which is on the CPU.

    Args:
        seconds: that they take on the nominal machine (see cost.py): a clock would have two runs of one training measure
            in one and not in the other.
        name: says which network it is, for the record under the cache.
    """
    fixed = _fixed(train, device)
    if seconds < WORTH:
        said = f"some {seconds:.2g} s of training on the nominal machine are not worth a measurement"
        return Speed(fixed, f"{words(fixed)}: {said}")
    key = digest_json([name, list(inputs.shape), steps.bit_length(), device.split(":")[0], asdict(fixed), train.precision,
                       train.memory_format, train.compile, *machine()])[:32]  # fmt: skip
    record = workspace.cache / "speed" / f"{key}.json"
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
        return Speed(Flags(**kept["flags"]), kept["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    speed = _measured(train, network, inputs, classes, steps, device, fixed)
    if speed.lasting:
        write_json(record, {"flags": asdict(speed.flags), "reason": speed.reason})
    return speed


def _fixed(train: Train, device: str) -> Flags:
    """The default, with what params.yaml asks for laid over it."""
    gpu = device.startswith("cuda")
    auto = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return Flags(
        bfloat16=auto if train.precision == "auto" else train.precision == "bfloat16",
        channels_last=train.memory_format != "contiguous",
        compiled=train.compile == "on",
    )


def _measured(
    train: Train,
    network: nn.Module,
    inputs: torch.Tensor,
    classes: int,
    steps: int,
    device: str,
    flags: Flags,
) -> Speed:
    step = _stepper(network, inputs, classes, device)
    warm = _timed(step, flags, 1)
    if math.isinf(warm):
        return Speed(
            flags, f"{words(flags)}: the batch does not fit into memory whole and was not timed", False
        )
    # A first step also allocates, and on a busy machine takes many times a later one's time.
    few = steps < FEW
    timed = 1 if few else TIMED
    taken = min(warm, _timed(step, flags, timed))
    best = flags
    said = [f"{words(flags)} {taken:.3g} s a step"]
    alternatives = []
    if train.precision == "auto" and not flags.bfloat16:
        alternatives.append(replace(flags, bfloat16=True))
    if train.memory_format == "auto" and not few:
        alternatives.append(replace(flags, channels_last=False))
    default = taken
    for other in alternatives:
        seconds = _timed(step, other, 1)
        if seconds < HOPELESS * default:
            seconds = min(seconds, _timed(step, other, 1))
        if seconds < default and timed > 1:
            seconds = min(seconds, _timed(step, other, timed - 1))
        said.append(f"{words(other)} {seconds:.3g} s")
        if seconds * CLEARLY < default and seconds < taken:
            best, taken = other, seconds
    if train.compile == "auto":
        best, taken, outcome = _compiled(step, best, taken, steps, COMPILING[device.split(":")[0]])
        said.append(outcome)
    return Speed(best, f"{words(best)}, measured: {'; '.join(said)}")


def _compiled(
    step: Callable, flags: Flags, taken: float, steps: int, compiling: float
) -> tuple[Flags, float, str]:
    """Compile where it could pay, measure, and keep it where it does."""
    possible = steps * taken * SAVING
    if possible < compiling:
        return (
            flags,
            taken,
            f"torch.compile could save {possible:.0f} s of {steps} steps at most and is not tried",
        )
    started = time.perf_counter()
    try:
        compiled = _timed(step, replace(flags, compiled=True), TIMED)
    except Exception as error:  # no compiler, an operation it can't take: many kinds, one consequence
        return flags, taken, f"torch.compile failed ({type(error).__name__}) and is not used"
    cost = time.perf_counter() - started
    if (taken - compiled) * steps > cost and compiled * CLEARLY < taken:
        return replace(flags, compiled=True), compiled, f"torch.compile {compiled:.3g} s after {cost:.0f} s"
    return flags, taken, f"torch.compile {compiled:.3g} s after {cost:.0f} s does not pay for {steps} steps"


def _stepper(network: nn.Module, inputs: torch.Tensor, classes: int, device: str) -> Callable:
    """A function that times n forward and backward passes; the weights stay as they are."""
    labels = torch.from_numpy(np.arange(len(inputs)) % classes).to(device)

    def step(flags: Flags, times: int) -> float:
        layout = torch.channels_last if flags.channels_last else torch.contiguous_format
        module = laid_out(network, device, layout)
        batch = inputs.to(device)
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=layout)
        forward = torch.compile(module) if flags.compiled else module

        def once() -> None:
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=flags.bfloat16):
                logits = forward(batch)[0]
            functional.cross_entropy(logits.float(), labels).backward()
            for parameter in module.parameters():
                parameter.grad = None

        work = once if device == "cpu" else replayed(once)
        fastest = float("inf")
        for _ in range(times):
            started = time.perf_counter()
            work()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            fastest = min(fastest, time.perf_counter() - started)
        return fastest

    return step


def _timed(step: Callable, flags: Flags, times: int) -> float:
    """Seconds of the fastest of so many steps; infinity where memory is short."""
    try:
        return float(step(flags, times))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return math.inf


def words(flags: Flags) -> str:
    """The flags, to be read."""
    return " ".join(
        ["bfloat16" if flags.bfloat16 else "float32",
         "channels last" if flags.channels_last else "contiguous",
         "compiled" if flags.compiled else "eager"]
    )  # fmt: skip
