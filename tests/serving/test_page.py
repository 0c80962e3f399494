"""The page in a browser: served by infer.py --serve True, and as the folder of export.py --file_format WEB."""
import csv
import functools
import http.server
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import config_for
from PIL import Image

import eval as eval_script
import export as export_script
import train as train_script
from src.confidence import Confidence
from src.data.framing import CROP_MODES, INTERPOLATIONS, PAD_COLOUR, Framing
from src.data.transforms import eval_transforms
from src.deployment.exporter import ExportOptions, usage
from src.errors import UserError
from src.serving import web_folder
from src.serving.start import PACKAGES
from tests.support.serving import CLASSES, SIZE, predict, write_model
from tools.load_test import Server, started_server

PHONE, DESKTOP = 390, 1200  # pixels of width
SECONDS = 60  # for an answer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "best.ckpt")


@pytest.fixture(scope="module")
def photos_of_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without loss, of smooth colours, as photos are."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(2)
    for number, size in enumerate([(300, 200), (97, 161), (73, 73), (640, 75), (40, 51), (2, 90)]):
        small = Image.fromarray(generator.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    for package in PACKAGES:
        pytest.importorskip(package, reason="needs requirements-serve.txt")
    with started_server(model) as started:
        yield started


@pytest.fixture(scope="module")
def runtime() -> Path:
    try:
        return web_folder.runtime_package(config_for())
    except UserError as error:
        pytest.skip(f"needs onnxruntime-web once from the network: {error}")


def export_web(checkpoint: Path, folder: Path, *options: object) -> None:
    call(export_script, "--ckpt_file", checkpoint, "--file_format", "WEB", "--file_name", folder, *options)


def call(command: ModuleType, *argv: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{command.__name__}.py", "--platform", "CPU", *map(str, argv)])
        command.main()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server for files that does not write a line for each."""

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture(scope="module")
def static(model: Path, runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The WEB folder of the small model, and its address on a web server for files."""
    folder = tmp_path_factory.mktemp("web") / "seite 1"
    export_web(model, folder)
    with served(folder) as url:
        yield folder, url


class served:  # noqa: N801 - used as a function
    """The address of a folder on a web server for files."""

    def __init__(self, folder: Path) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


# ---- what a visitor does and sees

def wait(browser: Any, condition: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait
    WebDriverWait(browser, SECONDS).until(lambda found: found.execute_script(f"return {condition}"))


def visit(browser: Any, url: str, width: int = DESKTOP, scheme: str = "light") -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == PHONE})
    browser.get("about:blank")  # else another # would not load the page again
    browser.get(url)
    wait(browser, "document.getElementById('model').textContent || document.querySelector('#status.fault')")


def choose(browser: Any, path: Path, field: str = "choose") -> list[tuple[str, str]]:
    """Choose an image; returns the classes and shares that are shown."""
    browser.find_element("id", field).send_keys(str(path))
    wait(browser, "!document.getElementById('status').textContent.startsWith('Looking')")
    assert browser.find_element("id", "status").text == ""
    assert browser.find_element("id", "result").is_displayed()
    return [(row.find_element("class name", "name").text, row.find_element("class name", "share").text)
            for row in browser.find_elements("css selector", "#classes li")]


def requests_of(browser: Any) -> set[str]:
    return {message["params"]["request"]["url"] for entry in browser.get_log("performance")
            if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"}


def assert_page_holds(browser: Any, url: str, photo: Path) -> None:
    """At both widths all is seen, the map lies over the photo, and nothing is asked for elsewhere."""
    browser.get_log("performance"), browser.get_log("browser")  # of earlier pages
    for width in PHONE, DESKTOP:
        visit(browser, url, width)
        assert len(choose(browser, photo)) == len(CLASSES)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        places = {name: browser.find_element("id", name).rect for name in ("photo", "map")}
        assert places["photo"] == places["map"]
        assert places["photo"]["width"] > 200
        assert browser.execute_script("return document.getElementById('map').getContext('2d')"
                                      ".getImageData(0, 0, 448, 448).data.some(value => value)")
        browser.find_element("id", "show-map").click()
        assert not browser.find_element("id", "map").is_displayed()
    asked = {address for address in requests_of(browser) if not address.startswith(("data:", "chrome:", "about:"))}
    assert {address for address in asked if not address.startswith(url)} == set()
    assert [entry["message"] for entry in browser.get_log("browser") if "cpuid_info" not in entry["message"]] == []


# ---- the served page

def test_the_served_page_names_a_photo(browser: Any, server: Server, photos_of_sizes: Path) -> None:
    photo = photos_of_sizes / "0.png"
    assert_page_holds(browser, server.url, photo)
    expected = predict(server, photo.read_bytes())[1]["classes"]
    for field in "choose", "camera":
        assert choose(browser, photo, field) == [(item["class"], f"{100 * item['probability']:.1f} %")
                                                 for item in expected]
    assert browser.find_element("id", "best").text == expected[0]["class"]
    assert re.fullmatch(r"decode \d+ ms, network \d+ ms, total \d+ ms", browser.find_element("id", "time").text)
    assert browser.find_elements("css selector", "#classes b") == []  # a name of a class is no HTML


def test_a_photo_can_be_dropped(browser: Any, server: Server) -> None:
    visit(browser, server.url)
    browser.execute_script("""
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 80;
        canvas.getContext("2d").fillRect(0, 0, 40, 80);
        canvas.toBlob((blob) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([blob], "drawn.png", { type: "image/png" }));
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        });""")
    wait(browser, "!document.getElementById('result').hidden")
    assert browser.find_element("id", "best").text in CLASSES


def test_it_says_what_is_wrong(browser: Any, server: Server, photos_of_sizes: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    visit(browser, server.url)
    choose(browser, photos_of_sizes / "0.png")
    browser.find_element("id", "choose").send_keys(str(tmp_path / "notes.txt"))
    wait(browser, "document.querySelector('#status.fault')")
    assert browser.find_element("id", "status").text == "not an image"
    assert not browser.find_element("id", "result").is_displayed()


def test_it_follows_light_and_dark(browser: Any, server: Server) -> None:
    brightness = {}
    for scheme in "light", "dark":
        visit(browser, server.url, PHONE, scheme)
        colours = browser.execute_script("const style = getComputedStyle(document.body);"
                                         "return [style.backgroundColor, style.color]")
        brightness[scheme] = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
    (light_page, light_ink), (dark_page, dark_ink) = brightness["light"], brightness["dark"]
    assert light_page > 600 > 200 > light_ink
    assert dark_page < 200 < 600 < dark_ink


def test_the_token_of_the_address_opens_the_page(browser: Any, server: Server, model: Path,
                                                 photos_of_sizes: Path) -> None:
    with started_server(model, "--host", "0.0.0.0") as other:
        address = f"http://127.0.0.1:{other.address[1]}/"
        visit(browser, address)
        assert "needs the token" in browser.find_element("id", "status").text
        visit(browser, f"{address}#token={other.token}")
        assert browser.current_url == address
        assert len(choose(browser, photos_of_sizes / "0.png")) == len(CLASSES)
        assert not any(other.token in url for url in requests_of(browser) if url.startswith("http"))


# ---- the folder

def test_the_folder_names_a_photo(browser: Any, static: tuple[Path, str], photos_of_sizes: Path) -> None:
    folder, url = static
    assert {path.name for path in folder.iterdir()} == {
        "index.html", "style.css", "page.js", "pixels.js", "classifier.js", "model.onnx", "model.json",
        "onnxruntime.js", "onnxruntime.wasm"}
    assert_page_holds(browser, url, photos_of_sizes / "0.png")


@pytest.mark.parametrize("framing", [
    *(Framing(mode, interpolation=interpolation) for mode in CROP_MODES for interpolation in INTERPOLATIONS),
    Framing(crop_pct=1.0), Framing(crop_pct=0.3)], ids=str)
def test_pixels_are_those_of_evaluation(framing: Framing, browser: Any, static: tuple[Path, str],
                                        photos_of_sizes: Path) -> None:
    visit(browser, static[1])
    preprocessing = usage(ExportOptions(SIZE, framing=framing), None, len(CLASSES))["preprocessing"]
    for path in sorted(photos_of_sizes.iterdir()):
        found = browser.execute_async_script("""
            const [bytes, preprocessing, done] = arguments;
            import("/pixels.js").then(async ({ decode, networkInput }) => {
              const image = await decode(new Blob([new Uint8Array(bytes)]));
              done([...networkInput(image, preprocessing)]);
            });""", list(path.read_bytes()), preprocessing)
        expected: Any = np.frombuffer(path.read_bytes(), np.uint8)
        for operation in eval_transforms(SIZE, None, framing):
            expected = operation(expected)
        assert np.ptp(expected) > 80
        np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1, err_msg=path.name)


@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_both_pages_frame_a_photo_and_say_how_sure_the_model_is(
        crop_mode: str, browser: Any, server: Server, runtime: Path, photos_of_sizes: Path, tmp_path: Path) -> None:
    """They agree on a model that is unsure of some photos, and show what it sees.

    The photos have the network's size: on random weights, rounding of resized pixels would change probabilities.
    """
    photos = [tmp_path / f"{number}.png" for number in range(8)]
    for number, photo in enumerate(photos):
        small = Image.fromarray(np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(photo)
    checkpoint = write_model(tmp_path / "best.ckpt", Confidence(3.0, 0.54), crop_mode=crop_mode, crop_pct=1.0)
    export_web(checkpoint, tmp_path / "web")
    found = []
    with started_server(checkpoint) as other, served(tmp_path / "web") as url:
        for address in other.url, url:
            visit(browser, address)
            found.append([(choose(browser, photo), browser.find_element("id", "unsure").is_displayed())
                          for photo in photos])
            choose(browser, photos_of_sizes / "5.png")  # a narrow one
            corner = browser.execute_script("return [...document.getElementById('photo').getContext('2d')"
                                            ".getImageData(0, 224, 1, 1).data]")
            assert (corner == [*PAD_COLOUR, 255]) == (crop_mode == "pad")
    for (asked, asked_unsure), (alone, alone_unsure) in zip(*found, strict=True):
        assert (asked[0][0], asked_unsure) == (alone[0][0], alone_unsure)
        assert abs(float(asked[0][1].split()[0]) - float(alone[0][1].split()[0])) < 0.25  # per cent
    assert {is_unsure for _, is_unsure in found[0]} == {False, True}


def test_both_pages_classify_real_photos_as_eval_does(browser: Any, server: Server, shared: Path, runtime: Path,
                                                      tmp_path: Path) -> None:
    """A classifier on ImageNet features, trained on 5 photos a class, and 20 photos that it has not seen."""
    for part, step in (("train", 7), ("val", 20)):
        for photos in (shared / "data" / "grocery20" / part).iterdir():
            (tmp_path / "photos" / part / photos.name).mkdir(parents=True)
            for photo in sorted(photos.iterdir())[::step]:
                (tmp_path / "photos" / part / photos.name / photo.name).symlink_to(photo)
    data = ("--dataset_path", tmp_path / "photos")
    call(train_script, *data, "--pretrain_ckpt", shared / "weights" / "mobilenet_v2_imagenet.pth", "--freeze_layer",
         "backbone", "--save_checkpoint_path", tmp_path / "run")
    checkpoint = tmp_path / "run" / "best.ckpt"
    call(eval_script, *data, "--pretrain_ckpt", checkpoint, "--predictions", tmp_path)
    with (tmp_path / "scored.csv").open(encoding="utf-8") as file:
        expected = {row["file"]: row["predicted"] for row in csv.DictReader(file)}
    assert len(expected) == 20
    assert len(set(expected.values())) > 10
    export_web(checkpoint, tmp_path / "web")
    with started_server(checkpoint) as other, served(tmp_path / "web") as url:
        for address in other.url, url:
            visit(browser, address)
            assert {name: choose(browser, tmp_path / "photos" / "val" / name)[0][0] for name in expected} == expected


def refusal(*argv: object) -> str:
    with pytest.raises(UserError) as error:
        export_web(*argv)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_wrong_with_an_export_is_one_clear_line(model: Path, runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "other.tgz").write_bytes(runtime.read_bytes()[:1000])
    assert "is not the published file" in refusal(model, tmp_path / "web", "--web_runtime", tmp_path / "other.tgz")
    assert "no.tgz: cannot read this file" in refusal(model, tmp_path / "web", "--web_runtime", tmp_path / "no.tgz")
    assert "one image at a time" in refusal(model, tmp_path / "web", "--export_batch_size", 0)
    assert "one view of an image: leave out --tta flip" in refusal(model, tmp_path / "web", "--tta", "flip")
    assert "already exists and is not an empty folder" in refusal(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other.tgz"]
