"""Learning from a teacher: the loss, teachers of every kind of file, and runs that have one."""
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, config_for, few_blocks, make_images
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn, ops

import train
from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.checkpoint.retention import CheckpointFolder
from src.data.image_folder import ImageFolder
from src.dataset import Batch, ImageData
from src.deployment.exporter import ExportOptions, deployable, describe, export, write_description
from src.errors import UserError
from src.models import CrossEntropyWithLabelSmooth, define_net
from src.normalisation import IMAGENET_PIXELS
from src.training.distillation import DistillationDataset, DistillationLoss, Teacher
from src.training.optimizer import build_optimizer
from src.training.resume import Run
from src.training.state import TrainingState
from src.training.step import TrainStep
from src.utils import network_parameters

CLASSES = ("blue", "green", "red")
TINY = ROOT / "tests/fixtures/tiny.onnx"  # of these classes, 32 pixels, 4 images at a time


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {f"{part}/{name}": count for part, count in (("train", 5), ("val", 2)) for name in CLASSES}
    return make_images(tmp_path_factory.mktemp("photos"), counts)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network of width .5 as a checkpoint, as MINDIR of batches of 4, and as ONNX with all inside."""
    folder = tmp_path_factory.mktemp("teachers")
    config = config_for("--width_mult", 0.5, "--image_size", 32, "--seed", 8)
    network = define_net(config, len(CLASSES))
    random = np.random.default_rng(0)
    for parameter in network.trainable_params():  # opinions, which a new network has none
        parameter.set_data(parameter + Tensor(0.1 * random.standard_normal(parameter.shape).astype(np.float32)))
    paths = {kind: folder / f"m.{kind}" for kind in ("ckpt", "mindir", "onnx")}
    write_checkpoint(paths["ckpt"], network_parameters(network), {},
                     CheckpointMetadata(config.as_dict(), CLASSES))
    options = ExportOptions(32, 4)
    export(deployable(read_checkpoint(paths["ckpt"]), config, options), options, paths["mindir"])
    write_description(describe(paths["mindir"], options, CLASSES, 3, {}), paths["mindir"])
    options = ExportOptions(32, batch_size=0, normalise=True, softmax=True)
    export(deployable(read_checkpoint(paths["ckpt"]), config, options), options, paths["onnx"], CLASSES)
    write_description(describe(paths["onnx"], options, CLASSES, 3, {}), paths["onnx"])
    return paths


def student(*argv: object) -> Any:  # noqa: ANN401 - a Config
    size = () if "--image_size" in argv else ("--image_size", 32)
    return config_for("--width_mult", 0.35, "--batch_size", 6, *size, *argv)


# ---- the loss

def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


LOSSES = {values: DistillationLoss(CrossEntropyWithLabelSmooth(0.1),
                                   student("--kd_weight", values[0], "--kd_temperature", values[1]))
          for values in ((0.0, 2.0), (0.5, 1.0), (0.7, 4.0), (1.0, 2.0))}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(LOSSES)), st.integers(0, 2 ** 31))
def test_the_loss_is_the_formula(values: tuple[float, float], seed: int) -> None:
    weight, temperature = values
    random = np.random.default_rng(seed)
    logits, teacher = (3 * random.standard_normal((2, 6, 4))).astype(np.float32)
    shares = np.eye(4, dtype=np.float32)[random.integers(0, 4, 6)]
    hard = -((0.9 * shares + 0.1 / 4) * log_softmax(logits)).sum(axis=1).mean()
    p, q = log_softmax(teacher / temperature), log_softmax(logits / temperature)
    divergence = (np.exp(p) * (p - q)).sum(axis=1).mean()
    expected = (1 - weight) * hard + weight * temperature ** 2 * divergence
    found = LOSSES[values](Tensor(logits), Tensor(np.concatenate([shares, teacher], axis=1)))
    assert float(found.asnumpy()) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_student_that_agrees_has_nothing_to_learn_from_its_teacher() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    shifted = np.concatenate([np.zeros((6, 4), np.float32), logits + 7], axis=1)
    assert float(LOSSES[1.0, 2.0](Tensor(logits), Tensor(shifted)).asnumpy()) == pytest.approx(0, abs=1e-5)


# ---- teachers

class Lesson:
    """Batches in memory, of images or of any inputs."""

    def __init__(self, *batches: tuple[np.ndarray, np.ndarray]) -> None:
        self.images, self.batch_size, self.steps_per_epoch = 0, len(batches[0][0]), len(batches)
        self._batches = batches

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        yield from ((Tensor(inputs), Tensor(labels)) for inputs, labels in self._batches[first_step:])

    def replan(self, first_size: int, image_size: int, epochs: int) -> None:
        raise AssertionError("no test here has a plan")


def test_every_kind_of_file_teaches_the_same(teachers: dict[str, Path]) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")
    random = np.random.default_rng(1)
    lesson = Lesson(*((random.standard_normal((6, 3, 32, 32)).astype(np.float32), random.integers(0, 3, 6, np.int32))
                      for _ in range(3)))
    config = student("--cpu_kernels", "off", "--kd_weight", 0.9, "--lr_max", 0.01, "--dropout", 0)
    with few_blocks():
        network = define_net(config, 3)
    step = TrainStep(network, DistillationLoss(CrossEntropyWithLabelSmooth(0.1), config),
                     build_optimizer(network, np.full(3, 0.01, np.float32), config), config)
    step.set_train()
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.BatchNorm2d):
            cell.set_train(False)  # statistics of 6 images would make the steps chaotic: 1e-6 becomes 1e-2 in two
    start = {parameter.name: parameter.asnumpy().copy() for parameter in step.get_parameters()}
    ends, losses, targets = {}, {}, {}
    for kind, path in teachers.items():
        for parameter in step.get_parameters():
            ops.assign(parameter, Tensor(start[parameter.name]))  # set_data does not reach a compiled optimizer
        teacher = Teacher(student("--kd_teacher", path), CLASSES)
        batches = list(DistillationDataset(lesson, teacher).epoch(0))
        targets[kind] = batches[0][1].asnumpy()
        losses[kind] = [float(loss.asnumpy()) for loss, _ in (step(*batch) for batch in batches)]
        ends[kind] = {parameter.name: parameter.asnumpy().copy() for parameter in network.trainable_params()}
    assert targets["ckpt"].shape == (6, 6)
    assert targets["ckpt"][:, 3:].std() > 0.1
    moved = max(np.abs(end - start[name]).max() for name, end in ends["ckpt"].items())
    assert moved > 0.01
    for kind in ("mindir", "onnx"):
        np.testing.assert_allclose(losses[kind], losses["ckpt"], atol=1e-4)
        # Two programs round each operator in ways of their own, by the processor, too; three steps carry that on. It is
        # a hundredth of what the steps move, where another target moves all of it.
        for name, end in ends["ckpt"].items():
            np.testing.assert_allclose(ends[kind][name], end, atol=0.03 * moved, err_msg=f"{kind} {name}")


def test_the_teacher_sees_the_mixed_images_and_keeps_their_shares(photos: Path, teachers: dict[str, Path]) -> None:
    from src.data.transforms import Augmentation
    config = student("--kd_teacher", teachers["ckpt"], "--mixup_alpha", 1)
    data = ImageData(ImageFolder.scan(photos / "train"), 32, 6, training=True, augmentation=Augmentation.of(config))
    teacher = Teacher(config, CLASSES)
    batches = zip(data.epoch(0), DistillationDataset(data, teacher).epoch(0), strict=True)
    for (images, shares), (same_images, targets) in batches:
        np.testing.assert_array_equal(same_images.asnumpy(), images.asnumpy())
        np.testing.assert_array_equal(targets.asnumpy()[:, :3], shares.asnumpy())
        np.testing.assert_array_equal(targets.asnumpy()[:, 3:], teacher(images).asnumpy())
        assert ((shares.asnumpy() > 0.01) & (shares.asnumpy() < 0.99)).any()


def test_a_teacher_takes_pixels_or_normalised_images(photos: Path, teachers: dict[str, Path]) -> None:
    folder = ImageFolder.scan(photos / "train")
    (pixels, _), (images, _) = (next(iter(ImageData(folder, 32, 6, training=True, normalisation=given).epoch(0)))
                                for given in (None, IMAGENET_PIXELS))
    for path in teachers.values():
        teacher = Teacher(student("--kd_teacher", path), CLASSES)
        teacher.prepare(6)
        np.testing.assert_allclose(teacher(pixels).asnumpy(), teacher(images).asnumpy(), rtol=1e-3, atol=1e-3)


def refusal(config: Any, classes: tuple[str, ...] = CLASSES) -> str:  # noqa: ANN401 - a Config
    with pytest.raises(UserError) as error:
        Teacher(config, classes).prepare(batch_size=2)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_teachers_that_will_not_do(teachers: dict[str, Path], tmp_path: Path) -> None:
    assert refusal(student("--kd_teacher", "none.ckpt")) == "none.ckpt: no such checkpoint"
    frozen = student("--kd_teacher", TINY, "--freeze_layer", "backbone", "--pretrain_ckpt", "x.ckpt")
    assert refusal(frozen).startswith("--kd_teacher needs the images of each step")
    text = refusal(student("--kd_teacher", teachers["ckpt"]), ("blue", "green", "pink"))
    assert text.startswith(f"{teachers['ckpt']} as a teacher: its classes are not the model's")
    text = refusal(student("--kd_teacher", TINY, "--image_size", 64))
    assert f"{TINY}: takes images of 32x32 pixels, not of 64x64; a teacher sees the student's images" in text
    text = refusal(student("--kd_teacher", TINY, "--multi_scale_min", 32, "--multi_scale_max", 64))
    assert "takes images of 32x32 pixels, not of 64x64" in text
    nameless = shutil.copy(teachers["mindir"], tmp_path)  # without its JSON
    text = refusal(student("--kd_teacher", nameless), ("a", "b"))
    assert text == f"{nameless}: as a teacher it must know the 2 classes of the images, and it knows 3"


# ---- what it is good for

class LinearTeacher:
    """A teacher whose logits are a product with a matrix of inputs x classes."""

    def __init__(self, weights: np.ndarray) -> None:
        self._weights, self.num_classes = weights, weights.shape[1]

    def prepare(self, batch_size: int) -> None:
        """There is nothing to load."""

    def __call__(self, inputs: Tensor) -> Tensor:
        return Tensor(inputs.asnumpy() @ self._weights)


def test_a_student_of_noisy_labels_agrees_more_with_its_teacher_than_one_without() -> None:
    random = np.random.default_rng(2)
    wisdom = random.standard_normal((16, 4)).astype(np.float32)
    lesson = Lesson(*((random.standard_normal((32, 16)).astype(np.float32), random.integers(0, 4, 32, np.int32))
                      for _ in range(40)))
    taught = DistillationDataset(lesson, LinearTeacher(wisdom))  # type: ignore[arg-type]
    config = student("--kd_weight", 0.9)
    hard = CrossEntropyWithLabelSmooth(0.1)
    unseen = random.standard_normal((500, 16)).astype(np.float32)
    agreement = []
    for data, loss in ((lesson, hard), (taught, DistillationLoss(hard, config))):
        network = nn.Dense(16, 4, weight_init="zeros")
        step = TrainStep(network, loss, build_optimizer(network, np.full(40, 0.1, np.float32), config), config)
        for batch in data.epoch(0):
            step(*batch)
        agreement.append((network(Tensor(unseen)).asnumpy().argmax(1) == (unseen @ wisdom).argmax(1)).mean())
    assert agreement[0] < 0.6
    assert agreement[1] > 0.9


# ---- runs

def test_a_run_with_a_teacher_goes_on_bit_for_bit(photos: Path, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    teacher = shutil.copy(TINY, tmp_path)
    save = CheckpointFolder.save

    def save_and_copy(self: CheckpointFolder, name: str, *rest: Any) -> bool:  # noqa: ANN401 - as save
        done = save(self, name, *rest)
        if self.path == whole and name == "mobilenetv2-1_1":
            shutil.copytree(whole, cut)  # as if the run had ended here
        return done

    for folder, path in ((whole, TINY), (cut, teacher)):  # the file may lie elsewhere
        argv = ["train.py", "--platform", "CPU", "--image_size", "32", "--width_mult", "0.35", "--batch_size", "5",
                "--epoch_size", "1", "--save_checkpoint_steps", "1", "--warmup_epochs", "0",
                "--dataset_path", photos, "--kd_teacher", path, "--save_checkpoint_path", folder]
        with few_blocks(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(word) for word in argv])
            patch.setattr(CheckpointFolder, "save", save_and_copy)
            train.main()
    assert "1 of 3 steps done" in capsys.readouterr().out
    found, expected = read_checkpoint(cut / "last.ckpt"), read_checkpoint(whole / "last.ckpt")
    assert found.training.history == expected.training.history
    for part in ("network", "state"):
        for name, value in getattr(expected, part).items():
            np.testing.assert_array_equal(getattr(found, part)[name].asnumpy(), value.asnumpy(), err_msg=name)


def test_another_teacher_is_another_run() -> None:
    def run(digest: str, path: str = "") -> Run:
        return Run(student("--kd_teacher", path), CLASSES, "pictures", 1, 3, digest)

    def metadata(run: Run) -> CheckpointMetadata:
        return run.metadata(TrainingState())

    earlier = metadata(run("a", "one.onnx"))
    assert run("a", "elsewhere/one.onnx").difference(earlier) is None
    assert run("b", "one.onnx").difference(earlier) == "the teacher is another one now"
    assert run("").difference(earlier) == "there is no teacher now and there was one"
    assert run("a", "one.onnx").difference(metadata(run(""))) == "there is a teacher now and there was none"
