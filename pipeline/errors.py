"""Every error that we raise on purpose.

VisionloopError          something a person can mend; commands print it without a traceback
├── ParamsError          params.yaml: an unknown key, a value out of its bounds
├── DataError            the images, the labels or the tables made from them
│   └── ImageError       one image that can't be decoded or is over a limit
├── WeightsError         pretrained weights: not found, unreachable, of another architecture
├── IntegrityError       a digest, a fingerprint or a parity check that does not match
├── StateError           var/: somebody else holds the lock, the pointer has moved, a file is missing
└── RefusedError         a gate said no, and the command asked to act against it

A message says what happened, where, the limit, and the next command to run.
"""

__all__ = [
    "DataError",
    "ImageError",
    "IntegrityError",
    "ParamsError",
    "RefusedError",
    "StateError",
    "VisionloopError",
    "WeightsError",
]


class VisionloopError(Exception):
    """Base of all errors raised on purpose."""


class ParamsError(VisionloopError):
    """params.yaml holds an unknown key or a value out of its bounds."""


class DataError(VisionloopError):
    """The images, the labels or the tables made from them can't be used as they are."""


class ImageError(DataError):
    """One image can't be decoded or is over a limit.

    ``reason`` is a short stable word for it: empty, unknown_format, truncated, too_many_pixels, ...
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WeightsError(VisionloopError):
    """Pretrained weights are missing, unreachable or of another architecture."""


class IntegrityError(VisionloopError):
    """What is on disk is not what its digest, fingerprint or parity check says."""


class StateError(VisionloopError):
    """The state under var/ forbids the step: a lock is held, a pointer has moved, a file is missing."""


class RefusedError(VisionloopError):
    """A gate refused, and the command asked to act against it."""
