"""export.py --quantize int8: a float ONNX file becomes an eight-bit one that computes nearly the same."""
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import assert_one_clear_line, config_for, make_images, run_script
from PIL import Image

from src.checkpoint.file import write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.deployment import exporter
from src.deployment.calibration_images import load_calibration_images
from src.deployment.conversion import convert
from src.deployment.exporter import Deployable, ExportOptions
from src.deployment.formats import ENDINGS
from src.deployment.runtime import load_exported
from src.errors import UserError
from src.mobilenetV2 import MobileNetV2
from src.normalisation import IMAGENET_PIXELS
from src.quantization.int8 import quantize_file
from src.quantization.onnx_graph import activations, equalisable, load_folded
from tests.support.converters import needs_converter

CLASSES = ("blue", "green", "red")
SIZE = 32


# ---- a graph

def small_network(path: Path, batch: int | str = "N") -> Path:
    """Stem, inverted residual with its shortcut, and head of a network, as an ONNX file of random weights."""
    generator = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {"least": np.array(0, np.float32), "most": np.array(6, np.float32)}
    nodes = []

    def conv_bn(name: str, source: str, shape: tuple[int, ...], stride: int = 1, relu6: bool = True) -> str:
        channels = shape[0]
        weights[f"{name}.weight"] = (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        values = (generator.uniform(0.3, 3, channels), generator.standard_normal(channels),
                  generator.standard_normal(channels) / 4, generator.uniform(0.3, 1, channels))
        norm = [f"{name}.{kind}" for kind in ("gamma", "beta", "mean", "variance")]
        weights.update(zip(norm, (value.astype(np.float32) for value in values), strict=True))
        padding = shape[2] // 2
        nodes.append(onnx.helper.make_node(
            "Conv", [source, f"{name}.weight"], [f"{name}.sums"], kernel_shape=shape[2:], pads=[padding] * 4,
            strides=[stride] * 2, group=channels if shape[1] == 1 else 1))
        nodes.append(onnx.helper.make_node("BatchNormalization", [f"{name}.sums", *norm], [f"{name}.normed"],
                                           epsilon=1e-5))
        if not relu6:
            return f"{name}.normed"
        nodes.append(onnx.helper.make_node("Clip", [f"{name}.normed", "least", "most"], [f"{name}.clipped"]))
        return f"{name}.clipped"

    stem = conv_bn("stem", "images", (8, 3, 3, 3), stride=2)
    narrow = conv_bn("narrow", stem, (4, 8, 1, 1), relu6=False)
    expanded = conv_bn("depthwise", conv_bn("expand", narrow, (24, 4, 1, 1)), (24, 1, 3, 3))
    projected = conv_bn("project", expanded, (4, 24, 1, 1), relu6=False)
    nodes.append(onnx.helper.make_node("Add", [narrow, projected], ["sum"]))
    last = conv_bn("last", "sum", (16, 4, 1, 1))
    nodes.append(onnx.helper.make_node("GlobalAveragePool", [last], ["means"]))
    nodes.append(onnx.helper.make_node("Flatten", ["means"], ["pooled"]))
    weights["classifier.weight"] = generator.standard_normal((3, 16)).astype(np.float32)
    weights["classifier.bias"] = generator.standard_normal(3).astype(np.float32)
    nodes.append(onnx.helper.make_node("Gemm", ["pooled", "classifier.weight", "classifier.bias"], ["scores"],
                                       transB=1))
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "small", [value("images", onnx.TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [value("scores", onnx.TensorProto.FLOAT, [batch, 3])],
        [onnx.numpy_helper.from_array(weight, name) for name, weight in weights.items()])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def scores(path: Path, images: np.ndarray) -> np.ndarray:
    return load_exported(path, config_for()).run(images)


def photos(count: int, seed: int = 1) -> np.ndarray:
    """Smooth images: their channels have means of their own, as those of photos have."""
    generator = np.random.default_rng(seed)
    coarse = 1.5 * generator.standard_normal((count, 3, 4, 4)) + generator.standard_normal((count, 3, 1, 1))
    return np.kron(coarse, np.ones((1, 1, SIZE // 4, SIZE // 4))).astype(np.float32)


def test_folding_changes_no_result(tmp_path: Path) -> None:
    source = small_network(tmp_path / "float.onnx")
    folded = load_folded(source)
    onnx.save(folded, tmp_path / "folded.onnx")
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}
    np.testing.assert_allclose(scores(tmp_path / "folded.onnx", photos(5)), scores(source, photos(5)), atol=1e-5)


def test_what_is_stored_in_eight_bits(tmp_path: Path) -> None:
    model = load_folded(small_network(tmp_path / "float.onnx"))
    assert set(activations(model)) == {"images", "stem.clipped", "narrow.normed", "expand.clipped", "depthwise.clipped",
                                       "project.normed", "sum", "last.clipped", "pooled"}
    assert equalisable(model) == {"expand.clipped"}


@pytest.mark.parametrize("batch", ["N", 2])
def test_an_int8_network_computes_nearly_the_same(tmp_path: Path, batch: int | str) -> None:
    source, path = small_network(tmp_path / "float.onnx", batch=batch), tmp_path / "int8.onnx"
    quantize_file(source, photos(40), path)
    images = photos(200, seed=2)
    expected, found = scores(source, images), scores(path, images)
    assert np.sqrt(np.square(found - expected).mean()) < 0.02 * expected.std()
    assert np.abs((found - expected).mean(axis=0)).max() < 0.01 * expected.std()
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.97
    model = onnx.load(path)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["QuantizeLinear"] == 9
    assert kinds["Clip"] == 0
    stored = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    for name in ("stem", "expand", "depthwise", "project", "last", "classifier"):
        numbers = stored[f"{name}.weight_quantized"]
        assert numbers.dtype == np.int8
        assert stored[f"{name}.weight_scale"].shape == (len(numbers),)
    assert max(value.nbytes for value in stored.values() if value.dtype == np.float32) <= 24 * 4  # steps alone


def test_the_runtime_computes_in_integers(tmp_path: Path) -> None:
    """It fuses the pairs of nodes around each operator; what is not fused would be computed in float."""
    quantize_file(small_network(tmp_path / "float.onnx"), photos(30), tmp_path / "int8.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["QLinearConv"] == 6
    assert kinds["QLinearAdd"] == 1
    assert kinds["Conv"] == kinds["Add"] == kinds["Gemm"] == 0


def test_a_channel_with_almost_no_weight_keeps_its_bias(tmp_path: Path) -> None:
    source = small_network(tmp_path / "float.onnx")
    model = onnx.load(source)
    for weight in model.graph.initializer:
        if weight.name in {"expand.gamma", "last.gamma"}:
            values = onnx.numpy_helper.to_array(weight).copy()
            values[::2] = 1e-9
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, source)
    quantize_file(source, photos(40), tmp_path / "int8.onnx")
    expected, found = scores(source, photos(50, 3)), scores(tmp_path / "int8.onnx", photos(50, 3))
    assert np.sqrt(np.square(found - expected).mean()) < 0.03 * expected.std()


@pytest.mark.parametrize("count", [0, 1, 19])
def test_too_few_images_are_refused(tmp_path: Path, count: int) -> None:
    source = small_network(tmp_path / "float.onnx")
    with pytest.raises(UserError, match=f"{count} calibration image.*too few.*at least 20"):
        quantize_file(source, photos(count), tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


# ---- its images

def test_calibration_images_are_those_of_an_evaluation(tmp_path: Path) -> None:
    root = make_images(tmp_path / "photos", {"blue": 3, "red": 2, "other": 1})
    (root / "blue" / "bad.jpg").write_bytes(b"no image")
    config = config_for("--calibration", root, "--image_size", SIZE)
    found = load_calibration_images(config, CLASSES, IMAGENET_PIXELS)
    assert found.images.shape == (6, 3, SIZE, SIZE)
    assert Counter(found.labels.tolist()) == {0: 3, 2: 2, -1: 1}
    pixels = load_calibration_images(config, None, None)
    assert pixels.images.min() >= 0
    assert pixels.images.max() > 100
    assert set(pixels.labels) == {-1}


def test_so_many_images_are_chosen_by_the_seed(tmp_path: Path) -> None:
    root = make_images(tmp_path / "photos", {"blue": 12, "red": 12})
    chosen = [load_calibration_images(
        config_for("--calibration", root, "--image_size", SIZE, "--calibration_images", 8, "--seed", seed), CLASSES,
        IMAGENET_PIXELS).images for seed in (1, 1, 2)]
    assert len(chosen[0]) == 8
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert np.abs(chosen[0] - chosen[2]).max() > 0


def test_no_images_are_one_clear_line(tmp_path: Path) -> None:
    for options, message in (((), "give --calibration"), (("--calibration", tmp_path), "no images here"),
                             (("--calibration", tmp_path / "none"), "no such image, folder or list")):
        with pytest.raises(UserError, match=message):
            load_calibration_images(config_for(*options), CLASSES, IMAGENET_PIXELS)


# ---- the command

def export(*argv: Any) -> Any:  # noqa: ANN401 - a finished process
    return run_script("export.py", "--platform", "CPU", "--image_size", SIZE, *argv)


@pytest.mark.parametrize(("file_format", "batch_size"), [("ONNX", 4), ("TFLITE", 4), ("TFLITE", 0)])
def test_the_command_prints_both_side_by_side(file_format: str, batch_size: int, tmp_path: Path) -> None:
    if file_format == "TFLITE":
        needs_converter(file_format)
        pytest.importorskip("ai_edge_litert", reason="needs a runtime that requirements-runtimes.txt names")
    network = MobileNetV2(len(CLASSES), 0.35)
    checkpoint, path = tmp_path / "best.ckpt", tmp_path / f"模型{ENDINGS[file_format]}"
    write_checkpoint(checkpoint, {parameter.name: parameter for parameter in network.get_parameters()}, {},
                     CheckpointMetadata({"width_mult": 0.35, "image_size": SIZE}, CLASSES))
    root = make_images(tmp_path / "photos", {"blue": 9, "green": 9, "red": 9})
    Image.new("CMYK", (50, 40)).save(root / "red" / "cmyk.jpg")
    run = export("--ckpt_file", checkpoint, "--file_format", file_format, "--file_name", path, "--export_batch_size",
                 batch_size, "--quantize", "int8", "--calibration", root)
    assert run.returncode == 0, run.stderr
    assert "verified: loaded back, it differs from the checkpoint" in run.stdout
    lines = {line.split()[0]: line for line in run.stdout.splitlines() if line.strip()}
    assert lines["top-1"].count("%") == 2
    assert "28 images of" in lines["top-1"]
    assert lines["size"].count("MB") == 2
    assert lines["speed"].count("/s") == 2
    assert "same class for" in run.stdout
    told = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert told["quantization"] == {"type": "int8", "calibration_images": 28}
    assert {entry.name for entry in tmp_path.iterdir()} == {"best.ckpt", "best.json", "photos", path.name,
                                                             f"{path.name}.json"}
    # infer.py and eval.py read it as any other file.
    loaded = load_exported(path, config_for())
    assert (loaded.batch_size, loaded.classes) == (batch_size, CLASSES)
    assert loaded.logits(photos(5)).shape == (5, 3)
    score = run_script("eval.py", "--platform", "CPU", "--dataset_path", root, "--pretrain_ckpt", path)
    assert score.returncode == 0, score.stderr
    assert "'images': 28" in score.stdout


def test_a_tflite_file_is_of_whole_numbers_throughout(tmp_path: Path) -> None:
    """Also its input and output, as accelerators want it."""
    needs_converter("TFLITE")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs requirements-runtimes.txt")
    source = tmp_path / "float.onnx"
    network = Deployable(MobileNetV2(len(CLASSES), 0.35), ExportOptions(SIZE)).set_train(False)
    exporter.export(network, ExportOptions(SIZE), source, CLASSES)
    with convert("TFLITE", source.read_bytes(), photos(1), False, photos(30)) as converted:
        loaded = interpreter.Interpreter(model_content=converted.path.read_bytes())
    loaded.allocate_tensors()
    kinds = Counter(np.dtype(tensor["dtype"]).name for tensor in loaded.get_tensor_details())
    assert kinds["float32"] == 0
    assert kinds["int8"] > 100


def test_another_format_is_refused(tmp_path: Path) -> None:
    run = export("--ckpt_file", tmp_path / "best.ckpt", "--quantize", "int8", "--calibration", tmp_path)
    assert_one_clear_line(run, "--quantize int8 writes ONNX and TFLITE files, not MINDIR")
