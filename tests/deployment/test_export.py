"""export.py: what is written computes what the checkpoint does, says how it is to be used, and is there whole."""
import json
import stat
import sys
from pathlib import Path

import numpy as np
import onnx as onnx_package
import pytest
from conftest import assert_one_clear_line, config_for, run_script, training_metadata
from mindspore import Tensor, nn
from onnx import numpy_helper

import export as export_script
from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.deployment.engines import OnnxEngine
from src.deployment.exporter import Deployable, ExportOptions, export, random_images
from src.deployment.runtime import load_exported
from src.errors import UserError
from src.mobilenetV2 import ConvBN, MobileNetV2, MobileNetV2Head
from src.normalisation import IMAGENET_PIXELS
from src.utils import load_weights

SIZE = 32
CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, but logits of a few units and batch norm statistics that are not those of the start."""
    network = MobileNetV2(len(CLASSES), 0.35)
    generator = np.random.default_rng(1)
    for parameter in network.get_parameters():
        if parameter.name.endswith("moving_variance"):
            parameter.set_data(Tensor(generator.uniform(0.6, 1.2, parameter.shape).astype(np.float32)))
        elif parameter.name.endswith(("moving_mean", "classifier.weight")):
            parameter.set_data(Tensor(0.04 * generator.standard_normal(parameter.shape).astype(np.float32)))
    path = tmp_path_factory.mktemp("export") / "best.ckpt"
    metadata = CheckpointMetadata({"width_mult": 0.35, "image_size": SIZE}, CLASSES, training=training_metadata(7))
    write_checkpoint(path, {parameter.name: parameter for parameter in network.get_parameters()}, {}, metadata)
    return path


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> MobileNetV2:
    network = MobileNetV2(len(CLASSES), 0.35)
    load_weights(network, read_checkpoint(checkpoint))
    return network.set_train(False)


def call_main(*argv: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export.py", "--platform", "CPU", *map(str, argv)])
        export_script.main()


def refusal(*argv: object) -> str:
    with pytest.raises(UserError) as error:
        call_main(*argv)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def mindir(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mindir") / "new" / "m.v2.mindir"
    call_main("--ckpt_file", checkpoint, "--file_name", path)
    return path


@pytest.fixture(scope="module")
def onnx(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "any.onnx"
    call_main("--ckpt_file", checkpoint, "--file_format", "ONNX", "--file_name", path, "--export_batch_size", 0)
    return path


def batch(size: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((size, 3, SIZE, SIZE)).astype(np.float32)


def test_mindir_of_any_batch_size_computes_the_same(checkpoint: Path, network: MobileNetV2, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture) -> None:
    call_main("--ckpt_file", checkpoint, "--file_name", tmp_path / "any", "--export_batch_size", 0)
    assert "it differs from the checkpoint by 0 on" in capsys.readouterr().out
    mindir = load_exported(tmp_path / "any.mindir", config_for())
    for size in (1, 3, 32):
        expected = network(Tensor(batch(size))).asnumpy()
        assert 0.1 < np.ptp(expected) < 10
        np.testing.assert_array_equal(mindir.run(batch(size)), expected)


def test_onnx_of_any_batch_size_computes_the_same(onnx: Path, network: MobileNetV2) -> None:
    loaded = load_exported(onnx, config_for())
    assert (loaded.batch_size, loaded.image_size, loaded.classes) == (0, SIZE, CLASSES)
    for size in (1, 3, 32):
        np.testing.assert_allclose(loaded.run(batch(size)), network(Tensor(batch(size))).asnumpy(), atol=1e-4)


def test_onnx_is_checked_named_and_says_how_to_use_it(onnx: Path, checkpoint: Path) -> None:
    model = onnx_package.load(onnx)
    onnx_package.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    shapes = {value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
              for value in (*model.graph.input, *model.graph.output)}
    assert shapes == {"images": ["batch", 3, SIZE, SIZE], "logits": ["batch", 3]}
    weights = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
    saved = read_checkpoint(checkpoint).network
    for name, value in saved.items():
        np.testing.assert_array_equal(weights.pop(name), value.asnumpy())
    assert weights == {"relu6.min": 0, "relu6.max": 6}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == list(CLASSES)
    np.testing.assert_allclose(json.loads(metadata["mean"]), IMAGENET_PIXELS.pixel_mean)
    np.testing.assert_allclose(json.loads(metadata["std"]), IMAGENET_PIXELS.pixel_std)
    assert (metadata["centre_crop"], metadata["resize_shorter_side"]) == (str(SIZE), "37")


def test_the_activation_map_is_that_of_the_likeliest_class(checkpoint: Path, network: MobileNetV2,
                                                           tmp_path: Path) -> None:
    size, path = 3 * SIZE, tmp_path / "map.onnx"
    export(Deployable(network, ExportOptions(size)), ExportOptions(size, batch_size=0, activation_map=True), path)
    onnx_package.checker.check_model(onnx_package.load(path), full_check=True)
    images = np.random.default_rng(4).standard_normal((5, 3, size, size)).astype(np.float32)
    logits, maps = OnnxEngine(path, 1).outputs(images)
    features = network.backbone(Tensor(images)).asnumpy()
    classifier = network.head.classifier
    weights = classifier.weight.asnumpy()[logits.argmax(axis=1)]
    assert maps.shape == (5, 3, 3)
    np.testing.assert_allclose(maps, np.einsum("nchw,nc->nhw", features, weights), atol=1e-3)
    np.testing.assert_allclose(maps.mean(axis=(1, 2)) + classifier.bias.asnumpy()[logits.argmax(axis=1)],
                               logits.max(axis=1), atol=1e-3)


def test_an_onnx_file_without_its_json_says_the_same(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    call_main("--ckpt_file", checkpoint, "--file_format", "ONNX", "--file_name", path, "--export_normalise",
              "--export_softmax")
    path.with_name("m.onnx.json").unlink()
    loaded = load_exported(path, config_for())
    assert (loaded.classes, loaded.normalisation, loaded.softmax) == (CLASSES, None, True)


@pytest.mark.parametrize(("pads", "eps"), [({"pad_mode": "same", "padding": 0}, 1e-3),
                                           ({"pad_mode": "pad", "padding": (0, 1, 0, 1)}, 1e-5),
                                           ({"pad_mode": "valid", "padding": 0}, 1e-5)])
def test_onnx_has_padding_and_epsilon_of_the_cells(pads: dict, eps: float, tmp_path: Path) -> None:
    layer = ConvBN(3, 8, kernel_size=3, stride=2)
    layer.conv = nn.Conv2d(3, 8, 3, 2, has_bias=True, bias_init="ones", weight_init="normal", **pads)
    layer.bn = nn.BatchNorm2d(8, eps=eps)
    layer.bn.moving_variance.set_data(Tensor(np.full(8, 1e-3, np.float32)))
    layers = nn.SequentialCell(layer, MobileNetV2Head(8, 3)).set_train(False)
    options = ExportOptions(SIZE - 1)  # pixels that a stride of 2 does not divide
    export(Deployable(layers, options), options, tmp_path / "m.onnx")
    images = random_images(options)
    np.testing.assert_allclose(load_exported(tmp_path / "m.onnx", config_for()).run(images),
                               layers(Tensor(images)).asnumpy(), rtol=1e-4, atol=1e-5)


def test_onnx_of_an_unknown_cell_is_refused(tmp_path: Path) -> None:
    options = ExportOptions(SIZE)
    with pytest.raises(TypeError, match="1: no ONNX is known for a Tanh"):
        export(Deployable(nn.SequentialCell(ConvBN(3, 8), nn.Tanh()), options), options, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_normalisation_and_softmax_inside_the_graph(file_format: str, checkpoint: Path, network: MobileNetV2,
                                                    tmp_path: Path) -> None:
    path = tmp_path / f"inside.{file_format.lower()}"
    options = ("--export_batch_size", 2, "--export_normalise", "--export_softmax")
    call_main("--ckpt_file", checkpoint, "--file_format", file_format, "--file_name", path, *options)
    loaded = load_exported(path, config_for())
    assert loaded.normalisation is None
    pixels = np.random.default_rng(3).integers(0, 256, (5, 3, SIZE, SIZE)).astype(np.float32)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (IMAGENET_PIXELS.pixel_mean, IMAGENET_PIXELS.pixel_std))
    normalised = (pixels - mean) / std
    logits = network(Tensor(normalised.astype(np.float32))).asnumpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(loaded.run(pixels), probabilities, atol=1e-5)  # five through batches of two
    as_logits = loaded(Tensor(pixels)).asnumpy()
    np.testing.assert_allclose(as_logits - as_logits.max(axis=1, keepdims=True),
                               logits - logits.max(axis=1, keepdims=True), atol=1e-4)


def test_the_json_says_how_to_use_it(mindir: Path) -> None:
    assert sorted(path.name for path in mindir.parent.iterdir()) == ["m.v2.mindir", "m.v2.mindir.json"]
    told = json.loads((mindir.parent / "m.v2.mindir.json").read_text())
    assert told["classes"] == list(CLASSES)
    assert told["epoch"] == 7
    assert told["input"]["batch_size"] == 1
    assert told["output"] == {"name": "logits", "meaning": "logits", "num_classes": 3}
    assert told["preprocessing"]["resize_shorter_side"] == 37
    assert told["preprocessing"]["centre_crop"] == SIZE
    np.testing.assert_allclose(told["preprocessing"]["mean"], [123.675, 116.28, 103.53])
    np.testing.assert_allclose(told["preprocessing"]["std"], [58.395, 57.12, 57.375])


def test_everybody_may_read_what_was_written(mindir: Path, onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    pairs = ((mindir.parent, "folder"), (mindir, "file"), (mindir.with_name(f"{mindir.name}.json"), "file"),
             (onnx, "file"))
    for path, like in pairs:
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / like).stat().st_mode)


def test_the_graph_is_made_of_stock_operators(mindir: Path, onnx: Path) -> None:
    for path in (mindir, onnx):  # both were written with the profile's cpu_kernels: auto
        content = path.read_bytes()
        assert b"Conv" in content
        assert b"Custom" not in content
        assert b".so" not in content


def test_what_cannot_be_exported_is_one_clear_line(checkpoint: Path, tmp_path: Path) -> None:
    run = run_script("export.py", "--platform", "CPU", "--ckpt_file", checkpoint, "--file_format", "AIR",
                     "--file_name", tmp_path / "m")
    assert_one_clear_line(run, "AIR", "Ascend only")
    target = ("--file_name", tmp_path / "m")
    assert "--ckpt_file" in refusal(*target)
    assert "no such checkpoint" in refusal("--ckpt_file", tmp_path / "none.ckpt", *target)
    assert "does not fit the network" in refusal("--ckpt_file", checkpoint, "--width_mult", 0.5, *target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_any_name_will_do(file_format: str, checkpoint: Path, tmp_path: Path) -> None:
    """MindSpore itself refuses all but ASCII letters, digits and a few signs."""
    path = tmp_path / "文件 夹" / f"模型 1.{file_format.lower()}"
    call_main("--ckpt_file", checkpoint, "--file_format", file_format, "--file_name", path)
    loaded = load_exported(path, config_for())
    assert loaded.run(batch(1)).shape == (1, len(CLASSES))
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, f"{path.name}.json"}


def test_a_file_that_cannot_be_written_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = refusal("--ckpt_file", checkpoint, "--file_name", tmp_path / "file" / "m")
    assert text.startswith(f"{tmp_path / 'file' / 'm.mindir'}: cannot write this file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("ending", [".onnx", ".mindir"])
def test_truncated_files_are_refused(ending: str, described: bool, share: float, onnx: Path, mindir: Path,
                                     tmp_path: Path) -> None:
    whole = onnx if ending == ".onnx" else mindir
    cut = tmp_path / f"cut{ending}"
    content = whole.read_bytes()
    cut.write_bytes(content[:int(share * len(content))])
    if described:
        beside = whole.with_name(f"{whole.name}.json")
        cut.with_name(f"{cut.name}.json").write_text(beside.read_text())
    with pytest.raises(UserError, match="damaged") as error:
        load_exported(cut, config_for())
    assert str(error.value).startswith(f"{cut}: ")
    assert "\n" not in str(error.value)


def test_other_sizes_and_kinds_are_refused(onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"any\.onnx: takes images of 32x32 pixels, not of 64x64"):
        load_exported(onnx, config_for()).run(np.zeros((2, 3, 64, 64), np.float32))
    with pytest.raises(UserError, match=r"any\.onnx: does not take 2 images"):
        load_exported(onnx, config_for()).run(np.zeros((2, 1, 32, 32), np.float32))
    with pytest.raises(UserError, match="no such file"):
        load_exported(tmp_path / "none.onnx", config_for())
    text = tmp_path / "text.mindir"
    text.write_text("not a graph")
    with pytest.raises(UserError, match="not a MINDIR file"):
        load_exported(text, config_for())


def test_without_onnx_runtime_it_is_said_what_to_install(onnx: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "blocker.py").write_text(
        "import importlib.util, sys\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'onnxruntime' else find(name, *rest)\n"
        "sys.path.insert(0, '')\n"
        "import runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n")
    run = run_script(tmp_path / "blocker.py", "export.py", "--platform", "CPU", "--ckpt_file", checkpoint,
                     "--file_format", "ONNX", "--file_name", tmp_path / "m")
    assert run.returncode == 0, run.stderr
    assert "not verified: ONNX Runtime is not installed; pip install onnxruntime" in run.stdout
