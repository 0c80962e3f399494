"""infer.py --serve True over HTTP: the answers of infer.py, what is refused and how, and a stop that loses nothing."""
import contextlib
import csv
import io
import json
import os
import re
import signal
import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import config_for, make_images
from PIL import Image

import infer
from src.confidence import Confidence
from src.errors import UserError
from src.serving import start
from tests.support.serving import CLASSES, JPEG, Body, Connection, form, predict, write_model
from tools.load_test import Server, started_server

for package in start.PACKAGES:
    pytest.importorskip(package, reason="needs requirements-serve.txt")

LIMITS = ("--host", "0.0.0.0", "--upload_mb", 0.1, "--upload_megapixels", 1, "--queue_length", 2,
          "--request_seconds", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "best.ckpt")


@pytest.fixture(scope="module")
def holiday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several colours, sizes and formats, with some that MindSpore's own decoder does not read right."""
    root = make_images(tmp_path_factory.mktemp("holiday"), {"blue": 3, "red": 3}, size=(150, 110))
    make_images(root, {"green": 2}, size=(70, 130), ending=".png", seed=1)
    make_images(root, {"webp": 1}, size=(90, 90), ending=".webp", seed=2)
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(root / "blue" / "000.jpg") as image:
        image.save(root / "turned.jpg", exif=turned)
    Image.fromarray(np.arange(80 * 90, dtype=np.uint16).reshape(80, 90) * 9).save(root / "grey16.png")
    return root


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for temporary files of the servers."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def server(model: Path, uploads: Path) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(uploads))
            started = stack.enter_context(started_server(model))
        yield started


@pytest.fixture(scope="module")
def strict(model: Path) -> Iterator[Server]:
    """A server for other machines, with narrow limits."""
    with started_server(model, *LIMITS) as started:
        yield started


@pytest.fixture(scope="module")
def image(holiday: Path) -> bytes:
    return (holiday / "blue" / "000.jpg").read_bytes()


def with_token(server: Server) -> dict[str, str]:
    return {**JPEG, "Authorization": f"Bearer {server.token}"}


def requests_at_work(server: Server) -> int:
    connection = Connection(server)
    try:
        return json.loads(connection.ask("GET", "/healthz")[1])["requests"]
    finally:
        connection.close()


def wait_for_requests(server: Server, count: int) -> None:
    while requests_at_work(server) != count:
        pass


# ---- answers

def test_the_answers_are_those_of_infer(server: Server, model: Path, holiday: Path, tmp_path: Path) -> None:
    assert {row["unsure"] for row in assert_answers_are_those_of_infer(server, model, holiday, tmp_path)} == {""}


@pytest.mark.parametrize("framing", [{"crop_mode": "pad"}, {"crop_mode": "squash", "interpolation": "bicubic"},
                                     {"crop_pct": 0.6}], ids=str)
def test_they_follow_framing_and_confidence(framing: dict, holiday: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "best.ckpt", Confidence(3.0, 0.445), **framing)
    with started_server(model) as other:
        connection = Connection(other)
        told = json.loads(connection.ask("GET", "/model.json")[1])["preprocessing"]
        connection.close()
        rows = assert_answers_are_those_of_infer(other, model, holiday, tmp_path)
    assert {key: told[key] for key in framing} == framing
    assert {row["unsure"] for row in rows} == {"0", "1"}


def assert_answers_are_those_of_infer(server: Server, model: Path, holiday: Path, tmp_path: Path) -> list[dict]:
    """Returns the rows of infer.py's CSV."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["x", "--platform", "CPU", "--cpu_kernels", "off", "--model", str(model),
                                    "--images", str(holiday), "--predictions", str(tmp_path)])
        infer.main()
    with (tmp_path / "predictions.csv").open(encoding="utf-8") as file:
        expected = list(csv.DictReader(file))
    assert len(expected) == 11
    assert len({row["class"] for row in expected}) > 1
    for row in expected:
        status, answer, _ = predict(server, Path(row["file"]).read_bytes(), {"Content-Type": "image/x-any"})
        assert (status, len(answer["classes"])) == (200, len(CLASSES))
        for rank, found in enumerate(answer["classes"], 1):
            suffix = f"_{rank}" if rank > 1 else ""
            assert found["class"] == row[f"class{suffix}"]
            assert abs(found["probability"] - float(row[f"probability{suffix}"])) < 1e-3
        assert answer["unsure"] == {"1": True, "0": False, "": None}[row["unsure"]]
        assert np.shape(answer["activation_map"]) == (2, 2)
        assert set(answer["milliseconds"]) == {"decode", "network"}
    return expected


def test_a_form_and_a_body_of_unknown_length_do_as_well(server: Server, image: bytes) -> None:
    expected = predict(server, image)[1]["classes"]
    body, headers = form(image)
    assert predict(server, body, headers)[1]["classes"] == expected
    assert predict(server, iter([image[:100], image[100:]]), JPEG)[1]["classes"] == expected
    assert predict(server, image, {})[1]["classes"] == expected


def test_many_at_a_time_get_their_own_answers(server: Server, holiday: Path) -> None:
    images = [path.read_bytes() for path in sorted(holiday.rglob("*.*g"))]
    expected = [predict(server, image)[1] for image in images]
    with ThreadPoolExecutor(30) as pool:
        found = list(pool.map(lambda image: predict(server, image), images * 12))
    assert [status for status, *_ in found] == [200] * len(found)
    for number, (_, answer, _) in enumerate(found):
        wanted = expected[number % len(images)]
        assert answer["classes"][0]["class"] == wanted["classes"][0]["class"]
        np.testing.assert_allclose([item["probability"] for item in answer["classes"]],
                                   [item["probability"] for item in wanted["classes"]], atol=1e-3)
        np.testing.assert_allclose(answer["activation_map"], wanted["activation_map"], atol=1e-2)


def test_an_onnx_file_is_served_without_a_map(model: Path, image: bytes, server: Server, tmp_path: Path) -> None:
    from src.checkpoint.file import read_checkpoint
    from src.deployment.exporter import ExportOptions, deployable, export
    checkpoint = read_checkpoint(model)
    options = ExportOptions(64, batch_size=2, normalise=True, softmax=True)
    config = config_for("--width_mult", 0.35)
    export(deployable(checkpoint, config, options), options, tmp_path / "m.onnx", checkpoint.classes)
    with started_server(tmp_path / "m.onnx") as other:
        status, answer, _ = predict(other, image)
    assert (status, answer["activation_map"]) == (200, None)
    wanted = predict(server, image)[1]["classes"]
    assert [item["class"] for item in answer["classes"]] == [item["class"] for item in wanted]


# ---- what is refused

def bomb(side: int) -> bytes:
    """A PNG of side x side grey pixels in a small file."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = zlib.compress(bytes(side // 8 + 1) * side, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)) \
        + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def refused(server: Server, body: Body, headers: dict[str, str], status: int, says: str) -> None:
    found, answer, _ = predict(server, body, headers)
    assert (found, list(answer)) == (status, ["error"])
    assert says in answer["error"]
    assert "\n" not in answer["error"]


def test_bad_uploads_are_refused_by_name(server: Server, image: bytes) -> None:
    refused(server, b"no image", JPEG, 422, "not an image")
    refused(server, b"", JPEG, 422, "empty")
    refused(server, image[:len(image) // 2], JPEG, 422, "cannot be read")
    refused(server, image, {"Content-Type": "text/plain"}, 415, "text/plain is no image")
    refused(server, bomb(12000), JPEG, 422, "144 megapixels, more than 100")
    body, headers = form(b"1", "number", None)
    refused(server, body, headers, 422, "the form has no file")
    refused(server, body[:40], headers, 422, "the form has no file")
    refused(server, image, {"Content-Type": "multipart/form-data"}, 400, "boundary")
    refused(server, bytes(21 * 10 ** 6), JPEG, 413, "more than 20 MB")
    assert predict(server, image)[0] == 200  # it still works


def test_the_limits_are_those_of_the_run(strict: Server, image: bytes) -> None:
    headers = with_token(strict)
    refused(strict, bytes(100_001), headers, 413, "more than 0.1 MB")
    refused(strict, (bytes(1000) for _ in range(200)), headers, 413, "more than 0.1 MB")
    body, kind = form(bytes(100_000))
    refused(strict, body, {**headers, **kind}, 413, "more than 0.1 MB")
    refused(strict, bomb(1100), headers, 422, "1.21 megapixels, more than 1")
    assert predict(strict, image, headers)[0] == 200


def test_a_full_queue_refuses_at_once(strict: Server, image: bytes) -> None:
    waiting = [Connection(strict), Connection(strict)]
    for connection in waiting:
        connection.begin(image, with_token(strict))
    wait_for_requests(strict, 2)
    status, answer, headers = predict(strict, image, with_token(strict))
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "come again" in answer["error"]
    for connection in waiting:
        connection.go_on(image)
        assert connection.answer()[0] == 200
        connection.close()
    assert predict(strict, image, with_token(strict))[0] == 200


def test_a_slow_upload_ends(strict: Server, image: bytes) -> None:
    slow = Connection(strict)
    slow.begin(image, with_token(strict))
    status, answer, headers = slow.answer()
    slow.close()
    assert (status, headers["Connection"]) == (408, "close")
    assert "over 2 seconds" in json.loads(answer)["error"]


def test_other_machines_need_the_token(strict: Server, image: bytes) -> None:
    assert len(strict.token) >= 32
    for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": strict.token}, {"Authorization": "Bearer é"}):
        status, answer, headers = predict(strict, image, {**JPEG, **wrong})
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "token" in answer["error"]
    connection = Connection(strict)
    assert connection.ask("GET", "/model.json")[0] == 401
    status, about, _ = connection.ask("GET", "/model.json", headers=with_token(strict))
    assert (status, json.loads(about)["classes"]) == (200, list(CLASSES))
    for path in "/", "/page.js", "/healthz":  # with nothing in them that is secret
        assert connection.ask("GET", path)[0] == 200
    connection.close()


def test_this_machine_needs_none(server: Server) -> None:
    assert server.url == f"http://127.0.0.1:{server.address[1]}/"
    assert server.token == ""


def test_other_web_pages_are_refused(server: Server, image: bytes) -> None:
    own = f"127.0.0.1:{server.address[1]}"
    assert predict(server, image, {**JPEG, "Origin": f"http://{own}"})[0] == 200
    for headers in ({"Origin": "http://elsewhere.example"}, {"Origin": "null"}, {"Host": "elsewhere.example"},
                    {"Host": "[::1"}):
        refused(server, image, {**JPEG, **headers}, 403, "this server answers to")


def test_nothing_but_the_page_is_given(server: Server) -> None:
    connection = Connection(server)
    status, page, headers = connection.ask("GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"<script type=\"module\"" in page
    assert re.search(r"default-src 'none'; script-src 'self';", headers["Content-Security-Policy"])
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    for path in "/page/", "/../infer.py", "/%2e%2e/infer.py", "/page/index.html", "//etc/passwd", "/run_here.js":
        status, answer, _ = connection.ask("GET", path)
        assert (status, list(json.loads(answer))) == (404, ["error"])
    assert connection.ask("GET", "/predict")[0] == 405
    connection.close()


# ---- start and stop

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_requests_at_work_are_answered_before_the_end(number: signal.Signals, model: Path, image: bytes,
                                                      tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with started_server(model) as server:
        expected = predict(server, image)[1]["classes"]
        sending = [Connection(server) for _ in range(20)]
        for connection in sending:
            connection.begin(image)
        wait_for_requests(server, len(sending))
        os.kill(server.process.pid, number)
        for connection in sending:
            connection.go_on(image)
        for connection in sending:
            status, answer, headers = connection.answer()
            assert (status, json.loads(answer)["classes"]) == (200, expected)
            connection.close()
        assert server.process.wait() == 0
        assert server.process.stdout.read() == "stopped: every request was answered\n"
    assert list(tmp_path.iterdir()) == []


def test_uploads_leave_nothing_behind(server: Server, uploads: Path, image: bytes) -> None:
    predict(server, image)
    predict(server, b"no image")
    wait_for_requests(server, 0)
    folder, = uploads.iterdir()
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]


def refusal(*argv: object) -> str:
    with pytest.raises(UserError) as error:
        start.serve(config_for("--serve", True, *argv))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_wrong_is_one_clear_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1, port {port}: cannot listen there" in refusal("--model", model, "--port", port)
    assert "nowhere.invalid, port 0: cannot listen there" in refusal("--host", "nowhere.invalid", "--port", 0)
    assert "no model named" in refusal("--port", 0)
    (tmp_path / "m.onnx").write_bytes(b"x")
    assert "m.onnx: not an ONNX file" in refusal("--model", tmp_path / "m.onnx", "--port", 0)
    monkeypatch.setattr(start, "is_installed", lambda package: package != "uvicorn")
    assert refusal("--model", model).endswith("not installed (uvicorn): pip install -r requirements-serve.txt")


def test_the_bomb_is_small(image: bytes) -> None:
    assert len(bomb(12000)) < 100_000
    with Image.open(io.BytesIO(bomb(1100))) as opened:
        assert opened.size == (1100, 1100)
