"""Images that were trained on and have left the data: were all of them compared with the test images in every way?"""

from pipeline.checks import Check

__all__ = ["past_checks"]


def past_checks(counts: dict[str, int]) -> list[Check]:
    """The verdict's line where images that have left the data could not be shown to the network; else none.

    It holds nobody back: their bytes, hashes and thumbnails were compared.
    """
    count, shown = counts.get("past", 0), counts.get("past_embedded", 0)
    if shown >= count:
        return []
    return [
        Check(
            "past_images", "unknown", float(count - shown), None, None, count,
            "their decoded views, which the cache no longer holds at this image size: a cropped copy of one would not be seen",
            kind="evidence", decides=False,
            detail=f"{count - shown:,} of {count:,} images trained on that have left the data were compared by bytes, hash and "
            "thumbnail alone",
        )
    ]  # fmt: skip
