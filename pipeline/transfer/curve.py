"""The learning curves as training goes, written by dvclive: ``dvc exp show`` and editors follow them live."""

from pathlib import Path

from pipeline.artifacts import write_json

__all__ = ["LiveCurves"]


class LiveCurves:
    """Appends to dvclive's files under ``folder``; reports and experiments are DVC's own affair here."""

    def __init__(self, folder: Path) -> None:
        from dvclive import Live
        from scmrepo.exceptions import SCMError

        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._live = Live(
                str(folder), dvcyaml=None, save_dvc_exp=False, report=None, monitor_system=False
            )
            if self._live._dvc_repo is not None:  # opened to look around, and not closed by dvclive
                self._live._dvc_repo.close()
            # Until there is a file, `dvc exp show` gives the figures of the training before.
            self._live.make_summary()
        except SCMError:  # a git repository without any commit: dvclive asks for the last one
            print("train: no live curves before this repository's first commit", flush=True)
            self._live = None
            write_json(folder / "metrics.json", {})
        (folder / "plots").mkdir(exist_ok=True)  # DVC expects it, also where nothing is plotted

    def log(self, name: str, step: int, **losses: float) -> None:
        """Losses of strategy ``name`` after so many optimizer steps."""
        if self._live is None:
            return
        self._live.step = step
        for split, value in losses.items():
            self._live.log_metric(f"{name}/{split}", value, plot=step > 0)  # a probe is no curve: one point
        self._live.make_summary()
