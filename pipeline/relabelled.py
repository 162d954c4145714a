"""Have the labels of test images changed since the champion was judged?

Two classes under each other's name, in training and test alike, make a perfect challenger and a bad champion:
no comparison on today's labels can see it. The champion's bundle remembers the labels of its held-out images.
"""

from collections import Counter

from pipeline.checks import Check

__all__ = ["relabelled"]

MOST = 0.05  # share of all the images that both know
MOST_OF_CLASS = 0.2  # and of any class's
FEWEST = 3  # images of a class, so that one correction is no alarm


def relabelled(now: dict[str, str], then: dict[str, str]) -> Check:
    """A correction here and there passes; a class that went over to another is for a person to confirm.

    Args:
        now: image_id → label, of the test images.
        then: the same, as the champion's bundle holds them.
    """
    shared = sorted(now.keys() & then.keys())
    moved = Counter((then[image_id], now[image_id]) for image_id in shared if now[image_id] != then[image_id])
    classes = Counter(then[image_id] for image_id in shared)
    lost = Counter({label: sum(n for (old, _), n in moved.items() if old == label) for label in classes})
    large = [label for label, n in lost.items() if n >= FEWEST and n > MOST_OF_CLASS * classes[label]]
    share = sum(moved.values()) / len(shared) if shared else 0.0
    beyond = bool(large) or (share > MOST and sum(moved.values()) >= FEWEST)
    told = ", ".join(f"{n} from {old} to {new}" for (old, new), n in moved.most_common(5))
    return Check(
        "relabelled",
        "unknown" if beyond else "pass",
        round(share, 6),
        None,
        MOST,
        len(shared),
        "a person who knows that these labels were corrected: `python -m flows.release --approve \"<why>\"`"
        if beyond else "a larger share of them under another label",
        kind="evidence",
        detail=f"of the test images that the champion was judged on: {told or 'none has another label now'}",
    )  # fmt: skip
