"""What the service makes of every kind of input: the real routes, decoder, network and log, in this process."""

import asyncio
import hashlib
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import ExifTags, Image

from pipeline.artifacts import Workspace, decode_embedding, decode_log_line
from pipeline.bundle import Bundle
from pipeline.errors import IntegrityError, ParamsError, StateError
from pipeline.images import decode
from pipeline.params import Log, Params, Serve
from services import settings
from services.engine import Engine
from services.http import app
from tests import tiny_bundle

RED, GREEN, BLUE = (200, 30, 40), (30, 200, 40), (30, 40, 200)
LIMIT = 300_000


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plain(colour: tuple[int, int, int] = RED) -> Image.Image:
    return Image.new("RGB", (64, 48), colour)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("service")
    tiny_bundle.make(folder / "bundle")
    params = Params(
        serve=Serve(max_body_bytes=LIMIT, max_pixels=1_000_000, max_in_flight=4, top_k=2, abstain_below=0.5),
        log=Log(keep_images=1.0),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONLOOP_BUNDLE", str(folder / "bundle"))
        made = Engine(params, Workspace(folder, folder / "var"))
        deadline = time.monotonic() + 120
        while not made.ready and time.monotonic() < deadline:
            time.sleep(0.01)
        yield made
        made.close()


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    app.state.engine = engine
    app.state.in_flight = 0
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made
    assert app.state.in_flight == 0, "every request gave its place back"


def rows(engine: Engine) -> dict[str, dict[str, Any]]:
    lines = [line for path in engine.place.log.glob("*/*.log") for line in path.read_bytes().splitlines(True)]
    found = [decode_log_line(line) for line in lines]
    return {row["request_id"]: row for row in found if row is not None}


def refused(answer: Any, status: int, error: str) -> str:
    """The detail, after checking status, word and shape."""
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert set(answer.json()) == {"error", "detail"}
    return str(answer.json()["detail"])


def test_the_answer_is_the_bundles_and_its_row_is_in_the_log(client: TestClient, engine: Engine) -> None:
    data = encoded(plain(), "JPEG", quality=95)
    answer = client.post("/v1/predict", content=data, headers={"X-Source": "line-a"})
    assert answer.status_code == 200
    body = answer.json()
    bundle = Bundle.load(engine.loaded.bundle.path)
    offline = bundle.predict(bundle.preprocessing.view(Image.open(io.BytesIO(data)))[None])
    assert body["label"] == "red"
    assert body["model"] == bundle.digest
    assert next(iter(body["probabilities"])) == "red"
    assert len(body["probabilities"]) == 2
    assert body["probabilities"]["red"] == pytest.approx(offline.probabilities[0, 0], abs=1e-6)
    assert body["abstain"] is False
    row = rows(engine)[body["request_id"]]
    assert row["image_id"] == hashlib.sha256(data).hexdigest()
    assert row["source"] == "line-a"
    assert row["label"] == "red"
    assert set(row["probabilities"]) == {"red", "green", "blue"}, (
        "the log has every class, the answer the top k"
    )
    assert decode_embedding(row["embedding"]) == pytest.approx(offline.embedding[0], abs=1e-2)
    assert set(row["statistics"]) == {"brightness", "contrast", "sharpness", "saturation", "width", "height"}
    assert (row["statistics"]["width"], row["statistics"]["height"]) == (64, 48)
    assert (engine.place.log / "images" / row["kept"]).read_bytes() == data


def test_the_kept_image_tells_no_place_and_its_name_is_its_hash(client: TestClient, engine: Engine) -> None:
    block = Image.Exif()
    block[ExifTags.Base.Orientation] = 6
    block[ExifTags.Base.ImageDescription] = "48.8584N"
    data = encoded(plain(), "JPEG", exif=block, comment=b"by Ann")
    request = client.post("/v1/predict", content=data).json()["request_id"]
    row = rows(engine)[request]
    assert row["image_id"] == hashlib.sha256(data).hexdigest(), "a client knows its image by what it sent"
    kept = engine.place.log / "images" / row["kept"]
    stored = kept.read_bytes()
    assert kept.stem == hashlib.sha256(stored).hexdigest() != row["image_id"]
    assert (row["statistics"]["width"], row["statistics"]["height"]) == (48, 64)
    assert np.array_equal(np.asarray(decode(stored).image), np.asarray(decode(data).image))
    assert b"48.8584N" not in stored
    assert b"Ann" not in stored


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("declared", ["image/png", "text/plain", None])
def test_formats_are_known_by_content(
    client: TestClient, engine: Engine, kind: str, declared: str | None
) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(plain(GREEN), kind, **options)
    answer = client.post("/v1/predict", content=data, headers={"Content-Type": declared} if declared else {})
    assert answer.json()["label"] == "green"
    suffix = {"JPEG": ".jpg", "WEBP": ".webp"}.get(kind, ".png")
    assert rows(engine)[answer.json()["request_id"]]["kept"].endswith(suffix)


def test_multipart_with_the_field_image(client: TestClient) -> None:
    files = {"image": ("../../x.jpg", encoded(plain(BLUE), "JPEG"), "text/html")}
    assert client.post("/v1/predict", files=files).json()["label"] == "blue"


def test_multipart_larger_than_a_spool_file(client: TestClient) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "BMP")
    assert 200_000 < len(data) < LIMIT
    assert client.post("/v1/predict", files={"image": data}).status_code == 200


def test_exif_orientation_alpha_16_bit_cmyk_and_animation(client: TestClient, engine: Engine) -> None:
    tall = Image.new("RGB", (40, 80), RED)
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = client.post("/v1/predict", content=encoded(tall, "JPEG", exif=exif))
    numbers = rows(engine)[answer.json()["request_id"]]["statistics"]
    assert (numbers["width"], numbers["height"]) == (80, 40)

    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))  # invisible red: white is what there is to see
    answer = client.post("/v1/predict", content=encoded(clear))
    assert rows(engine)[answer.json()["request_id"]]["statistics"]["brightness"] > 0.99

    deep = Image.fromarray(np.full((64, 64), 0x8000, dtype=np.uint16))
    answer = client.post("/v1/predict", content=encoded(deep))
    assert rows(engine)[answer.json()["request_id"]]["statistics"]["brightness"] == pytest.approx(
        0.5, abs=0.01
    )

    inks = Image.new("CMYK", (64, 64), (255, 255, 0, 0))  # cyan and magenta make blue
    assert client.post("/v1/predict", content=encoded(inks, "JPEG")).json()["label"] == "blue"

    moving = encoded(plain(RED), "WEBP", save_all=True, append_images=[plain(GREEN)], lossless=True)
    assert client.post("/v1/predict", content=moving).json()["label"] == "red"


@pytest.mark.parametrize(
    "data",
    [
        encoded(plain(), "JPEG")[:-200],
        encoded(Image.effect_noise((200, 200), 50), "PNG")[:5000],
        b"\xff\xd8\xff\xe0" + b"junk" * 50,
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["cut JPEG", "cut PNG", "junk behind a JPEG's start", "a PNG's start alone"],
)
def test_a_broken_image_is_400(client: TestClient, data: bytes) -> None:
    answer = client.post("/v1/predict", content=data)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "detail"}


@pytest.mark.parametrize(
    "data", [b"hello, I am no image", b"GIF89a" + b"\0" * 100, b"<svg></svg>", b"\x80\x04cposix\nsystem\n."]
)
def test_an_unknown_format_is_415(client: TestClient, data: bytes) -> None:
    refused(
        client.post("/v1/predict", content=data, headers={"Content-Type": "image/jpeg"}),
        415,
        "unknown_format",
    )


def test_float_pixels_are_415(client: TestClient) -> None:
    data = encoded(Image.new("F", (32, 32), 0.5), "TIFF")
    refused(client.post("/v1/predict", content=data), 415, "unsupported_mode")


def test_no_image_is_422(client: TestClient) -> None:
    refused(client.post("/v1/predict", content=b""), 422, "empty_body")
    refused(client.post("/v1/predict", files={"photo": b"x"}), 422, "missing_field")
    refused(client.post("/v1/predict", data={"image": "text"}, files={"other": b"x"}), 422, "missing_field")
    refused(client.post("/v1/predict", files={"image": b""}), 422, "empty_body")


def test_broken_multipart_is_400(client: TestClient) -> None:
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = client.post("/v1/predict", content=b"junk", headers={"Content-Type": content_type})
        assert answer.status_code in (400, 422)
        assert set(answer.json()) == {"error", "detail"}


def test_too_many_bytes_are_413_declared_chunked_and_multipart(client: TestClient) -> None:
    large = b"\xff\xd8\xff" + b"x" * LIMIT
    assert f"{LIMIT:,} bytes" in refused(client.post("/v1/predict", content=large), 413, "too_many_bytes")
    pieces = (large[start : start + 10_000] for start in range(0, len(large), 10_000))
    refused(client.post("/v1/predict", content=pieces), 413, "too_many_bytes")
    refused(client.post("/v1/predict", files={"image": large}), 413, "too_many_bytes")
    refused(client.post("/v1/predict", files={"image": large + b"x" * 200_000}), 413, "too_many_bytes")


def test_too_many_pixels_are_413_before_they_are_decoded(client: TestClient) -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    started = time.perf_counter()
    assert "50,000" in refused(client.post("/v1/predict", content=bomb), 413, "too_many_pixels")
    assert time.perf_counter() - started < 1


def test_a_tag_that_is_no_tag_is_422(client: TestClient, engine: Engine) -> None:
    data = encoded(plain())
    refused(client.post("/v1/predict", params={"source": "a\nb"}, content=data), 422, "unusable_source")
    refused(client.post("/v1/predict", params={"source": "x" * 101}, content=data), 422, "unusable_source")
    answer = client.post("/v1/predict", params={"source": "<b>Linie 3 ü</b>"}, content=data)
    assert rows(engine)[answer.json()["request_id"]]["source"] == "<b>Linie 3 ü</b>"


def test_it_abstains_below_the_stated_confidence(client: TestClient) -> None:
    answer = client.post("/v1/predict", content=encoded(Image.new("RGB", (64, 64), (90, 90, 90)))).json()
    assert answer["abstain"] is True
    assert max(answer["probabilities"].values()) < 0.5


def test_more_requests_than_may_be_in_flight_are_429(client: TestClient) -> None:
    app.state.in_flight = 4
    answer = client.post("/v1/predict", content=encoded(plain()))
    app.state.in_flight = 0
    refused(answer, 429, "too_many_requests")
    assert answer.headers["retry-after"] == "1"


def test_a_client_that_leaves_gives_its_place_back(engine: Engine) -> None:
    async def leave() -> None:
        messages = iter(
            [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]
        )

        async def receive() -> dict[str, Any]:
            return next(messages)

        async def send(message: dict[str, Any]) -> None:
            pass

        scope = {
            "type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict", "query_string": b"",
            "headers": [], "root_path": "", "scheme": "http", "server": ("x", 80), "client": ("x", 1),
        }  # fmt: skip
        await app(scope, receive, send)  # type: ignore[arg-type]

    app.state.engine, app.state.in_flight = engine, 0
    asyncio.run(leave())
    assert app.state.in_flight == 0


def test_the_model_is_named_with_its_classes_and_preprocessing(client: TestClient, engine: Engine) -> None:
    body = client.get("/v1/model").json()
    assert body["digest"] == engine.loaded.bundle.digest
    assert body["classes"] == ["red", "green", "blue"]
    assert body["preprocessing"]["image_size"] == 32
    assert body["champion"] is None
    assert body["log_mode"] == "durable"
    assert set(body) == set(
        client.get("/openapi.json").json()["components"]["schemas"]["Model"]["properties"]
    )


def test_other_methods_are_405(client: TestClient) -> None:
    refused(client.get("/v1/predict"), 405, "http")


def test_the_description_has_every_status(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert description == client.get("/docs.json").json()
    operation = description["paths"]["/v1/predict"]["post"]
    assert set(operation["responses"]) >= {"200", "400", "413", "415", "422", "429", "503"}
    assert "multipart/form-data" in operation["requestBody"]["content"]
    assert "https://" not in json.dumps(description), "nothing is loaded from elsewhere"


def test_before_it_is_ready_it_says_503(client: TestClient, engine: Engine) -> None:
    engine._stopped.set()
    try:
        for answer in (client.post("/v1/predict", content=encoded(plain())), client.get("/v1/model")):
            refused(answer, 503, "not_ready")
            assert "retry-after" in answer.headers
    finally:
        engine._stopped.clear()


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/model"])
def test_what_a_worker_is_asked_while_it_warms_up_waits_for_it(
    client: TestClient, engine: Engine, path: str
) -> None:
    # Another worker may have said that it is ready: /readyz is answered by any of them.
    loaded, engine._loaded = engine.loaded, None
    warm = threading.Timer(0.3, lambda: setattr(engine, "_loaded", loaded))
    warm.start()
    try:
        answer = client.get(path) if path == "/v1/model" else client.post(path, content=encoded(plain()))
    finally:
        warm.join()
    assert answer.status_code == 200, answer.text


def test_a_log_that_cannot_be_written_is_503_and_nothing_is_answered(
    client: TestClient, engine: Engine, tmp_path: Path
) -> None:
    rows_before = len(rows(engine))
    place = engine.loaded.log.folder
    (tmp_path / "file").write_text("no folder")
    engine.loaded.log.folder = tmp_path / "file"
    try:
        answer = client.post("/v1/predict", content=encoded(plain((201, 1, 2))))
    finally:
        engine.loaded.log.folder = place
    assert "can't be written" in refused(answer, 503, "log_unavailable")
    assert len(rows(engine)) == rows_before


def test_without_a_champion_it_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISIONLOOP_BUNDLE", raising=False)
    with pytest.raises(StateError, match=r"no champion in .*: `python -m flows\.release`"):
        settings.bundle_path(Workspace(tmp_path, tmp_path / "var"))


def test_a_bundle_made_with_another_preprocessing_is_refused(tmp_path: Path) -> None:
    tiny_bundle.make(tmp_path / "bundle")
    info = json.loads((tmp_path / "bundle/bundle.json").read_text())
    (tmp_path / "bundle/bundle.json").write_text(json.dumps(info | {"fingerprint": "0" * 64}))
    with pytest.raises(IntegrityError, match="this machine's preprocessing gives another result"):
        settings.open_bundle(tmp_path / "bundle", threads=1)


def test_a_registry_folder_that_holds_another_bundle_is_refused(tmp_path: Path) -> None:
    """Every file fits its digest, but it is not the bundle that the champion pointer names."""
    tiny_bundle.make(tmp_path / "bundles" / ("a" * 64))
    with pytest.raises(IntegrityError, match=r"bundle\.json has changed"):
        settings.open_bundle(tmp_path / "bundles" / ("a" * 64), threads=1)


def test_an_empty_token_is_refused_rather_than_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONLOOP_TOKEN", " ")
    with pytest.raises(ParamsError, match="set but empty"):
        settings.token()


def test_a_built_bento_does_not_write_into_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "bento/src"
    (source / "packed").mkdir(parents=True)
    monkeypatch.setattr(settings, "SOURCE", source)
    monkeypatch.setattr(settings, "PACKED", source / "packed")
    monkeypatch.delenv("VISIONLOOP_HOME", raising=False)
    monkeypatch.chdir(tmp_path / "bento")
    with pytest.raises(StateError, match="set VISIONLOOP_HOME"):
        settings.workspace()
    monkeypatch.setenv("VISIONLOOP_HOME", str(tmp_path / "state"))
    assert settings.workspace().home == tmp_path / "state"
