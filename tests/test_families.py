"""Every family of backbones goes the whole way: load, freeze, train, export, and answer in the service.

Random weights, the smallest variant of each family and the smallest image that it takes.
"""

import asyncio
import io
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import bundle as bundle_verb
from pipeline import train as train_verb
from pipeline.artifacts import Workspace, digest_file
from pipeline.backbone import Backbone, features, load
from pipeline.bundle import Bundle, open_session
from pipeline.errors import ParamsError, WeightsError
from pipeline.images import decode
from pipeline.params import Bundle as BundleParams
from pipeline.params import Model, Params
from pipeline.selection.scoring import sample, score
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.cut import cut
from pipeline.transfer.exporter import write_onnx
from pipeline.transfer.features import cached_features
from pipeline.transfer.feeds import PixelFeed
from pipeline.transfer.freeze import freeze, layer_of, lowest_trained
from pipeline.transfer.imbalance import Plan
from pipeline.transfer.loop import fit
from pipeline.transfer.recipe import Recipe
from pipeline.transfer.steps import Labelled
from services.engine import Engine
from tests import tiny_training

pytestmark = pytest.mark.slow
CLASSES = tiny_training.CLASSES
FAMILIES = [
    ("resnet10t", 32),
    ("efficientnet_b0", 32),
    ("mobilenetv2_035", 32),
    ("mobilenetv3_small_050", 32),
    ("mobilenetv4_conv_small_035", 32),
    ("densenet121", 32),
    ("vgg11", 224),
    ("inception_v3", 75),
    ("squeezenet1_0", 21),
    ("squeezenet1_1", 17),
    ("convnext_atto", 32),
    ("vit_tiny_patch16_224", 16),
    ("vit_xsmall_patch16_clip_224", 16),  # CLIP's image tower, as a ViT
    ("resnet50_clip", 32),  # and as a ResNet that pools by attention
]


def loaded(**model: object) -> Backbone:
    return load(Model(**model), root=Path("/"), seed=0)  # type: ignore[arg-type]


def pictures(backbone: Backbone, count: int) -> Labelled:
    """``count`` pictures, the last third of which validates."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    opened = [Image.open(io.BytesIO(tiny_training.picture(CLASSES[label], generator))) for label in labels]
    views = np.stack([backbone.preprocessing.view(image) for image in opened])
    rows = np.arange(count)
    names = [f"picture-{number}.png" for number in rows]
    trained = rows[: count * 2 // 3]
    weights = {label: {"weight": 1.0} for label in CLASSES}
    plan = Plan.of({"plan": "none", "classes": weights}, labels[trained], CLASSES)
    feed = PixelFeed(views, backbone.preprocessing, seed=0)
    return Labelled(feed, labels, names, trained, rows[count * 2 // 3 :], plan)


def settle(module: nn.Module, pixels: torch.Tensor) -> None:
    """Give BatchNorms the statistics of ``pixels``: with those that they start from, random Inception explodes."""
    norms = [(norm, norm.momentum) for norm in module.modules() if isinstance(norm, _BatchNorm)]
    for norm, _ in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        features(module.train(), pixels)
    for norm, momentum in norms:
        norm.momentum = momentum
    module.eval()


def prepared(name: str, size: int) -> tuple[Backbone, Labelled, Classifier]:
    backbone = loaded(backbone=name, weights="none", image_size=size)
    images = pictures(backbone, 9 if name.startswith("vgg") else 18)  # 129 million parameters take their time
    settle(backbone.module, images.feed.plain(np.arange(len(images.labels))))
    torch.manual_seed(0)
    classifier = Classifier(backbone.module, backbone.width, len(CLASSES))
    nn.init.normal_(classifier.head.weight, std=0.01)
    return backbone, images, classifier.eval()


@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_a_family_freezes_trains_and_exports(name: str, size: int) -> None:
    backbone, images, classifier = prepared(name, size)
    layers = list(layer_of(backbone.module).values())
    assert layers == sorted(layers)  # from the image up, as the parameters are defined
    assert len(set(layers)) > 3
    frozen = {f"backbone.{tensor}" for tensor in freeze(classifier, 0.5, keep_statistics=False)}
    before = {tensor: value.clone() for tensor, value in classifier.state_dict().items()}
    recipe = Recipe(epochs=1, seed=0, batch_size=len(images.train) // 2, learning_rate=1e-3)
    fit(classifier, classifier, images, recipe)
    moved = {
        tensor for tensor, value in classifier.state_dict().items() if not torch.equal(value, before[tensor])
    }
    assert frozen
    assert not moved & frozen
    learnt = {tensor for tensor, value in classifier.named_parameters() if value.requires_grad}
    assert len(moved & learnt) > 0.5 * len(learnt)  # a branch that starts at zero holds back what feeds it
    pixels = images.feed.plain(np.arange(5))
    lower, upper, _ = cut(classifier, lowest_trained(backbone.module, 0.5))
    with torch.inference_mode():
        assert torch.equal(upper(lower(pixels))[0], classifier(pixels)[0])  # in two halves, the same bits
    _answers_alike(classifier, backbone, images.feed.views[:5])  # type: ignore[attr-defined]


def _answers_alike(classifier: Classifier, backbone: Backbone, views: np.ndarray) -> None:
    """ONNX Runtime gives torch's logits and embeddings, for one image and for several."""
    info = {
        "classes": list(CLASSES),
        "preprocessing": backbone.preprocessing.to_dict(),
        "temperature": 1.0,
        "embedding_size": backbone.width,
    }
    with tempfile.TemporaryDirectory() as place:  # half a gigabyte of VGG is not to stay in pytest's folder
        folder = Path(place)
        write_onnx(classifier, backbone.preprocessing.image_size, folder / "model.onnx")
        bundle = Bundle(folder, "", info, open_session(folder, info, None))
        for count in (1, 5):
            answer = bundle.predict(views[:count])
            with torch.inference_mode():
                pixels = torch.from_numpy(backbone.preprocessing.normalise(views[:count]))
                logits, embedding = (values.numpy() for values in classifier(pixels))
            np.testing.assert_allclose(answer.logits, logits, atol=BundleParams().max_parity_error)
            np.testing.assert_allclose(answer.embedding, embedding, rtol=1e-3, atol=1e-3)


@pytest.fixture
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.usefixtures("no_thread_stays")
@pytest.mark.parametrize("name", ["squeezenet1_1", "vit_xsmall_patch16_clip_224"])
def test_a_family_is_served_from_its_bundle(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = tiny_training.make(tmp_path / "w", "none", train={"strategy": "probe"})
    content = json.loads(workspace.params.read_text())
    content["model"] |= {"backbone": name, "image_size": 48}
    workspace.params.write_text(json.dumps(content))
    params = Params.load(workspace.params)
    assert train_verb.run(workspace, params) == 0
    assert bundle_verb.run(workspace, params) == 0
    bundle = Bundle.load(workspace.bundle)
    monkeypatch.setenv("VISIONLOOP_BUNDLE", str(workspace.bundle))
    engine = Engine(params, workspace)
    try:
        deadline = time.monotonic() + 120
        while not engine.ready and time.monotonic() < deadline:
            time.sleep(0.02)
        path = next((workspace.root / "images/dots").iterdir())
        reply = asyncio.run(engine.answer(path.read_bytes(), "test"))
    finally:
        engine.close()
    with Image.open(path) as image:
        expected = bundle.predict(bundle.preprocessing.view(image)[None]).probabilities[0]
    assert reply["model"] == bundle.digest
    assert reply["label"] == bundle.classes[int(expected.argmax())]
    assert reply["probabilities"] == pytest.approx(
        dict(zip(bundle.classes, expected.tolist(), strict=True)), abs=1e-5
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"backbone": "squeezenet1_2"}, ["squeezenet1_2", "squeezenet1_1", "timm", "torchvision"]),
        ({"backbone": "squeezenet1_0", "image_size": 20}, ["20 px", "at least 21"]),
        ({"backbone": "inception_v3", "image_size": 74}, ["74 px", "at least 75"]),
        ({"backbone": "vgg11", "image_size": 192}, ["192 px", "7 x 7", "6 x 6", "at least 224"]),
        ({"backbone": "vit_tiny_patch16_224", "image_size": 30}, ["16 px", "take 16 or 32"]),
        ({"backbone": "vit_medium_patch32_clip_224", "image_size": 24}, ["32 px", "take 32,"]),
    ],
)
def test_what_a_family_cannot_take_is_refused_with_what_it_can(
    model: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ParamsError) as caught:
        loaded(weights="none", **model)
    for word in words:
        assert word in str(caught.value)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torchvision state dict beside a config.json with its data config at the top level."""
    from safetensors.torch import save_file
    from torchvision.models import get_model

    folder = tmp_path_factory.mktemp("weights") / "squeezenet"
    folder.mkdir()
    torch.manual_seed(0)
    save_file(get_model("squeezenet1_1", num_classes=11).state_dict(), folder / "model.safetensors")
    config = {
        "library": "torchvision",
        "architecture": "squeezenet1_1",
        "num_classes": 11,
        "input_size": [3, 64, 64],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "license": "bsd-3-clause",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_torchvision_state_dict_brings_its_preprocessing_and_leaves_its_classifier(
    squeezenet: Path,
) -> None:
    from torchvision.models import get_model

    backbone = loaded(weights=str(squeezenet))
    preprocessing = backbone.preprocessing
    assert (backbone.name, backbone.width, backbone.pretrained) == ("squeezenet1_1", 512, True)
    assert (preprocessing.mean, preprocessing.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert (preprocessing.image_size, preprocessing.resize, preprocessing.interpolation) == (
        64,
        73,
        "bilinear",
    )
    assert backbone.weights["licence"] == "bsd-3-clause"
    assert not any(tensor.startswith("classifier") for tensor in backbone.module.state_dict())
    torch.manual_seed(0)
    theirs = get_model("squeezenet1_1", num_classes=11).eval()
    pixels = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            features(backbone.module, pixels), theirs.features(pixels).mean(dim=(2, 3))
        )


def test_our_squeezenet_with_its_classifier_is_torchvisions() -> None:
    import timm
    from torchvision.models import get_model

    for name in ("squeezenet1_0", "squeezenet1_1"):
        ours, theirs = timm.create_model(name, num_classes=5).eval(), get_model(name, num_classes=5).eval()
        theirs.load_state_dict(ours.state_dict())
        pixels = torch.rand(2, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(ours(pixels), theirs(pixels))


def test_weights_of_the_other_squeezenet_name_the_keys_that_differ(squeezenet: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        loaded(weights=str(squeezenet), backbone="squeezenet1_0")
    for words in ("holds no squeezenet1_0", "missing", "unexpected", "of another shape", "features.0.weight"):
        assert words in str(caught.value)


@pytest.mark.real
def test_real_squeezenet_knows_more_than_a_random_one(real_data: object, tmp_path: Path) -> None:
    """A cross-validated probe on its frozen features of defects in magnetic tiles."""
    folder = real_data("magnetic_tile") / "magnetic_tile/images"  # type: ignore[operator]
    files = sorted(folder.glob("*/*.jpg"))[::3]
    rows = [
        {
            "image_id": digest_file(file),
            "path": str(file),
            "label": file.parent.name,
            "group": file.stem,
            "split": "train",
        }
        for file in files
    ]
    images = sample(rows, 0)
    weights = str(real_data("weights") / "squeezenet1_0_deepcompression")  # type: ignore[operator]
    scores = []
    for model in ({"weights": weights}, {"weights": "none", "backbone": "squeezenet1_0"}):
        backbone = loaded(**model)
        assert backbone.name == "squeezenet1_0"
        views = np.stack([backbone.preprocessing.view(decode(file.read_bytes()).image) for file in files])
        values = cached_features(Workspace(tmp_path, tmp_path / "var"), backbone, views, images.image_ids)
        scores.append(score(np.asarray(values), images, 0))
    print([(round(one.accuracy, 3), one.interval) for one in scores], len(files))
    assert scores[0].interval[0] > scores[1].interval[1] + 0.05
