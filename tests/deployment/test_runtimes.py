"""docs/runtimes.md: each script classifies from the exported files alone, as infer.py does."""
import csv
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, config_for, make_images
from mindspore import Tensor
from PIL import Image

import infer
from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.data.framing import CROP_MODES, INTERPOLATIONS, Framing
from src.deployment.conversion import CONVERTERS, convert
from src.deployment.exporter import (
    ExportOptions,
    deployable,
    describe,
    export,
    onnx_content,
    random_images,
    usage,
    write_description,
)
from src.deployment.formats import ENDINGS
from src.deployment.prediction import ImageStream
from src.mobilenetV2 import MobileNetV2
from tests.support.converters import needs_converter

PAGE = ROOT / "docs" / "runtimes.md"
FIXTURES = ROOT / "tests" / "fixtures"
CLASSES = ("blue", "green", "red")
SIZE = 32


def write_scripts(folder: Path) -> None:
    """The scripts of the page, under the names in their first lines."""
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 7
    for name, content in blocks:
        assert len(content.strip().splitlines()) <= 21
        (folder / name).write_text(content, encoding="utf-8")


def run(python: str | Path, script: Path, model: Path, photo: Path) -> subprocess.CompletedProcess:
    words = [str(word) for word in (python, script, model, photo)]
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # of this project
    return subprocess.run(words, cwd=script.parent, env=outside, capture_output=True, text=True, check=False)


def classes_of_infer(model: Path, photos: Path, out: Path) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["x", "--platform", "CPU", "--model", str(model), "--images", str(photos),
                                    "--predictions", str(out)])
        infer.main()
    return {row["file"]: row["class"] for row in csv.DictReader((out / "predictions.csv").open(encoding="utf-8"))}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("photos"), dict.fromkeys(CLASSES, 1), size=(70, 50))


@pytest.fixture(scope="module")
def checkpoint(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that tells these photos: its weights are the pooled features of each, less their mean."""
    network = MobileNetV2(3, 0.35).set_train(False)
    path = tmp_path_factory.mktemp("checkpoint") / "k.ckpt"
    batch = np.concatenate([images for _, images in ImageStream([photos / name / "000.jpg" for name in CLASSES], SIZE,
                                                                3, 1)])
    features = network.backbone(Tensor(batch)).asnumpy().mean(axis=(2, 3))
    centred = features - features.mean(axis=0)
    weights = centred / np.square(centred).sum(axis=1, keepdims=True)
    network.head.classifier.weight.set_data(Tensor(10 * weights))
    network.head.classifier.bias.set_data(Tensor(-10 * weights @ features.mean(axis=0)))
    write_checkpoint(path, {parameter.name: parameter for parameter in network.get_parameters()}, {},
                     CheckpointMetadata({"width_mult": 0.35, "image_size": SIZE}, CLASSES))
    return path


def exported(checkpoint: Path, file_format: str, path: Path) -> Path:
    config = config_for("--width_mult", 0.35, "--image_size", SIZE)
    options = ExportOptions(SIZE)
    network = deployable(read_checkpoint(checkpoint), config, options)
    if file_format in CONVERTERS:
        content = onnx_content(network, options, CLASSES)
        with convert(file_format, content, random_images(options), options.softmax) as converted:
            converted.move_to(path)
    else:
        export(network, options, path, CLASSES)
    write_description(describe(path, options, CLASSES, 3, {}), path)
    return path


@pytest.mark.parametrize(("file_format", "script", "module"), [
    ("MINDIR", "run_mindir.py", "mindspore"), ("ONNX", "run_onnx.py", "onnxruntime"),
    ("TFLITE", "run_tflite.py", "ai_edge_litert"), ("NCNN", "run_ncnn.py", "ncnn")])
def test_script_gives_the_class_that_infer_gives(file_format: str, script: str, module: str, checkpoint: Path,
                                                 photos: Path, tmp_path: Path) -> None:
    pytest.importorskip(module, reason="needs a runtime that requirements-runtimes.txt names")
    if file_format in CONVERTERS:
        needs_converter(file_format)
    model = exported(checkpoint, file_format, tmp_path / f"m{ENDINGS[file_format]}")
    write_scripts(tmp_path)
    expected = classes_of_infer(model, photos, tmp_path / "out")
    assert {Path(file).parent.name: name for file, name in expected.items()} == {name: name for name in CLASSES}
    for file, name in expected.items():
        found = run(sys.executable, tmp_path / script, model, Path(file))
        assert found.stdout == f"{name}\n", found.stderr


@pytest.mark.parametrize("framing", [
    *(Framing(mode, interpolation=interpolation) for mode in CROP_MODES for interpolation in INTERPOLATIONS),
    Framing(crop_pct=0.5)], ids=str)
@pytest.mark.parametrize("size", [(90, 40), (50, 120)])
def test_the_image_is_framed_as_evaluation_frames_it(size: tuple[int, int], framing: Framing, tmp_path: Path) -> None:
    """Smooth colours, which Pillow's way of resizing hardly changes: they grow to the right, and down."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([across, down, 255 - across], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    options = ExportOptions(SIZE, framing=framing)
    write_description({"classes": ["a"], **usage(options, ("a",), 1)}, tmp_path / "m.onnx")
    write_scripts(tmp_path)
    _, found = runpy.run_path(str(tmp_path / "prepare.py"))["load"](tmp_path / "m.onnx", tmp_path / "p.png")
    (_, expected), = ImageStream([tmp_path / "p.png"], SIZE, 1, 1, framing=framing)
    np.testing.assert_allclose(found, expected, atol=0.2)  # from left to right they grow by more than 4


@pytest.fixture
def prepared(photos: Path, tmp_path: Path) -> Callable[[Path], None]:
    """Scripts for environments without Pillow. Their prepare.py has what the real one made of the red photo."""
    def write(model: Path) -> None:
        write_scripts(tmp_path)
        save = "import sys, numpy, prepare; numpy.save('images.npy', prepare.load(*sys.argv[1:])[1])"
        words = [sys.executable, "-c", save, str(model), str(photos / "red" / "000.jpg")]
        subprocess.run(words, cwd=tmp_path, check=True)
        (tmp_path / "prepare.py").write_text("import numpy\ndef load(model, photo):\n"
                                             f"    return {CLASSES}, numpy.load('images.npy')\n")
    return write


def test_script_for_mindspore_lite(checkpoint: Path, prepared: Callable, tmp_path: Path) -> None:
    needs_converter("LITE")
    model = exported(checkpoint, "LITE", tmp_path / "m.ms")
    prepared(model)
    found = run(CONVERTERS["LITE"].python(), tmp_path / "run_lite.py", model, tmp_path / "photo")
    assert found.stdout == "red\n", found.stderr


def test_script_for_core_ml_goes_as_far_as_this_system_allows(checkpoint: Path, prepared: Callable,
                                                              tmp_path: Path) -> None:
    needs_converter("COREML")
    model = exported(checkpoint, "COREML", tmp_path / "m.mlpackage")
    prepared(model)
    found = run(CONVERTERS["COREML"].python(), tmp_path / "run_coreml.py", model, tmp_path / "photo")
    if sys.platform == "darwin":
        assert found.stdout == "red\n", found.stderr
    else:
        assert "Model prediction is only supported on macOS" in found.stderr
