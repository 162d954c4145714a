"""Where everything lies on disk."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.schemas import STRESS_TABLE


@dataclass(frozen=True)
class Workspace:
    """Every path that visionloop reads or writes, below ``root`` (derived) and ``home`` (state)."""

    root: Path
    home: Path

    @classmethod
    def here(cls) -> "Workspace":
        """The current folder, with state under ``VISIONLOOP_HOME`` (default: ``var/``).

        A queued experiment runs in a copy of the checkout, but with the checkout's own state: the caches
        of views and features, and the champion that the copy's champion-pin.json names.
        """
        root = Path.cwd()
        return cls(root, _checkout(root) / (os.environ.get("VISIONLOOP_HOME") or "var"))

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def sources(self) -> Path:
        return self.root / "artifacts/sources"

    @property
    def labels(self) -> Path:
        return self.root / "data/labels.csv"

    @property
    def labelled(self) -> Path:
        return self.root / "data/labelled"

    @property
    def assignments(self) -> Path:
        return self.root / "data/assignments.csv"

    @property
    def expectations(self) -> Path:
        return self.root / "data/expectations.json"

    @property
    def class_statistics(self) -> Path:
        return self.root / "reports/class_statistics.csv"

    @property
    def manifest(self) -> Path:
        return self.root / "artifacts/manifest.parquet"

    @property
    def validation(self) -> Path:
        return self.root / "reports/validation.json"

    @property
    def data_docs(self) -> Path:
        return self.root / "reports/data_docs"

    @property
    def split(self) -> Path:
        return self.root / "artifacts/split.parquet"

    @property
    def balance(self) -> Path:
        return self.root / "artifacts/balance.json"

    @property
    def checkpoint(self) -> Path:
        return self.root / "artifacts/checkpoint"

    @property
    def unfinished(self) -> Path:
        """What a training that was killed goes on from: not in ``home``, which experiments share."""
        return self.root / "artifacts/unfinished"

    @property
    def bundle(self) -> Path:
        return self.root / "artifacts/bundle"

    @property
    def leak(self) -> Path:
        return self.root / "artifacts/leak.json"

    @property
    def predictions(self) -> Path:
        return self.root / "artifacts/predictions.parquet"

    @property
    def champion_predictions(self) -> Path:
        return self.root / "artifacts/champion_predictions.parquet"

    @property
    def stress(self) -> Path:
        return self.root / STRESS_TABLE

    @property
    def performance(self) -> Path:
        return self.root / "reports/performance.json"

    @property
    def peeks(self) -> Path:
        return self.home / "peeks.json"

    @property
    def metrics(self) -> Path:
        return self.root / "reports/metrics.json"

    @property
    def curves(self) -> Path:
        return self.root / "reports/dvclive"

    @property
    def training(self) -> Path:
        return self.root / "reports/training.json"

    @property
    def plots(self) -> Path:
        return self.root / "reports/plots"

    @property
    def selection(self) -> Path:
        return self.root / "reports/select.json"

    @property
    def suspects(self) -> Path:
        return self.root / "reports/suspects.csv"

    @property
    def suspects_page(self) -> Path:
        return self.root / "reports/suspects.html"

    @property
    def compression(self) -> Path:
        return self.root / "reports/compression.csv"

    @property
    def replay(self) -> Path:
        return self.root / "reports/replay.json"

    @property
    def verdict(self) -> Path:
        return self.root / "reports/verdict.json"

    @property
    def verdict_page(self) -> Path:
        return self.root / "reports/verdict.html"

    @property
    def champion_pin(self) -> Path:
        return self.root / "champion-pin.json"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def registry(self) -> Path:
        return self.home / "registry"

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def journal(self) -> Path:
        return self.home / "journal.sqlite"

    @property
    def queue(self) -> Path:
        return self.home / "queue"

    @property
    def shadow_request(self) -> Path:
        return self.home / "shadow.json"

    @property
    def shadow(self) -> Path:
        return self.home / "shadow"

    @property
    def evidently(self) -> Path:
        return self.home / "evidently"

    @property
    def monitoring(self) -> Path:
        """index.html, and a folder of evidence for each episode."""
        return self.home / "monitoring"

    @property
    def gauges(self) -> Path:
        """What the watch last saw, for the service's /metrics: see ``GAUGES``."""
        return self.monitoring / "metrics.json"

    def relative(self, path: Path) -> str:
        """``path`` as a table names it: relative where it lies in the workspace, else absolute."""
        try:
            return path.absolute().relative_to(self.root.absolute()).as_posix()
        except ValueError:
            return path.absolute().as_posix()


def _checkout(root: Path) -> Path:
    """Where ``root`` was copied from, if DVC made it for an experiment; else ``root``.

    DVC_ROOT is DVC's name, for a stage, of the checkout that the experiment belongs to.
    """
    origin = Path(os.environ.get("DVC_ROOT") or root).resolve()
    return origin if root.is_relative_to(origin / ".dvc/tmp/exps") else root
