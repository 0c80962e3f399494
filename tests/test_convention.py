"""Padding, epsilon and normalisation go with a network: from foreign weights through all commands to exported files."""
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import Images, config_for, make_images, run_script
from mindspore import Tensor

import eval as evaluation
import train
from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.pretrained import open_pretrained
from src.checkpoint.record import CheckpointMetadata
from src.data.image_folder import ImageFolder
from src.dataset import ImageData
from src.deployment.description import Description
from src.deployment.model_file import open_model
from src.deployment.runtime import ExportedNetwork, load_exported
from src.distributed.world import World
from src.errors import UserError
from src.json_records import make_record
from src.mobilenetV2 import PADDINGS, MobileNetV2
from src.model_utils.keys import KEYS
from src.normalisation import IMAGENET_PIXELS, NORMALISATIONS
from src.training.distillation import Teacher
from src.training.features import pooled_features
from src.utils import load_weights
from tests.support.foreign_weights import balanced_weights
from tests.support.tensorflow_files import slim_variables, write_bundle
from tools.convert_weights import main as convert_weights

AS_TENSORFLOW = {"padding": "same", "bn_eps": 1e-3, "normalisation": "inception"}
MINUS_ONE_TO_ONE = NORMALISATIONS["inception"]


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of TF-slim with four classes."""
    return write_bundle(tmp_path_factory.mktemp("slim") / "net.ckpt", slim_variables(balanced_weights()))


@pytest.fixture(scope="module")
def four_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("four"), dict.fromkeys("abcd", 3))


def plain_logits(slim: Path, images: Tensor) -> np.ndarray:
    """By stock cells that are told the convention here."""
    network = MobileNetV2(4, 0.35, padding="same", bn_eps=1e-3).set_train(False)
    load_weights(network, open_pretrained(slim))
    return network(images).asnumpy()


def call(command: ModuleType, *argv: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{command.__name__}.py", "--platform", "CPU", *map(str, argv)])
        command.main()


def test_the_choices_of_the_keys_are_those_of_the_code() -> None:
    assert KEYS["padding"].choices == PADDINGS
    assert KEYS["normalisation"].choices == tuple(NORMALISATIONS)


def test_evaluation_shows_images_as_the_network_knows_them(slim: Path, four_colours: Path,
                                                           capsys: pytest.CaptureFixture) -> None:
    folder = ImageFolder.scan(four_colours)
    (images, labels), = ImageData(folder, 64, 12, training=False, normalisation=MINUS_ONE_TO_ONE).epoch()
    assert -1 <= images.asnumpy().min() < images.asnumpy().max() <= 1
    right = int((plain_logits(slim, images).argmax(1) == labels.asnumpy()).sum())
    call(evaluation, "--dataset_path", four_colours, "--pretrain_ckpt", slim, "--image_size", 64)
    score = re.search(r"'acc': ([\d.]+)", capsys.readouterr().out)
    assert score
    assert float(score[1]) == pytest.approx(right / 12, abs=1e-4)


def test_training_keeps_it_and_so_does_its_checkpoint(slim: Path, images: Images, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    photos = images({"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 1})
    options = ("--dataset_path", photos, "--pretrain_ckpt", slim, "--freeze_layer", "backbone", "--image_size", 32,
               "--epoch_size", 1, "--batch_size", 4, "--save_checkpoint_path", tmp_path / "run")
    call(train, *options)
    best = read_checkpoint(tmp_path / "run" / "best.ckpt")
    assert {key: best.config[key] for key in AS_TENSORFLOW} == AS_TENSORFLOW
    model = open_model(config_for("--pretrain_ckpt", best.path))
    assert model.normalisation == MINUS_ONE_TO_ONE
    assert (model.config.padding, model.config.bn_eps) == ("same", 1e-3)
    # The features that it was trained on are those of such a network.
    backbone = MobileNetV2(2, 0.35, padding="same", bn_eps=1e-3).backbone
    load_weights(backbone, open_pretrained(slim), filter_head=True)
    train_folder = ImageFolder.scan(photos / "train")
    before = set((tmp_path / "cache").rglob("*.npy"))
    pooled_features(backbone, train_folder, 32, 4, 1, World(), MINUS_ONE_TO_ONE)
    assert set((tmp_path / "cache").rglob("*.npy")) == before


def test_an_option_is_stronger_than_the_file(slim: Path) -> None:
    model = open_model(config_for("--pretrain_ckpt", slim, "--normalisation", "imagenet"))
    assert model.normalisation == IMAGENET_PIXELS
    assert model.config.padding == "same"


def test_features_of_another_convention_are_others(four_colours: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path))
    folder, weights = ImageFolder.scan(four_colours), dict[str, Tensor]()
    for normalisation, convention in ((IMAGENET_PIXELS, {}), (MINUS_ONE_TO_ONE, {}),
                                      (IMAGENET_PIXELS, {"padding": "same"}), (IMAGENET_PIXELS, {"bn_eps": 1e-3})):
        network = MobileNetV2(2, 0.35, **convention)
        for parameter in network.get_parameters():
            parameter.set_data(weights.setdefault(parameter.name, parameter.value()))
        pooled_features(network.backbone, folder, 32, 4, 1, World(), normalisation)
    assert len(list(tmp_path.rglob("*.npy"))) == 4


@pytest.mark.parametrize("inside", [False, True], ids=["before", "inside"])
@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_an_exported_file_computes_it_and_says_it(file_format: str, inside: bool, slim: Path, tmp_path: Path) -> None:
    if file_format == "ONNX":
        pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")
    path = tmp_path / f"m.{file_format.lower()}"
    run = run_script("export.py", "--platform", "CPU", "--ckpt_file", slim, "--file_format", file_format, "--file_name",
                     path, "--image_size", 64, "--export_batch_size", 0, "--export_normalise", inside)
    assert run.returncode == 0, run.stderr
    told = json.loads((tmp_path / f"{path.name}.json").read_text())["preprocessing"]
    assert (told["mean"], told["std"]) == ([127.5] * 3, [127.5] * 3)
    exported = load_exported(path, config_for())
    assert exported.normalisation == (None if inside else MINUS_ONE_TO_ONE)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64)).astype(np.float32)
    normalised = pixels / 127.5 - 1
    expected = plain_logits(slim, Tensor(normalised))
    np.testing.assert_allclose(exported.run(pixels if inside else normalised), expected, rtol=0,
                               atol=1e-4)


@pytest.mark.parametrize(("preprocessing", "fault"), [
    ({"mean": [1.0, 2.0]}, "mean must be 3 numbers"), ({"std": [1.0, 0.0, 1.0]}, "std must be more than 0"),
    ({"std": [1.0, 1.0, float("nan")]}, "std must be 3 numbers")])
def test_a_description_that_cannot_be(preprocessing: dict, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        make_record(Description, {"preprocessing": preprocessing}, "m.onnx.json")


def test_a_file_of_an_earlier_version_is_imagenets() -> None:
    class Unknown:
        image_size: int | None = None
        batch_size = best_batch_size = 0
        description = Description()

        def __call__(self, images: np.ndarray) -> np.ndarray:
            return images

    assert ExportedNetwork(Unknown(), Description(), Path("m.onnx"), 32).normalisation == IMAGENET_PIXELS


@pytest.mark.parametrize("students", NORMALISATIONS)
def test_a_teacher_sees_its_own_normalisation(students: str, slim: Path) -> None:
    """Whatever the student's is."""
    config = config_for("--kd_teacher", slim, "--normalisation", students, "--image_size", 64, "--batch_size", 2)
    teacher = Teacher(config, tuple("abcd"))
    teacher.prepare(2)
    pixels = np.random.default_rng(0).random((2, 3, 64, 64)).astype(np.float32)
    seen = NORMALISATIONS[students]
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (seen.mean, seen.std))
    expected = plain_logits(slim, Tensor(2 * pixels - 1))
    found = teacher(Tensor(((pixels - mean) / std).astype(np.float32))).asnumpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("target", ["torchvision", "timm", "safetensors"])
def test_networks_of_another_convention_are_not_given_such_weights(target: str, slim: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its network has padding same, and those of PyTorch symmetric"):
        convert_weights(["--source", str(slim), "--to", target, "--output", str(tmp_path / "w.safetensors")])
    assert not (tmp_path / "w.safetensors").exists()


def test_a_converted_checkpoint_keeps_it(slim: Path, tmp_path: Path) -> None:
    convert_weights(["--source", str(slim), "--output", str(tmp_path / "k.ckpt")])
    found = open_pretrained(tmp_path / "k.ckpt")
    assert found.config == {"width_mult": 0.35, "num_classes": 4, **AS_TENSORFLOW}
    assert all(np.array_equal(found.network[name].asnumpy(), value) for name, value in balanced_weights().items())


def test_a_checkpoint_of_an_earlier_version_is_pytorchs(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "k.ckpt", {name: Tensor(value) for name, value in balanced_weights().items()}, {},
                     CheckpointMetadata({"width_mult": 0.35}))
    config = open_model(config_for("--pretrain_ckpt", tmp_path / "k.ckpt")).config
    assert (config.padding, config.bn_eps, config.normalisation) == ("symmetric", 1e-5, "imagenet")
