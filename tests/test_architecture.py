"""Who may import whom, read from the imports themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from services import bento

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "flows", "services", "monitoring")
LEARNING = (
    "pipeline/backbone.py",
    "pipeline/train.py",
    "pipeline/pretrain.py",
    "pipeline/pretraining/",
    "pipeline/transfer/",
)

# library → the only places that may import it
ONLY_IN = {
    "prefect": ("flows/",),
    "bentoml": ("services/", "flows/release.py"),
    "great_expectations": ("pipeline/validate.py", "pipeline/expectations.py"),
    "evidently": ("monitoring/dashboard/",),
    "fsspec": ("monitoring/archive.py",),
    "torch": LEARNING,
    "torchvision": LEARNING,
    "timm": LEARNING,
}
SERVICES_MAY = {
    "artifacts", "bundle", "images", "metadata", "transforms", "registry", "params", "errors", "clock",
}  # fmt: skip
MONITORING_MAY = {"params", "artifacts", "registry", "errors", "images", "metadata", "clock"}


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every dotted name that a module imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offences(allowed: dict[str, tuple[str, ...]]) -> list[str]:
    found = []
    for path in modules():
        place = path.relative_to(ROOT).as_posix()
        for name in imports(path):
            rooms = allowed.get(name.split(".")[0])
            if rooms is not None and not place.startswith(rooms):
                found.append(f"{place} imports {name}; only {', '.join(rooms)} may")
    return found


def test_each_library_stays_in_its_rooms() -> None:
    assert offences(ONLY_IN) == []


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("pipeline", {"flows", "services", "monitoring"}),
        ("services", {"flows", "monitoring"}),
        ("monitoring", {"flows", "services"}),
    ],
)
def test_packages_point_one_way(package: str, forbidden: set[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in imports(path)
        if name.split(".")[0] in forbidden
    ]
    assert found == []


@pytest.mark.parametrize(("package", "may"), [("services", SERVICES_MAY), ("monitoring", MONITORING_MAY)])
def test_service_and_monitoring_see_only_the_contracts(package: str, may: set[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in imports(path)
        if name.startswith("pipeline.") and name.split(".")[1] not in may
    ]
    assert found == []


def test_nobody_imports_the_benchmarks_and_the_rivals_import_nothing_of_ours() -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        for name in imports(path)
        if name.split(".")[0] in {"benchmarks", "fastai"}
    ]
    found += [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / "benchmarks/rivals").glob("*.py"))
        for name in imports(path)
        if name.split(".")[0] in PACKAGES
        or (name.startswith("benchmarks.") and not name.startswith("benchmarks.rivals."))
    ]
    assert found == []


def test_no_pickle_is_ever_loaded() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules()
        for name in imports(path)
        if name.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib"} or name == "torch.load"
    ]
    found += [
        f"{path.relative_to(ROOT)}: torch.load"
        for path in modules()
        if "torch.load(" in path.read_text(encoding="utf-8")
    ]
    assert found == []


@pytest.mark.parametrize(
    "module",
    ["evaluate", "gate", "split", "balance", "ingest", "bundle", "registry", "select"],
)
def test_verbs_without_learning_do_not_pay_for_torch(module: str) -> None:
    """Follow the imports at module level: torch must not be reachable from these verbs."""
    seen: set[str] = set()
    queue = [f"pipeline.{module}"]
    while queue:
        name = queue.pop()
        path = ROOT / (name.replace(".", "/") + ".py")
        if name in seen or not path.exists():
            continue
        seen.add(name)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                queue += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                queue += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert not any(n.split(".")[0] in {"torch", "timm", "torchvision"} for n in queue), (
                f"{name} pays for torch"
            )


def test_no_registry_address_is_in_the_repository() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert "--index-url" not in lock
    assert "--hash=sha256:" in lock
    rivals = (ROOT / "benchmarks/rivals/requirements.txt").read_text(encoding="utf-8")
    assert "://" not in rivals
    assert "-url" not in rivals


# What only says where and how things are kept: it can't change what a stage computes.
KEEPING = {
    "errors",
    "params",
    "telemetry",
    "artifacts",
    "folders",
    "lock",
    "registry",
    "history",
    "answers",
    "clock",
}


def needed(module: str) -> set[str]:
    """The project files that importing ``module`` runs."""
    seen: set[str] = set()
    queue = [module]
    while queue:
        name = queue.pop()
        path = ROOT / (name.replace(".", "/") + ".py")
        if not name.startswith("pipeline.") or name in seen or not path.exists():
            continue
        seen.add(name)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                queue += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                queue += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return {name.replace(".", "/") + ".py" for name in seen if name.split(".")[1] not in KEEPING}


def test_each_stage_depends_on_the_code_that_it_runs() -> None:
    """A stage whose code changed must not be taken for up to date."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    missing = []
    for name, stage in stages.items():
        body = stage.get("do", stage)
        verb = body["cmd"].split()[3]
        files = needed(f"pipeline.{'ingest' if verb == 'scan' else verb}")
        if verb == "bundle":  # loading is its own half; the verb exports
            files |= needed("pipeline.transfer.export")
        deps = body.get("deps", [])
        missing += [
            f"{name}: {file}"
            for file in sorted(files)
            if not any(file == d or file.startswith(f"{d}/") for d in deps)
        ]
        missing += [
            f"{name}: {d} does not exist" for d in deps if d.endswith(".py") and not (ROOT / d).exists()
        ]
    assert missing == []


def test_a_bento_holds_every_module_that_the_service_imports() -> None:
    packed = {f"pipeline/{name}.py" for name in bento.PIPELINE}
    services = [path for path in (ROOT / "services").glob("*.py") if path.name != "bento.py"]
    wanted = {
        file
        for path in services
        for name in imports(path)
        for file in needed(name) | needed(name.rpartition(".")[0])
    }
    assert wanted - packed == set()
