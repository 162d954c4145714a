"""Are the champion's weights in another network now?

The same weights may load strictly into networks that compute otherwise: padded as TensorFlow does or as torch does,
with another stride or another activation. Nothing afterwards shows it, since export, reference and service all agree
with the wrong network; only that the champion was built of the same file in another way.
"""

from typing import Any

from pipeline.checks import Check

__all__ = ["architecture"]

SIZED = {"img_size"}  # follows model.image_size, and the weights are resampled for it


def architecture(ours: dict[str, Any], theirs: dict[str, Any]) -> Check:
    """The champion's weights under another name or other arguments are for a person to confirm.

    Args:
        ours: the challenger's bundle.json.
        theirs: the champion's.
    """
    digests = [(info.get("weights") or {}).get("digest") for info in (ours, theirs)]
    if None in digests or digests[0] != digests[1]:
        return _check([], "the champion was made of other weights")
    built = [_built(info) for info in (ours, theirs)]
    differing = [
        f"{name} is {_shown(built[0].get(name))}, the champion's {_shown(built[1].get(name))}"
        for name in sorted(built[0].keys() | built[1].keys())
        if built[0].get(name) != built[1].get(name)
    ]
    compared = len(built[0].keys() | built[1].keys())
    return _check(differing, "the champion's weights, in a network built as the champion's is", compared)


def _built(info: dict[str, Any]) -> dict[str, Any]:
    arguments = {k: v for k, v in (info.get("backbone_kwargs") or {}).items() if k not in SIZED}
    return {"backbone": str(info.get("backbone")).split(".")[0], **arguments}


def _shown(value: object) -> str:
    return "not set" if value is None else repr(value)


def _check(differing: list[str], fine: str, compared: int = 0) -> Check:
    return Check(
        "architecture",
        "unknown" if differing else "pass",
        float(len(differing)),
        bound=0.0,
        support=compared,
        kind="evidence",
        would_flip="the model arguments that belong to these weights (model_args in their config.json, model.backbone), or a "
        'person who knows that the champion had the wrong ones: `python -m flows.release --approve "<why>"`'
        if differing else "any other argument",
        detail=f"the same weights as the champion's in another network: {'; '.join(differing)}" if differing else fine,
    )  # fmt: skip
