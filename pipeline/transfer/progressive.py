"""Progressive unfreezing (Howard and Ruder 2018): the head, then the top stages, then deeper, ever more slowly.

The probe is the first phase. Each further phase starts from the best weights so far, unfreezes more and
lowers the rate. A phase's state is kept under its own key: a run that was killed at any moment, also
between two phases, ends bit for bit where an undisturbed one does.
"""

import copy
import sys
from dataclasses import replace

from pipeline.transfer.finetune import side
from pipeline.transfer.freeze import freeze
from pipeline.transfer.recipe import DivergedError
from pipeline.transfer.task import Candidate, Task
from pipeline.transfer.tuning import Settings, SkippedError, epochs, tune

__all__ = ["PHASES", "progressive"]

# Share of the layers that is trained, from the top; learning rate of the top layer's narrow weights.
PHASES = ((0.2, 1e-3), (0.5, 4e-4), (1.0, 1.2e-4))


def progressive(task: Task, probe: Candidate) -> Candidate:
    """Unfreeze phase by phase, a third of the epochs each; of fewer than three the upper phases have one each.

    A later phase that diverges at once ends it: what was best before is kept.

    Raises:
        DivergedError: the first phase's loss is no number in its first epoch.
        SkippedError: the budget does not allow an epoch a phase, and the strategy is not forced.
    """
    forced = task.train.strategy == "progressive"
    middle = task.network(probe.head)
    freeze(middle, 1 - PHASES[1][0], keep_statistics=True)
    count, _ = epochs(task, middle, side(task), forced=forced, name="progressive unfreezing")
    if count < len(PHASES) and not forced:
        raise SkippedError(
            f"Progressive unfreezing was skipped: train.budget_seconds allows {count} epochs, it needs {len(PHASES)}."
        )
    best, ended = probe, ""
    found: list[Candidate] = []
    for number, (unfrozen, rate) in enumerate(PHASES):
        length = (count + len(PHASES) - 1 - number) // len(PHASES)
        if length == 0:
            break
        classifier = copy.deepcopy(best.classifier) if found else task.network(probe.head)
        freeze(classifier, 1 - unfrozen, keep_statistics=True)
        settings = Settings(
            name="progressive",
            learning_rate=rate,
            rate_share=rate / PHASES[0][1],
            epochs=length,
            phase=number,
        )
        try:
            found.append(tune(task, best, classifier, settings))
        except DivergedError as error:
            if not found:
                raise DivergedError(f"in phase 1, the top {unfrozen:.0%} of the layers: {error}") from error
            ended = f" Phase {number + 1} was stopped, since {error}; the best of the phases before is kept."
            print(f"warning: train:{ended}", file=sys.stderr)
            break
        if found[-1].figures["log_loss"] < best.figures["log_loss"] or best is probe:
            best = found[-1]
    return _joined(best, found, ended)


def _joined(best: Candidate, found: list[Candidate], ended: str) -> Candidate:
    """The best phase's network with the history of all phases."""
    curve: list[tuple[int, float, str]] = []
    for phase in found:
        reached = max((step for step, _, _ in curve), default=0)
        curve += [(step + reached, loss, split) for step, loss, split in phase.curve]
    reports = [
        f"Phase {number} (top {unfrozen:.0%} of the layers): {phase.report}"
        for number, ((unfrozen, _), phase) in enumerate(zip(PHASES[: len(found)], found, strict=True), 1)
    ]
    return replace(
        best,
        strategy="progressive",
        report=" ".join(reports) + ended,
        curve=curve,
        steps=sum(phase.steps for phase in found),
        epochs=0,
        seconds={"progressive": sum(phase.seconds["progressive"] for phase in found)},
    )
