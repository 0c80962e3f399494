"""The inference package of ModelArts: its files, and its service over HTTP, as the platform calls it."""
import ast
import base64
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, config_for, few_blocks, training_metadata
from PIL import Image

import export as export_script
from src.checkpoint.file import write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.confidence import Confidence
from src.data.framing import Framing
from src.deployment.engines import OnnxEngine
from src.deployment.model_file import open_model
from src.deployment.prediction import ImageStream, likeliest
from src.errors import UserError
from src.models import define_net
from src.utils import network_parameters
from tests.support import modelarts_server, odd_images

SIZE, CLASSES = 32, ("blue", "green", "red & <b>")
FILES = ["config.json", "customize_service.py", "images.py", "mobilenetv2.onnx", "mobilenetv2.onnx.json"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    with few_blocks():
        network = define_net(config_for("--width_mult", 0.35), len(CLASSES))
        metadata = CheckpointMetadata({"width_mult": 0.35, "image_size": SIZE}, CLASSES,
                                      training=training_metadata(3, metrics={"top1": 0.75, "macro_f1": 0.5}),
                                      confidence=Confidence(1.7, 0.5))
        write_checkpoint(folder / "best.ckpt", network_parameters(network), {}, metadata)
        export(folder, folder / "service")
    return folder / "service"


def export(folder: Path, output: Path, *more: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export.py", "--platform", "CPU", "--ckpt_file", str(folder / "best.ckpt"),
                                    "--file_format", "MODELARTS", "--file_name", str(output), *map(str, more)])
        export_script.main()


@pytest.fixture(scope="module")
def service(package: Path) -> Any:
    """The service in this process, with the modules of the package."""
    before, modules = list(sys.path), set(sys.modules)
    yield modelarts_server.load_service(package / "model")
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in {"customize_service", "images", "model_service"}:
            del sys.modules[name]


@pytest.fixture(scope="module")
def address(package: Path) -> Iterator[str]:
    command = [sys.executable, str(ROOT / "tests/support/modelarts_server.py"), str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/"
        server.terminate()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of every kind that is read: plain ones of several sizes, turned, transparent, of 16 bits, large."""
    folder = tmp_path_factory.mktemp("photos")
    odd_images.write(folder)
    generator = np.random.default_rng(0)
    for width, height in ((40, 40), (97, 53), (53, 97), (300, 201), (32, 400)):
        noise = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"noise {width}x{height}.png")
    Image.fromarray(generator.integers(0, 256, (1100, 1300, 3)).astype(np.uint8)).save(folder / "large.webp")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def pixels_of_evaluation(paths: list[Path], framing: Framing) -> dict[Path, np.ndarray]:
    """What the network gets in eval.py and infer.py: V x 3 x size x size."""
    stream = ImageStream(paths, SIZE, 1, 1, None, framing)
    return {paths[positions[0]]: images.reshape(-1, 3, SIZE, SIZE) for positions, images in stream}


# ---- the files

def test_it_has_what_the_platform_asks_for(package: Path) -> None:
    assert [path.name for path in package.iterdir()] == ["model"]
    assert sorted(path.name for path in (package / "model").iterdir()) == FILES
    config = json.loads((package / "model/config.json").read_text(encoding="utf-8"))
    assert config["model_algorithm"] == "image_classification"
    assert config["model_type"] == "MindSpore"
    api, = config["apis"]
    assert (api["url"], api["method"], api["request"]["Content-type"]) == ("/", "post", "multipart/form-data")
    assert api["request"]["data"]["properties"] == {"images": {"type": "file"}}
    assert set(api["response"]["data"]["properties"]) == {"predicted_label", "scores"}
    for found in config["dependencies"][0]["packages"]:
        assert set(found) == {"package_name", "package_version", "restraint"}
    assert config["metrics"] == {"accuracy": 0.75, "f1": 0.5}


def test_its_code_is_python_3_7(package: Path) -> None:
    for name in ("customize_service.py", "images.py"):
        tree = ast.parse((package / "model" / name).read_text(encoding="utf-8"), feature_version=(3, 7))
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names} | {
            node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [module for module in modules if module.startswith(("src", "mindspore"))]


def test_a_folder_with_something_in_it_is_left_alone(package: Path) -> None:
    before = {path: path.read_bytes() for path in (package / "model").iterdir()}
    with pytest.raises(UserError, match="already exists and is not an empty folder"):
        export(package.parent, package)
    assert {path: path.read_bytes() for path in (package / "model").iterdir()} == before


def test_a_service_takes_one_image_at_a_time(package: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out --export_batch_size 4"):
        export(package.parent, tmp_path / "service", "--export_batch_size", 4)
    assert not (tmp_path / "service").exists()


# ---- the service in this process

@pytest.mark.parametrize("framing", [
    Framing(), Framing(interpolation="bicubic", tta="five_crop"), Framing("pad", tta="flip"),
    Framing("squash", interpolation="bicubic")], ids=["default", "five_crop", "pad", "squash"])
def test_the_network_gets_the_pixels_of_eval(service: Any, photos: list[Path], framing: Framing,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {**service._description["preprocessing"], **vars(framing), "pad_colour": [124, 116, 104],
             "resize_shorter_side": framing.shorter_side(SIZE)}
    monkeypatch.setitem(service._description, "preprocessing", steps)
    wanted = pixels_of_evaluation(photos, framing)
    assert len(wanted) > 40
    for path, pixels in wanted.items():
        with path.open("rb") as file:
            (name, found), = service._preprocess({"images": {path.name: file}})
        assert name == path.name
        np.testing.assert_array_equal(found, pixels, err_msg=str(path))


def test_the_parent_calls_the_methods_in_order(service: Any, photos: list[Path]) -> None:
    service.calls.clear()
    with photos[0].open("rb") as file:
        service.inference({"images": {"photo": file}})
    assert service.calls == ["_preprocess", "_inference", "_postprocess"]


# ---- over HTTP

def post(address: str, kind: str, body: bytes) -> Any:
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def form(*parts: tuple[str, Path]) -> bytes:
    """The body of a form as `curl -F field=@file` sends it."""
    return b"".join(f'--line\r\nContent-Disposition: form-data; name="{field}"; filename="{path.name}"\r\n'
                    "Content-Type: application/octet-stream\r\n\r\n".encode() + path.read_bytes() + b"\r\n"
                    for field, path in parts) + b"--line--\r\n"


FORM = "multipart/form-data; boundary=line"


def test_answers_are_those_of_infer(package: Path, address: str, photos: list[Path]) -> None:
    model = open_model(config_for("--pretrain_ckpt", package / "model/mobilenetv2.onnx", "--platform", "CPU"))
    engine = OnnxEngine(model.path, 1)
    chosen = photos[::9]
    for path, pixels in pixels_of_evaluation(chosen, Framing()).items():
        wanted = likeliest(path, engine(pixels)[0], CLASSES, 5, Confidence(1.7, 0.5))
        answer = post(address, FORM, form(("images", path)))
        assert answer["predicted_label"] == wanted.classes[0]
        assert [name for name, _ in answer["scores"]] == list(wanted.classes)
        np.testing.assert_allclose([share for _, share in answer["scores"]], wanted.probabilities, atol=2e-6)
        assert answer["unsure"] == (wanted.probabilities[0] < 0.5)
        encoded = json.dumps({"images": base64.b64encode(path.read_bytes()).decode()}).encode()
        assert post(address, "application/json", encoded) == answer


def test_several_images_and_what_is_none(address: str, photos: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "notes.jpg"
    bad.write_text("no image")
    single = post(address, FORM, form(("images", photos[0])))
    several = post(address, FORM, form(("one", photos[0]), ("two", bad)))["images"]
    assert several[0] == {"file": photos[0].name, **single}
    assert several[1]["file"] == "notes.jpg"
    assert several[1]["error"].startswith("cannot be read as an image")
    assert post(address, "application/json", b'{"images": "no base64!"}') == {
        "error": "cannot be read as an image (ValueError)"}
