"""Framing goes with a network: from training through evaluation, prediction and export, to the exported files."""
import csv
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import Images, config_for, few_blocks, make_images
from mindspore import Tensor

import eval as evaluation
import export
import infer
import train
from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.data.framing import Framing
from src.data.image_folder import ImageFolder
from src.deployment.description import Description, Preprocessing
from src.deployment.model_file import open_model
from src.deployment.prediction import ImageStream
from src.deployment.runtime import load_exported
from src.distributed.world import World
from src.errors import UserError
from src.json_records import make_record
from src.mobilenetV2 import MobileNetV2
from src.training.features import pooled_features
from src.utils import load_weights

SIZE, CLASSES = 32, ("blue", "green", "red")
OTHERS = {"crop_mode": "pad", "crop_pct": 0.9, "interpolation": "bicubic"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that sees images padded."""
    path = tmp_path_factory.mktemp("checkpoint") / "k.ckpt"
    network = MobileNetV2(3, 0.35)
    weight = network.head.classifier.weight
    weight.set_data(Tensor(np.random.default_rng(5).standard_normal(weight.shape).astype(np.float32)))
    write_checkpoint(path, {parameter.name: parameter for parameter in network.get_parameters()}, {},
                     CheckpointMetadata({"width_mult": 0.35, "image_size": SIZE, **OTHERS}, CLASSES))
    return path


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose middle is not the whole."""
    return make_images(tmp_path_factory.mktemp("wide"), dict.fromkeys(CLASSES, 2), size=(90, 40))


def call(command: ModuleType, *argv: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{command.__name__}.py", "--platform", "CPU", *map(str, argv)])
        command.main()


def images_of(folder: Path, framing: Framing) -> tuple[np.ndarray, np.ndarray]:
    """The images of a folder by a framing of one view, and their labels."""
    found = ImageFolder.scan(folder)
    stream = ImageStream([folder / name for name in found.files], SIZE, len(found), 1, framing=framing)
    (_, images), = stream
    return images, found.labels


def logits_of(checkpoint: Path, images: np.ndarray) -> np.ndarray:
    """By stock cells."""
    network = MobileNetV2(3, 0.35).set_train(False)
    load_weights(network, read_checkpoint(checkpoint))
    return network(Tensor(np.ascontiguousarray(images))).asnumpy().astype(np.float64)


def mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]))


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_eval_and_infer_frame_images_as_the_network_knows_them(tta: str, checkpoint: Path, wide: Path,
                                                               tmp_path: Path) -> None:
    images, labels = images_of(wide, Framing("pad", 0.9, "bicubic"))
    logits = logits_of(checkpoint, images)
    if tta == "flip":
        logits = (logits + logits_of(checkpoint, images[..., ::-1])) / 2
    call(evaluation, "--dataset_path", wide, "--pretrain_ckpt", checkpoint, "--tta", tta, "--batch_size", 4,
         "--predictions", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["loss"] == pytest.approx(mean_loss(logits, labels), abs=1e-3)
    call(infer, "--images", wide, "--model", checkpoint, "--tta", tta, "--batch_size", 4, "--predictions", tmp_path)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open(encoding="utf-8")))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = np.sort(exponentials / exponentials.sum(axis=1, keepdims=True), axis=1)[:, -1]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected, atol=1e-3)


def test_an_option_is_stronger_than_the_file(checkpoint: Path) -> None:
    config = open_model(config_for("--pretrain_ckpt", checkpoint, "--crop_mode", "squash")).config
    assert Framing.of(config) == Framing("squash", 0.9, "bicubic")


def test_training_keeps_it_and_validates_by_it(wide: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "train", dict.fromkeys(CLASSES, 4))
    with few_blocks():
        call(train, "--dataset_path", tmp_path / "train", "--eval_dataset_path", wide, "--width_mult", 0.35,
             "--image_size", SIZE, "--epoch_size", 1, "--batch_size", 4, "--save_checkpoint_path", tmp_path / "run",
             "--crop_mode", "squash", "--interpolation", "bicubic", "--cpu_kernels", "off")
        path = tmp_path / "run" / "last.ckpt"
        assert Framing.of(open_model(config_for("--pretrain_ckpt", path)).config) == \
            Framing("squash", interpolation="bicubic")
        images, labels = images_of(wide, Framing("squash", interpolation="bicubic"))
        row = read_checkpoint(path).training.history[-1]
        assert row["val_loss"] == pytest.approx(mean_loss(logits_of(path, images), labels), abs=1e-3)


def test_features_of_another_framing_are_others(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path))
    with few_blocks():
        backbone = MobileNetV2(2, 0.35).backbone
    folder, found = ImageFolder.scan(wide), []
    for framing in (Framing(), Framing("pad"), Framing("squash"), Framing(crop_pct=0.9),
                    Framing(interpolation="bicubic"), Framing()):
        found.append(pooled_features(backbone, folder, SIZE, 6, 1, World(), framing=framing))
    assert len(list(tmp_path.rglob("*.npy"))) == 5
    np.testing.assert_array_equal(found[0], found[-1])
    assert all(np.abs(features - found[0]).max() > 1e-4 for features in found[1:-1])


def test_an_exported_file_says_it_and_is_scored_by_it(checkpoint: Path, wide: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")
    path = tmp_path / "m.onnx"
    call(export, "--ckpt_file", checkpoint, "--file_format", "ONNX", "--file_name", path, "--tta", "flip")
    told = json.loads(path.with_name("m.onnx.json").read_text())["preprocessing"]
    assert {key: told[key] for key in (*OTHERS, "tta")} == {**OTHERS, "tta": "flip"}
    assert (told["resize_longer_side"], told["pad_colour"]) == (SIZE, [124, 116, 104])
    assert "resize_shorter_side" not in told

    images, labels = images_of(wide, Framing("pad", 0.9, "bicubic"))
    expected = mean_loss((logits_of(checkpoint, images) + logits_of(checkpoint, images[..., ::-1])) / 2, labels)
    for described in (True, False):  # the file has it inside, too
        if not described:
            path.with_name("m.onnx.json").unlink()
        assert load_exported(path, config_for()).framing == Framing("pad", 0.9, "bicubic", "flip")
        call(evaluation, "--dataset_path", wide, "--pretrain_ckpt", path, "--predictions", tmp_path)
        assert json.loads((tmp_path / "metrics.json").read_text())["loss"] == pytest.approx(expected, abs=1e-3)
    model = open_model(config_for("--pretrain_ckpt", path, "--tta", "none"))
    assert Framing.with_views(model.config) == Framing("pad", 0.9, "bicubic")


@pytest.mark.parametrize(("options", "told", "untold"), [
    ((), {"resize_shorter_side": 37, "crop_mode": "center", "crop_pct": 0.875, "interpolation": "bilinear"}, "resize"),
    (("--crop_pct", 1, "--interpolation", "bicubic"), {"resize_shorter_side": 32, "interpolation": "bicubic"},
     "resize"),
    (("--crop_mode", "squash"), {"resize": [32, 32], "centre_crop": 32}, "resize_shorter_side")])
def test_the_json_of_each_mode(options: tuple, told: dict, untold: str, tmp_path: Path) -> None:
    with few_blocks():
        network = MobileNetV2(3, 0.35)
        write_checkpoint(tmp_path / "k.ckpt", {parameter.name: parameter for parameter in network.get_parameters()}, {},
                         CheckpointMetadata({"width_mult": 0.35, "image_size": SIZE}, CLASSES))
        call(export, "--ckpt_file", tmp_path / "k.ckpt", "--file_format", "ONNX", "--file_name", tmp_path / "m",
             *options)
    found = json.loads((tmp_path / "m.onnx.json").read_text())["preprocessing"]
    assert {key: found[key] for key in told} == told
    assert untold not in found


def test_a_file_of_an_earlier_version_has_the_defaults() -> None:
    old = {"centre_crop": 32, "resize_shorter_side": 37, "interpolation": "bilinear", "normalise": "before the graph"}
    assert make_record(Preprocessing, old, "m.onnx.json").framing == Framing()


@pytest.mark.parametrize(("preprocessing", "fault"), [
    ({"crop_mode": "border"}, "crop_mode must be one of center, pad, squash"), ({"crop_pct": 0}, "crop_pct must be"),
    ({"interpolation": "lanczos"}, "interpolation must be one of bilinear, bicubic"),
    ({"crop_pct": math.nan}, "crop_pct must be"), ({"tta": 5}, "tta: of another type than expected")])
def test_a_description_that_cannot_be(preprocessing: dict, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        make_record(Description, {"preprocessing": preprocessing}, "m.onnx.json")


@pytest.mark.parametrize("command", [evaluation, infer, export])
def test_five_crops_of_a_padded_image_are_refused(command: ModuleType, checkpoint: Path, images: Images) -> None:
    folder = images(dict.fromkeys(CLASSES, 1))
    with pytest.raises(UserError, match="--tta five_crop takes crops, but --crop_mode pad shows the whole image"):
        call(command, "--pretrain_ckpt", checkpoint, "--dataset_path", folder, "--images", folder, "--tta", "five_crop")
