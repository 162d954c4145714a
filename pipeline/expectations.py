"""What a good manifest looks like, check by check: which column must hold what, and how bad it is if not.

The columns are the manifest's and those of facts.py; validate.py hands both to Great Expectations.
"""

import difflib
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.artifacts import MANIFEST
from pipeline.drifted import DRIFT, TYPES
from pipeline.errors import ParamsError
from pipeline.params import Validate
from pipeline.profile import CHECKS

__all__ = ["Check", "checks"]

Severity = Literal["fail", "warn"]
MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "I;16",
    "I;16L",
    "I;16B",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation: ``kind`` says which of Great Expectations', on one column of the facts."""

    name: str
    severity: Severity
    says: str
    kind: Literal["null", "between", "member", "distinct", "columns", "quantiles", "rows"]
    column: str = ""
    noun: str = "images"
    bounds: dict[str, Any] = field(default_factory=dict)


def checks(params: Validate, suite: dict[str, Any] | None = None) -> list[Check]:
    """Every check, its thresholds and severity from params.yaml; those of a profile from its ``suite``.

    Raises:
        ParamsError: ``validate.severity`` names a check that does not exist.
    """
    known = [
        Check("columns", "fail", "The manifest has its columns", "columns", bounds={"column_set": list(MANIFEST.names)}),
        Check("decodable", "fail", f"All files decode but {params.max_undecodable:.1%} (validate.max_undecodable)"
              if params.max_undecodable else "Every file decodes", "null", "error",
              bounds={"mostly": 1 - params.max_undecodable}),
        Check("labels_well_formed", "fail", "A label is a plain word: not empty, no path, control character, formula "
              "or HTML tag", "null", "label problem"),
        Check("labels_distinct", "warn", "No two labels differ in case, blanks or hyphens alone", "null",
              "label spelled alike", "labels"),
        Check("classes", "fail", "There are at least two classes", "distinct", "label", "classes",
              {"min_value": 2}),
        Check("images_per_class", "fail", f"Each class has at least {params.min_per_class} images that decode "
              "(validate.min_per_class)", "null", "class too small", "classes"),
        Check("width", "fail", f"Width is {params.min_side} to {params.max_side} px (validate.min_side, max_side)",
              "between", "width", bounds={"min_value": params.min_side, "max_value": params.max_side}),
        Check("height", "fail", f"Height is {params.min_side} to {params.max_side} px (validate.min_side, max_side)",
              "between", "height", bounds={"min_value": params.min_side, "max_value": params.max_side}),
        Check("modes", "fail", "The pixel mode is one that decoding defines", "member", "mode",
              bounds={"value_set": list(MODES)}),
        Check("splits", "fail", "An official split is train, validation or test", "member", "split",
              bounds={"value_set": ["train", "validation", "test"]}),
        Check("label_conflicts", "fail", "No file stands under two labels, byte for byte the same", "null",
              "same bytes, other label"),
        Check("exact_duplicates", "warn", "No file occurs twice under one label", "null", "same bytes, same label"),
        Check("near_label_conflicts", "warn", "No image has a near-copy under another label", "null",
              "near-copy, other label"),
        Check("near_duplicates", "warn", "No image has a near-copy under its label outside its group", "null",
              "near-copy, same label"),
        Check("exact_duplicates_across_splits", "fail", "No file lies in two official splits", "null",
              "same bytes, other split"),
        Check("near_duplicates_across_splits", "fail", "No image has a near-copy in another official split", "null",
              "near-copy, other split"),
        Check("near_duplicates_of_labelled", "warn", "No image labelled in production has a near-copy in another split",
              "null", "near-copy, labelled"),
        Check("brightness", "warn", f"Mean brightness is {params.min_brightness} to {params.max_brightness}: "
              "not nearly black or white", "between", "brightness",
              bounds={"min_value": params.min_brightness, "max_value": params.max_brightness}),
        Check("contrast", "warn", f"Contrast is at least {params.min_contrast}: the image shows something",
              "between", "contrast", bounds={"min_value": params.min_contrast}),
        Check("groups_across_splits", "fail", "No group (a part, a patient) lies in two official splits", "null",
              "group, other split", "groups"),
        Check("orientation", "warn", "No image is turned or mirrored by its EXIF orientation", "null", "turned"),
        Check("bit_depth", "warn", "All images have one kind of pixels: bits, gray or colour, palette, alpha", "null",
              "pixels", "kinds of pixels"),
        Check("shortcuts", "warn", "Nothing beside the object gives a class away: border, corners, file or exposure",
              "null", "shortcut", "shortcuts"),
        Check("suspect_labels", "warn", "No label is suspect to a model that has not seen it (`dvc repro suspects`)",
              "null", "suspect label"),
    ]  # fmt: skip
    if suite is not None:
        known += [_profiled(expectation) for expectation in suite["expectations"]]
        known.append(
            Check("drift_of_new_images", "warn", "The images since the profile are like those in it, up to chance",
                  "null", DRIFT, "differences")
        )  # fmt: skip
    # A severity for a check of the profile may stand there before there is one.
    names = list(dict.fromkeys([*(check.name for check in known), *CHECKS]))
    for name in params.severity:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"the checks are {', '.join(names)}"
            raise ParamsError(f"validate.severity: there is no check {name!r}; {hint}")
    return [Check(c.name, _severity(params, c), c.says, c.kind, c.column, c.noun, c.bounds) for c in known]


def _profiled(expectation: dict[str, Any]) -> Check:
    """An expectation of the suite, with the bounds that stand in it."""
    bounds, meta = dict(expectation["kwargs"]), expectation["meta"]
    column = bounds.pop("column", "")
    kind = TYPES[expectation["type"]]
    noun = {"null": "values", "rows": "images"}.get(kind, "quantiles")
    return Check(meta["check"], "warn", meta["says"], kind, column, noun, bounds)


def _severity(params: Validate, check: Check) -> Severity:
    return "warn" if params.severity.get(check.name, check.severity) == "warn" else "fail"
