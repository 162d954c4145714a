"""Where weights are found: bundled, on the Hub, in a folder or file, or nowhere at all.

Nothing is loaded here but headers; no pickled checkpoint is ever read, from anywhere.
"""

import difflib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

import pipeline.transfer.torchvision_backbone  # noqa: F401  (registers SqueezeNet with timm)
from pipeline.errors import ParamsError, WeightsError
from pipeline.params import Model

__all__ = ["Found", "check_name", "find"]

BUNDLED = Path(__file__).resolve().parent.parent / "weights/bundled"
DEFAULT = "mobilenetv3_small_100"  # for ``backbone: auto`` where the weights don't name their architecture
# What torchvision's own inference preset asks for, where its weights' config.json does not say.
TORCHVISION = {"interpolation": "bilinear", "crop_pct": 0.875}
DATA_CONFIG = (
    "input_size",
    "mean",
    "std",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "num_classes",
    "license",
)
NAMED = 8  # names in an error, where none is near
PROBE_SECONDS = 5.0  # to find out whether the Hub answers; its own retries take most of a minute
OTHER_WAYS = (
    "Other ways, in params.yaml: model.weights: bundled (for the sample), model.weights: <path> (a timm local-dir "
    "or a safetensors file), model.weights: none (random)"
)


@dataclass(frozen=True)
class Found:
    """Weights that were found: architecture, its arguments, the file, and the data config beside it."""

    name: str
    kwargs: dict[str, Any]
    config: dict[str, Any]  # timm's pretrained_cfg, to lay over the architecture's own
    file: Path | None
    source: str
    licence: str | None
    declared: str | None = None  # the architecture that config.json names, where params.yaml names another


def find(model: Model, root: Path) -> Found:
    """The weights that params.yaml's section ``model`` asks for, with a warning where one is due.

    Raises:
        WeightsError: they are missing, unreachable, or of a kind that is never loaded.
        ParamsError: there is no such architecture.
    """
    found = _search(model, root)
    if found.source == "bundled":
        text = "the bundled weights are made for the embedded sample; for images of your own set model.weights to hub or a path"
        print(f"warning: {text}", file=sys.stderr)
    elif found.source == "none":
        text = "model.weights is none: the network starts from random weights, which is for comparison only"
        print(f"warning: {text}", file=sys.stderr)
    return found


def _search(model: Model, root: Path) -> Found:
    named = None if model.backbone == "auto" else model.backbone
    if named is not None:
        check_name(named)
    if model.weights == "none":
        return Found(named or DEFAULT, {}, {}, None, "none", None)
    if model.weights == "hub":
        return _hub(named or DEFAULT)
    if model.weights == "bundled":
        if not (BUNDLED / "config.json").is_file():
            raise WeightsError(f"{BUNDLED} is missing: restore it with git checkout. {OTHER_WAYS}")
        return _folder(BUNDLED, named, "bundled")
    path = root / Path(model.weights).expanduser()
    if path.is_dir():
        return _folder(path, named, model.weights)
    if not path.is_file():
        near = difflib.get_close_matches(model.weights, ["bundled", "hub", "none"], n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise WeightsError(
            f"model.weights {model.weights!r}: no such file or folder below {root}{hint}. It is bundled, hub, none, or a path"
        )
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"model.weights {path} is no .safetensors file; pickled checkpoints are never loaded"
        )
    if (path.parent / "config.json").is_file():  # its preprocessing and arguments belong to the weights
        return _folder(path.parent, named, model.weights, path.name)
    if named is None:
        raise WeightsError(
            f"model.weights {path} has no config.json beside it: name its architecture in model.backbone"
        )
    return Found(named, {}, {}, path, model.weights, None)


def _folder(folder: Path, named: str | None, source: str, file: str = "model.safetensors") -> Found:
    """A timm local-dir, as ``timm.models.save_for_hf`` writes it, or a torchvision state dict with its papers."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        pretrained = _torchvision(config) or dict(config.get("pretrained_cfg", {}))
        arguments = dict(config.get("model_args") or {})
        name = str(config["architecture"])
    except FileNotFoundError as error:
        raise WeightsError(f"model.weights {folder} is no timm local-dir: it has no config.json") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{folder}/config.json can't be read ({error!r})") from error
    if not (folder / file).is_file():
        raise WeightsError(f"{folder} has no {file}; other formats (pickled ones) are never loaded")
    try:
        check_name(name)
    except ParamsError as error:
        raise WeightsError(f"{folder}/config.json: {error}") from error
    licence = pretrained.get("license")
    own = named is None or named.split(".")[0] == name
    return Found(
        named or name, arguments if own else {}, pretrained if own else {}, folder / file, source, licence,
        None if own else name,
    )  # fmt: skip


def _torchvision(config: dict[str, Any]) -> dict[str, Any]:
    """timm's form of the data config that stands at the top level where ``library`` is torchvision; else {}."""
    if config.get("library") != "torchvision":
        return {}
    return TORCHVISION | {name: config[name] for name in DATA_CONFIG if name in config}


def _hub(name: str) -> Found:
    """timm's published weights, from the Hub's cache or downloaded; never a pickled file."""
    import huggingface_hub
    from huggingface_hub import constants
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise WeightsError(f"model.backbone {name} has no published weights. {OTHER_WAYS}")
    place = config.hf_hub_id
    file = config.hf_hub_filename or "model.safetensors"
    if not file.endswith(".safetensors"):
        raise WeightsError(
            f"model.backbone {name}: {place} publishes {file}, which is not safetensors. {OTHER_WAYS}"
        )
    cached = huggingface_hub.try_to_load_from_cache(place, file)
    if not isinstance(cached, str):
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _unreachable(constants.ENDPOINT)
        if reason is None:
            try:
                cached = huggingface_hub.hf_hub_download(place, file)
            except (OSError, ValueError) as error:  # the Hub's own errors are kinds of these
                reason = str(error).splitlines()[0]
        if not isinstance(cached, str):
            raise WeightsError(
                f"model.weights hub: {place}/{file} can't be downloaded ({reason}). {OTHER_WAYS}"
            )
    return Found(name, {}, {}, Path(cached), f"hub:{place}", config.license)


def _unreachable(endpoint: str) -> str | None:
    """Why the Hub does not answer within seconds; None where it does. Proxies are honoured."""
    import threading

    from huggingface_hub import get_session

    outcome: list[str | None] = [f"{endpoint} did not answer within {PROBE_SECONDS:.0f} s"]

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=PROBE_SECONDS)
            outcome[0] = None
        except Exception as error:  # whatever the HTTP library raises, the Hub is out of reach
            outcome[0] = f"{endpoint}: {type(error).__name__}: {error}"

    thread = threading.Thread(target=ask, daemon=True)  # a name lookup has no timeout of its own
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    return outcome[0]


def check_name(name: str) -> None:
    """Raises ParamsError, with the nearest names, where neither timm nor our torchvision adapter has ``name``."""
    from timm.models import get_pretrained_cfg

    architecture, dot, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        near = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5)
        if not near and architecture:  # a short name is near to none, but part of many
            near = sorted((one for one in known if architecture.lower() in one), key=len)[:NAMED]
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ParamsError(
            f"model.backbone {name!r} is no architecture of timm {timm.__version__}, nor torchvision's SqueezeNet{hint}"
        )
    if not dot:
        return
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [other.partition(".")[2] for other in timm.list_pretrained(f"{architecture}.*")]
        near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.5) or tags[:NAMED]
        raise ParamsError(
            f"model.backbone {name!r}: timm {timm.__version__} has no weights {tag!r} of {architecture}"
            + (f"; nearest: {', '.join(f'{architecture}.{one}' for one in near)}" if near else "")
        ) from error
