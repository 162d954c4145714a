"""Weights from everywhere, and what is said when they can't be had or don't fit."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts import Workspace, digest_file
from pipeline.errors import ParamsError, VisionloopError, WeightsError
from pipeline.params import Model
from tests import tiny_training

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")

from pipeline.backbone import Backbone, build, features, load  # noqa: E402
from pipeline.transfer import weights as places  # noqa: E402
from pipeline.transfer.features import cached_features  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.save_weights(tmp_path_factory.mktemp("weights") / "local")


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


def loaded(**model: object) -> Backbone:
    return load(Model(**model), root=Path("/"), seed=0)  # type: ignore[arg-type]


def test_a_local_dir_brings_its_preprocessing_and_its_model_arguments(folder: Path) -> None:
    backbone = loaded(weights=str(folder))
    preprocessing = backbone.preprocessing
    assert backbone.name == tiny_training.ARCHITECTURE
    assert backbone.kwargs == {"pad_type": "same"}
    assert (preprocessing.image_size, preprocessing.resize, preprocessing.interpolation) == (
        48,
        50,
        "bilinear",
    )
    assert preprocessing.std == (0.25, 0.25, 0.25)
    assert backbone.weights["digest"] == digest_file(folder / "model.safetensors")
    assert backbone.weights["licence"] == "apache-2.0"
    assert backbone.width == 1024  # of the layer before the classifier; num_features says 576
    pixels = torch.rand(2, 3, 48, 48)
    plain = build(backbone.name, {})
    plain.load_state_dict(backbone.module.state_dict())  # the same keys: only the arguments tell them apart
    with torch.inference_mode():
        answer = features(backbone.module, pixels)
        again = features(loaded(weights=str(folder / "model.safetensors")).module, pixels)
        assert answer.shape == (2, 1024)
        assert not torch.allclose(answer, features(plain.eval(), pixels), atol=1e-6)
    torch.testing.assert_close(answer, again)


def test_the_view_is_what_timm_would_show(folder: Path) -> None:
    from timm.data import create_transform, resolve_model_data_config

    backbone = loaded(weights=str(folder))
    theirs = create_transform(**resolve_model_data_config(backbone.module), is_training=False)
    generator = np.random.default_rng(0)
    for width, height in ((120, 80), (61, 203), (48, 48)):
        small = generator.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        ours = backbone.preprocessing.normalise(backbone.preprocessing.view(image)[None])[0]
        difference = np.abs(ours - theirs(image).numpy()) * 0.25 * 255
        assert difference.mean() < 0.6
        assert np.quantile(difference, 0.99) <= 3


def test_image_size_overrides_the_weights_own(folder: Path) -> None:
    preprocessing = loaded(weights=str(folder), image_size=64).preprocessing
    assert (preprocessing.image_size, preprocessing.resize) == (64, 66)


def test_none_is_random_and_seeded_and_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    first = loaded(weights="none", backbone=tiny_training.ARCHITECTURE)
    assert "random weights" in capsys.readouterr().err
    assert not first.pretrained
    assert (
        first.weights["digest"]
        == loaded(weights="none", backbone=tiny_training.ARCHITECTURE).weights["digest"]
    )
    assert load(Model(weights="none"), root=Path("/"), seed=1).weights["digest"] != first.weights["digest"]


def test_bundled_weights_are_said_to_be_for_the_sample(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(places, "BUNDLED", folder)
    assert loaded(weights="bundled").weights["source"] == "bundled"
    warning = capsys.readouterr().err
    assert "sample" in warning
    assert "hub" in warning
    monkeypatch.setattr(places, "BUNDLED", tmp_path / "gone")
    with pytest.raises(WeightsError, match="git checkout"):
        loaded(weights="bundled")


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ({"backbone": "mobilnetv3_smal_100"}, ParamsError, ["mobilenetv3_small_100"]),
        ({"backbone": "clip", "weights": "none"}, ParamsError, ["nearest: resnet50_clip"]),
        (
            {"backbone": "resnet18.a1_in1kk", "weights": "none"},
            ParamsError,
            ["no weights 'a1_in1kk' of resnet18", "resnet18.a1_in1k,"],
        ),
        ({"weights": "bundeld"}, WeightsError, ["did you mean 'bundled'", "no such file"]),
        ({"weights": "no/such/folder"}, WeightsError, ["no/such/folder"]),
        (
            {"weights": "none", "backbone": "vit_tiny_patch16_224", "image_size": 100},
            ParamsError,
            ["16", "96", "112"],
        ),
    ],
)
def test_what_does_not_exist_or_fit_is_refused_in_words(
    model: dict[str, object], kind: type[VisionloopError], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        loaded(**model)
    for word in words:
        assert word in str(caught.value)


def test_a_vit_takes_the_size_it_is_asked_for() -> None:
    backbone = loaded(weights="none", backbone="vit_tiny_patch16_224", image_size=96)
    assert backbone.kwargs == {"img_size": 96}
    assert backbone.width == 192
    rebuilt = build(backbone.name, backbone.kwargs)
    rebuilt.load_state_dict(backbone.module.state_dict())


def test_weights_of_another_architecture_name_the_keys_that_differ(folder: Path, damaged: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        loaded(weights=str(folder), backbone="resnet10t")
    for words in ("holds no resnet10t", "missing", "conv1.0.weight", "unexpected", "blocks.0"):
        assert words in str(caught.value)
    with pytest.raises(WeightsError, match="of another shape"):
        loaded(weights=str(folder), backbone="mobilenetv3_small_100")
    config = json.loads((damaged / "config.json").read_text())
    for name, words in (
        ("squeezenet1_3", "nearest: squeezenet1_1"),
        ("squeezenet1_0", "model_args.*pad_type"),
    ):
        (damaged / "config.json").write_text(json.dumps(config | {"architecture": name}))
        with pytest.raises(WeightsError, match=words):
            loaded(weights=str(damaged))


def test_weights_of_another_network_that_takes_the_same_tensors_are_refused(damaged: Path) -> None:
    """As efficientnet_b0 takes those of tf_efficientnet_b0, and pads otherwise."""
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"architecture": "resnet10t"}))
    with pytest.raises(
        WeightsError, match=r"says that these weights are a resnet10t.*model\.backbone to auto"
    ):
        loaded(weights=str(damaged), backbone=tiny_training.ARCHITECTURE)


def test_damaged_and_pickled_weights_are_never_loaded(damaged: Path) -> None:
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="damaged"):
        loaded(weights=str(damaged))
    file.rename(damaged / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="never loaded"):
        loaded(weights=str(damaged))
    with pytest.raises(WeightsError, match="never loaded"):
        loaded(weights=str(damaged / "pytorch_model.bin"), backbone=tiny_training.ARCHITECTURE)
    (damaged / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match="can't be read"):
        loaded(weights=str(damaged))
    (damaged / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        loaded(weights=str(damaged))


def test_a_lone_file_needs_the_architectures_name(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "lone.safetensors"
    shutil.copyfile(folder / "model.safetensors", file)
    with pytest.raises(WeightsError, match=r"model\.backbone"):
        loaded(weights=str(file))
    backbone = loaded(weights=str(file), backbone=tiny_training.ARCHITECTURE)
    assert backbone.preprocessing.image_size == 224  # the architecture's own


def test_offline_the_hub_fails_within_seconds_and_names_the_other_ways(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    started = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        loaded(weights="hub", backbone="resnet10t")
    assert time.monotonic() - started < 15
    for words in ("127.0.0.1:9", "bundled", "<path>", "none"):
        assert words in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        loaded(weights="hub", backbone="resnet10t")
    with pytest.raises(WeightsError, match="no published weights"):
        loaded(weights="hub", backbone="resnet50t")


def test_cached_features_are_the_same_bits_however_they_were_filled(folder: Path, tmp_path: Path) -> None:
    backbone = loaded(weights=str(folder))
    views = np.random.default_rng(0).integers(0, 256, (41, 48, 48, 3), dtype=np.uint8)
    ids = [f"{number:064x}" for number in range(41)]

    def of(home: str, rows: list[int]) -> np.ndarray:
        workspace = Workspace(tmp_path, tmp_path / home)
        return np.array(cached_features(workspace, backbone, views[rows], [ids[row] for row in rows]))

    whole = of("one", list(range(41)))
    for rows in ([3], [5, 4, 40], list(range(41))):
        pieces = of("two", rows)
        np.testing.assert_array_equal(pieces, whole[rows])
    mirrored = cached_features(
        Workspace(tmp_path, tmp_path / "one"), backbone, views[:, :, ::-1], ids, view="mirrored"
    )
    np.testing.assert_array_equal(mirrored, whole)


def test_a_network_that_answers_nan_is_damaged(damaged: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(damaged / "model.safetensors")
    state["conv_head.weight"] = torch.full_like(state["conv_head.weight"], float("nan"))
    save_file(state, damaged / "model.safetensors")
    backbone = loaded(weights=str(damaged))
    with pytest.raises(WeightsError, match="NaN"):
        cached_features(
            Workspace(tmp_path, tmp_path / "var"), backbone, np.zeros((1, 48, 48, 3), np.uint8), ["0" * 64]
        )


@pytest.mark.real
def test_real_weights_keep_their_padding_and_range(real_data: object) -> None:
    backbone = loaded(weights=str(real_data("weights") / "mobilenetv2_100_tf2ptq"))  # type: ignore[operator]
    assert backbone.kwargs == {"pad_type": "same"}
    assert backbone.preprocessing.mean == (0.5, 0.5, 0.5)
    assert (backbone.preprocessing.image_size, backbone.preprocessing.resize) == (224, 256)
    squeezenet = loaded(weights=str(real_data("weights") / "squeezenet1_0_deepcompression"))  # type: ignore[operator]
    assert (squeezenet.name, squeezenet.width) == ("squeezenet1_0", 512)
    assert squeezenet.preprocessing.mean == (0.485, 0.456, 0.406)
    assert squeezenet.preprocessing.interpolation == "bilinear"
