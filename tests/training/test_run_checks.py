"""What is told before a run, and after its first epochs, so that no time is lost: one line each."""
import dataclasses
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Images, config_for

from src.data.image_folder import ImageFolder
from src.distributed.world import ALONE, World
from src.errors import UserError
from src.model_utils.config import get_config
from src.training import run_checks
from src.training.run_checks import check_run, nothing_learnt, shared_images


def folder_of(images: Images, name: str, seed: int = 0, **counts: int) -> ImageFolder:
    return ImageFolder.scan(images(counts, name, seed=seed))


def warnings(capsys: pytest.CaptureFixture, train: ImageFolder, *options: object, world: World = ALONE,
             **others: ImageFolder) -> list[str]:
    check_run(config_for(*options), world, train, others)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("warning: ") for line in lines)
    return [line.removeprefix("warning: ").replace(f"{train.root}: ", "") for line in lines]


def test_a_sound_run_is_told_nothing(images: Images, capsys: pytest.CaptureFixture) -> None:
    train, val = folder_of(images, "a", cat=9, dog=2), folder_of(images, "b", seed=1, cat=60, dog=50)
    assert warnings(capsys, train, validation=val) == []
    assert warnings(capsys, train) == []


def test_a_sink_is_accepted_and_said_to_change_nothing(images: Images, capsys: pytest.CaptureFixture) -> None:
    train = folder_of(images, "a", cat=9, dog=2)
    line, = warnings(capsys, train, "--dataset_sink_mode", "True")
    assert line.startswith("--dataset_sink_mode True changes nothing: batches are fed one by one")
    assert list(run_checks.feed_traps(get_config(["--platform", "Ascend", "--dataset_sink_mode", "True"]))) == [line]


# ---- classes

def test_uneven_classes_are_named_with_what_to_do(images: Images, capsys: pytest.CaptureFixture) -> None:
    train = folder_of(images, "a", cat=10, dog=2, eel=7)
    line, = warnings(capsys, train)
    assert line.startswith("uneven classes: cat has 10 training images, dog has 2; ")
    assert "--balanced_sampling True or --class_weights balanced" in line
    assert warnings(capsys, train, "--class_weights", "balanced") == []
    assert warnings(capsys, train, "--balanced_sampling", True) == []
    assert warnings(capsys, train, world=World(1, 2)) == []  # rank 0 tells it


def test_a_class_of_one_image_or_none_is_named(images: Images, capsys: pytest.CaptureFixture) -> None:
    train = folder_of(images, "a", ant=1, bee=1, cat=3)
    assert warnings(capsys, train) == ["one training image of ant, bee: it can hardly be learnt; add images"]
    train = dataclasses.replace(train, classes=(*train.classes, "dog"))
    line, _ = warnings(capsys, train)
    assert line == "no training image of dog: it cannot be learnt; add images, or remove the class"


# ---- batch norm

@pytest.mark.parametrize(("options", "values"), [
    (("--batch_size", 1, "--image_size", 32), 1), (("--batch_size", 2, "--image_size", 32), 2),
    (("--batch_size", 3, "--multi_scale_min", 32, "--multi_scale_max", 64), 3),
    (("--batch_size", 4, "--image_size", 32), 4), (("--batch_size", 1, "--image_size", 64), 4),
    (("--batch_size", 1, "--image_size", 32, "--freeze_layer", "backbone"), 9)])
def test_batch_norm_over_too_few_values(options: tuple, values: int, images: Images,
                                        capsys: pytest.CaptureFixture) -> None:
    train = folder_of(images, "a", cat=4, dog=4)
    if values == 1:
        with pytest.raises(UserError, match="nothing can be learnt; raise --batch_size or --image_size"):
            check_run(config_for(*options), ALONE, train, {})
    else:
        lines = [f"batch norm has only {values} values of each channel in a batch, whose mean and variance are noise; "
                 "raise --batch_size or --image_size"]
        assert warnings(capsys, train, *options) == lines * (values < 4)


def test_ranks_make_the_batch_smaller(images: Images) -> None:
    train = folder_of(images, "a", cat=2, dog=1)
    with pytest.raises(UserError, match="nothing can be learnt"):
        check_run(config_for("--batch_size", 8, "--image_size", 32), World(1, 3), train, {})
    with pytest.raises(UserError, match="nothing can be learnt"):
        check_run(config_for("--batch_size", 1, "--image_size", 224, "--train_image_size", 32), World(), train, {})


# ---- images to score

def test_few_images_to_score_are_told_with_their_interval(images: Images, capsys: pytest.CaptureFixture) -> None:
    train, val = folder_of(images, "a", cat=3, dog=3), folder_of(images, "b", seed=1, cat=5, dog=5)
    line, = warnings(capsys, train, test=val)
    assert line == (f"{val.root}: only 10 test images: 8 right of 10 would mean an accuracy of 49% to 94% (95 % "
                    "interval); small differences tell nothing, use more images")


def test_images_of_both_sides_are_found_by_path_and_by_content(images: Images, capsys: pytest.CaptureFixture) -> None:
    train, val = folder_of(images, "a", cat=3, dog=3), folder_of(images, "b", seed=1, cat=3, dog=3)
    assert shared_images(train, val) == []
    shutil.copy(train.root / "cat/001.jpg", val.root / "dog/900.jpg")
    os.link(train.root / "cat/002.jpg", val.root / "dog/901.jpg")
    val = ImageFolder.scan(val.root)
    assert shared_images(train, val) == ["dog/900.jpg", "dog/901.jpg"]
    _, line = warnings(capsys, train, validation=val)
    assert line.startswith(f"{val.root}: 2 of the 8 validation images are trained on, too (dog/900.jpg, dog/901.jpg), ")
    _, line = warnings(capsys, train, validation=train)
    assert line.startswith("all of the 6 validation images are trained on, too (cat/000.jpg, cat/001.jpg, ")


def test_large_sets_are_compared_by_path_alone(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    train = folder_of(images, "a", cat=3)
    copy = ImageFolder.scan(Path(shutil.copytree(train.root, train.root.parent / "copy")))
    assert len(shared_images(train, copy)) == 3
    monkeypatch.setattr(run_checks, "MOST_COMPARED", 100)
    assert shared_images(train, copy) == []
    assert shared_images(train, train.select([0, 2])) == ["cat/000.jpg", "cat/002.jpg"]


# ---- rates

@pytest.mark.parametrize(("options", "word"), [
    ((), ""), (("--lr_max", 0.4), "high"), (("--lr_max", 0.4, "--lr_base_batch", 2048), ""), (("--lr_max", 0), "low"),
    (("--lr_max", 1e-9), "low"), (("--recipe", "best"), ""), (("--lr_max", 0.03, "--lr_base_batch", 0), ""),
    (("--lr_max", 0.5, "--lr_base_batch", 0), "high")])
def test_rates_far_from_all_that_work(options: tuple, word: str, images: Images, capsys: pytest.CaptureFixture) -> None:
    lines = warnings(capsys, folder_of(images, "a", cat=3, dog=3), *options)
    assert len(lines) == bool(word)
    assert all(f"images is far too {word} for most runs; 0.006 is usual" in line for line in lines)


@pytest.mark.parametrize(("rate", "base", "batch", "accumulated", "reached"), [
    (0.005, 32, 32, 1, "0.005"), (0.001, 32, 32, 1, ""), (0.004, 0, 32, 1, "0.004"), (0.001, 32, 32, 4, "0.004"),
    (0.016, 32, 4, 1, ""), (0.002, 32, 64, 1, "0.004")])
def test_momentum_rates_with_adamw(rate: float, base: int, batch: int, accumulated: int, reached: str, images: Images,
                                   capsys: pytest.CaptureFixture) -> None:
    """The rate that the steps reach counts."""
    lines = warnings(capsys, folder_of(images, "a", cat=9, dog=9), "--optimizer", "adamw", "--lr_max", rate,
                     "--lr_base_batch", base, "--batch_size", batch, "--grad_accum_steps", accumulated)
    assert len(lines) == bool(reached)
    assert all(f"rises to {reached} is far too high" in line for line in lines)


def history(epochs: int, loss: float) -> list[Any]:
    return [{"epoch": epoch + 1, "loss": loss, "lr": 0.1} for epoch in range(epochs)]


@pytest.mark.parametrize(("options", "epochs", "loss", "told"), [
    ((), 2, math.log(4), True), ((), 2, 9.0, True), ((), 2, 1.3, False), ((), 1, 9.0, False), ((), 3, 9.0, False),
    ((), 2, math.nan, False), (("--warmup_epochs", 2.5), 4, 9.0, True), (("--warmup_epochs", 0), 1, 9.0, True),
    (("--focal_gamma", 2), 2, math.log(4) * 0.75 ** 2, True), (("--focal_gamma", 2), 2, 0.7, False),
    (("--kd_teacher", "a.onnx"), 2, 9.0, False)])
def test_a_loss_that_is_no_better_than_guessing_is_told_once(options: tuple, epochs: int, loss: float,
                                                             told: bool) -> None:
    line = nothing_learnt(config_for(*options), history(epochs, loss), classes=4, steps_per_epoch=30)
    assert (line is not None) == told
    if line:
        assert line.startswith(f"after {epochs} epochs the mean loss is {loss:.3f}, and that of guessing is ")


def test_few_steps_tell_nothing() -> None:
    config = config_for("--warmup_epochs", 0)
    told = [nothing_learnt(config, history(epochs, 9.0), 4, steps_per_epoch=6) for epochs in (1, 2, 3, 4, 5)]
    assert [line is not None for line in told] == [False, False, False, True, False]


# ---- options that contradict each other

@pytest.mark.parametrize(("options", "text"), [
    (("--class_weights", "balanced", "--balanced_sampling", True), "both make rare classes count more"),
    (("--precise_bn", True, "--freeze_layer", "backbone"), "but --freeze_layer backbone keeps them"),
    (("--precise_bn", True, "--boost_mode", "O1"), "leaves out; give one of them")])
def test_contradictions_are_refused(options: tuple, text: str, images: Images) -> None:
    with pytest.raises(UserError, match=text):
        check_run(config_for(*options), ALONE, folder_of(images, "a", cat=3, dog=3), {})
