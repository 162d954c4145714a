"""Are there enough images of each class, and what to do about the rare ones.

    python -m pipeline balance

Writes the plan for training, and how well the test images of each class will be able to tell its recall.
Fails with the list of what to collect where a class is too small to learn or to test.
"""

from dataclasses import asdict, dataclass

from pipeline import artifacts
from pipeline.artifacts import Workspace
from pipeline.assignments import SPLITS
from pipeline.errors import DataError
from pipeline.intervals import wilson
from pipeline.params import Balance, Params
from pipeline.plots import write_plot

BETA = 0.999  # each further image of a class adds BETA times what the one before it added
LONG_TAIL = 20.0  # ratio of the largest class to the smallest from which loss weights become noise
RECALL = 0.9  # the recall at which the width of the test interval is stated

Counts = dict[str, dict[str, int]]  # class → split → images


@dataclass(frozen=True)
class ClassSupport:
    """One class: its images by split, its weight in the loss, and the width of its recall's 95 % interval."""

    train: int
    validation: int
    test: int
    weight: float
    test_ci_width: float


@dataclass(frozen=True)
class Plan:
    """``plan`` is none, class_weights, sampler or logit_adjustment; ``reason`` says why, in words.

    Where it is ``contested``, the choice was ours and the classes are unequal: the train stage tests it against
    the others.
    """

    plan: str
    reason: str
    imbalance_ratio: float
    contested: bool
    classes: dict[str, ClassSupport]


def plan(counts: Counts, params: Balance) -> Plan:
    """The sampling plan for ``counts``.

    Raises:
        DataError: names every class with fewer than ``min_per_class`` train images, or without a test image.
    """
    _require_support(counts, params.min_per_class)
    train = {label: by_split["train"] for label, by_split in counts.items()}
    ratio = max(train.values()) / min(train.values())
    chosen, reason = _choose(ratio, train, params)
    weighted = chosen in ("class_weights", "sampler")
    weights = effective_number_weights(train) if weighted else dict.fromkeys(train, 1.0)
    classes = {}
    for label, by_split in sorted(counts.items()):
        low, high = wilson(RECALL * by_split["test"], by_split["test"])
        classes[label] = ClassSupport(
            train=by_split["train"],
            validation=by_split["validation"],
            test=by_split["test"],
            weight=round(weights[label], 6),
            test_ci_width=round(high - low, 4),
        )
    contested = params.plan == "auto" and ratio >= params.imbalance_ratio
    return Plan(chosen, reason, round(ratio, 4), contested, classes)


def effective_number_weights(train: dict[str, int]) -> dict[str, float]:
    """Weights of mean 1, inverse to the effective number (1 - BETA^n) / (1 - BETA) (Cui et al. 2019).

    Nearly inverse to n for classes of tens of images, and flatter from some thousand on: the thousandth
    image of a class tells less than the tenth.
    """
    inverse = {label: (1 - BETA) / (1 - BETA**count) for label, count in train.items()}
    mean = sum(inverse.values()) / len(inverse)
    return {label: value / mean for label, value in inverse.items()}


def _require_support(counts: Counts, least: int) -> None:
    """Every class that is too small, at once: collecting is slow, so it should be asked for once."""
    if len(counts) < 2:
        raise DataError(
            f"there is {'one class' if counts else 'no class'} ({', '.join(counts) or 'no image'}): "
            "a classifier needs at least two; add images of another class to data.sources"
        )
    wanted = []
    for label, by_split in sorted(counts.items()):
        lacks = []
        if by_split["train"] < least:
            lacks.append(f"{by_split['train']} in train, {least - by_split['train']} more")
        if by_split["test"] == 0:
            lacks.append("0 in test, 1 more")
        if lacks:
            wanted.append(f"  {label}: {'; '.join(lacks)}")
    if wanted:
        raise DataError(
            f"too few images to train on (balance.min_per_class {least}) or to test with; collect:\n"
            + "\n".join(wanted)
            + "\nthen run `dvc repro` again; or lower balance.min_per_class, or remove these classes. "
            "Images come in whole groups: see `python -m pipeline split` for what was left out and why"
        )


def _choose(ratio: float, train: dict[str, int], params: Balance) -> tuple[str, str]:
    largest, smallest = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
    fact = (
        f"the largest class ({largest}, {train[largest]:,} in train) has {ratio:.1f} times the images of the "
        f"smallest ({smallest}, {train[smallest]:,})"
    )
    if params.plan != "auto":
        return params.plan, f"balance.plan asks for {params.plan}; {fact}"
    if ratio < params.imbalance_ratio:
        return "none", f"{fact}, less than balance.imbalance_ratio {params.imbalance_ratio:g}"
    if ratio <= LONG_TAIL:
        return (
            "class_weights",
            f"{fact}: the loss is weighted by effective number (Cui et al. 2019, beta {BETA}), "
            "which sees every image once and repeats none",
        )
    return (
        "logit_adjustment",
        f"{fact}, more than {LONG_TAIL:g}: weights that far apart make the loss follow a few images, so the logits are "
        "adjusted by the classes' shares instead (Menon et al. 2021), which is consistent for balanced accuracy",
    )


def count(labels: list[str], splits: list[str]) -> Counts:
    """Images by class and split; a class whose images were all left out counts 0 everywhere."""
    counts: Counts = {label: dict.fromkeys(SPLITS, 0) for label in sorted(set(labels))}
    for label, split in zip(labels, splits, strict=True):
        if split in SPLITS:
            counts[label][split] += 1
    return counts


def table(counts: Counts, classes: dict[str, ClassSupport] | None = None) -> str:
    """Readable support by class; with the width of the recall's interval and the weight where planned."""
    width = max((len(label) for label in counts), default=5) + 2
    header = f"{'class':<{width}}" + "".join(f"{split:>12}" for split in SPLITS)
    lines = [header + (f"{'recall ±':>12}{'weight':>10}" if classes else "")]
    for label, by_split in counts.items():
        line = f"{label:<{width}}" + "".join(f"{by_split[split]:>12,}" for split in SPLITS)
        if classes:
            line += f"{classes[label].test_ci_width / 2:>12.3f}{classes[label].weight:>10.2f}"
        lines.append(line)
    return "\n".join(lines)


def run(workspace: Workspace, params: Params) -> int:
    """``artifacts/split.parquet`` → ``artifacts/balance.json`` and its plot."""
    split = artifacts.read_table(workspace.split, artifacts.SPLIT)
    counts = count(split["label"].to_pylist(), split["split"].to_pylist())
    try:
        chosen = plan(counts, params.balance)
    except DataError:
        print(table(counts))
        raise
    artifacts.write_json(workspace.balance, asdict(chosen))
    rows = [(label, split, by_split[split]) for label, by_split in counts.items() for split in SPLITS]
    write_plot(workspace.plots / "support.csv", ("label", "split", "images"), rows)
    print(table(counts, chosen.classes))
    print(f"plan: {chosen.plan}; {chosen.reason}")
    return 0
