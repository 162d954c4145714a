"""Images that were stored or divided in more than one way: groups in two splits, turned pictures, kinds of pixels."""

from collections import Counter, defaultdict

import pyarrow as pa

__all__ = ["groups_across_splits", "pixel_kinds", "turned"]

NAMED = 3  # classes named for a kind of pixels
_TURNS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "mirrored upside down",
    5: "mirrored and turned by 90 degrees to the left",
    6: "turned by 90 degrees to the right",
    7: "mirrored and turned by 90 degrees to the right",
    8: "turned by 90 degrees to the left",
}


def groups_across_splits(manifest: pa.Table, labelled: str) -> list[str | None]:
    """On the first image of a group that lies in two official splits, one image of each.

    Images without a group are one by themselves, and copies of a file have a check of their own. What was labelled
    in production has its split for good, whatever comes later.
    """
    columns = (manifest[name].to_pylist() for name in ("group", "image_id", "split", "path"))
    firsts: dict[str, dict[str, int]] = defaultdict(dict)
    paths: list[str] = []
    for row, (group, image_id, split, path) in enumerate(zip(*columns, strict=True)):
        paths.append(path)
        if split and group != image_id and not path.startswith(labelled):
            firsts[group].setdefault(split, row)
    texts: list[str | None] = [None] * manifest.num_rows
    for group, places in firsts.items():
        if len(places) > 1:
            shown = " and ".join(f"{split} ({paths[row]})" for split, row in sorted(places.items()))
            texts[min(places.values())] = f"the group {group!r} lies in {shown}"
    return texts


def turned(manifest: pa.Table) -> list[str | None]:
    """On each image whose EXIF orientation changes the picture, how: a reader that ignores it sees another one."""
    return [
        f"EXIF orientation {orientation}: decoding shows it {_TURNS[orientation]}"
        if orientation in _TURNS
        else None
        for orientation in manifest["orientation"].to_pylist()
    ]


def pixel_kinds(manifest: pa.Table) -> list[str | None]:
    """On the first image of each kind of pixels but the commonest, how many there are, and in which classes."""
    columns = {name: manifest[name].to_pylist() for name in ("mode", "bits", "label", "error")}
    kinds = [
        _kind(mode, bits) if error is None and mode else None
        for mode, bits, error in zip(columns["mode"], columns["bits"], columns["error"], strict=True)
    ]
    counts = Counter(kind for kind in kinds if kind)
    classes = Counter(label for label, kind in zip(columns["label"], kinds, strict=True) if kind)
    texts: list[str | None] = [None] * manifest.num_rows
    for kind, count in counts.most_common()[1:]:
        own = Counter(label for label, other in zip(columns["label"], kinds, strict=True) if other == kind)
        shown = sorted(own.items(), key=lambda item: (-item[1] / classes[item[0]], item[0]))[:NAMED]
        named = ", ".join(f"{label!r} {images:,} of {classes[label]:,}" for label, images in shown)
        more = f" and {len(own) - NAMED} more classes" if len(own) > NAMED else ""
        texts[kinds.index(kind)] = (
            f"{kind}: {count:,} of {sum(counts.values()):,} images, the others mostly {counts.most_common(1)[0][0]}; "
            f"by class {named}{more}"
        )
    return texts


def _kind(mode: str, bits: int) -> str:
    if mode in ("P", "PA"):
        what = "palette"
    else:
        what = "gray" if mode in ("1", "L", "LA", "La") or mode.startswith("I;16") else "colour"
    return f"{bits}-bit {what}" + (" with alpha" if mode in ("RGBA", "LA", "PA", "RGBa", "La") else "")
