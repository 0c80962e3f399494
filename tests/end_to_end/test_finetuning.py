"""Whole runs that fine-tune a network: what is particular to them, and that they resume to the bit."""
import re
import shutil
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_same_run, config_for, few_blocks, make_images

import train
from src.checkpoint.file import Checkpoint, read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata, Plan
from src.errors import UserError
from src.models import define_net
from src.training.state import TrainingState
from src.utils import network_parameters

OPTIONS = ("--platform", "CPU", "--image_size", "64", "--width_mult", "0.35", "--batch_size", "4",
           "--filter_head", "True", "--keep_checkpoint_max", "9", "--epoch_size", "3")

Given = tuple[object, ...]


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    with few_blocks():
        yield


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Images and a checkpoint to start from."""
    folder = tmp_path_factory.mktemp("given")
    make_images(folder / "photos", {"train/ape": 5, "train/zebra": 5, "val/ape": 2, "val/zebra": 2})
    write_checkpoint(folder / "k.ckpt", network_parameters(define_net(config_for("--width_mult", 0.35), 5)), {},
                     CheckpointMetadata())
    return "--dataset_path", folder / "photos", "--pretrain_ckpt", folder / "k.ckpt"


def call_main(given: Given, folder: Path, *more: object) -> Checkpoint:
    """Run train.py in this process; returns its last checkpoint. An option of `more` replaces the usual one."""
    usual = dict(zip(OPTIONS[::2], OPTIONS[1::2], strict=True))
    options = chain.from_iterable((name, value) for name, value in usual.items() if name not in more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *map(str, (*options, *given, "--save_checkpoint_path", folder, *more))])
        train.main()
    return read_checkpoint(folder / "last.ckpt")


def after_epoch(whole: Path, epoch: int, folder: Path) -> Path:
    """What a run of 2 steps an epoch that ended after this one leaves."""
    folder.mkdir()
    for ending in ("ckpt", "json"):
        shutil.copy(whole / f"mobilenetv2-{epoch}_2.{ending}", folder)
    return folder


def test_images_that_grow_resume_at_their_size(given: Given, tmp_path: Path) -> None:
    growing = ("--train_image_size_start", 32)
    expected = call_main(given, tmp_path / "whole", *growing)
    assert expected.config["image_size"] == 64  # what evaluation and export take
    assert_same_run(call_main(given, after_epoch(tmp_path / "whole", 2, tmp_path / "cut"), *growing), expected)


def test_the_classifier_is_fitted_first_and_not_again(given: Given, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture) -> None:
    """Also where the weights that are scored are an average: it starts from the fitted classifier."""
    probing = ("--linear_probe", "--ema_decay", 0.9, "--lr_max", 0)
    expected = call_main(given, tmp_path / "whole", *probing)
    line = r"classifier fitted .*: 100.00% of 10 training images, [\d.]+% of 4 validation images"
    assert len(re.findall(line, capsys.readouterr().out)) == 1
    average, weights = (part["head.classifier.weight"].asnumpy() for part in (expected.network, expected.state))
    np.testing.assert_array_equal(average, weights)
    assert_same_run(call_main(given, after_epoch(tmp_path / "whole", 1, tmp_path / "cut"), *probing), expected)
    assert "classifier fitted" not in capsys.readouterr().out


class Closed:
    """A writer that notes whether the run was finished when it was closed."""

    def __init__(self) -> None:
        self.as_finished: list[bool] = []

    def write(self, step: int, values: dict[str, float]) -> None:
        """Keeps nothing."""

    def close(self, is_finished: bool, files: list[Path]) -> None:
        self.as_finished.append(is_finished)


def test_a_run_without_patience_left_is_finished(given: Given, tmp_path: Path, capsys: pytest.CaptureFixture,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rate of 0 no epoch is better than the first: the third is the last of 9, and the run has its report."""
    writer = Closed()
    monkeypatch.setattr("src.training.reporter.open_writers", lambda *_: [writer])
    patient = ("--freeze_layer", "backbone", "--lr_max", 0, "--epoch_size", 9, "--patience", 2,
               "--save_checkpoint_epochs", 5)
    last = call_main(given, tmp_path / "out", *patient)
    assert last.training.epoch == 3
    assert last.training.step == 6
    assert "the last 2 epochs were not better than epoch 1: the run ends here" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Finished after 6 steps" in page
    assert "What next" in page
    assert writer.as_finished == [True]
    again = call_main(given, shutil.copytree(tmp_path / "out", tmp_path / "again"), *patient)
    assert_same_run(again, last)
    assert "this run is finished, all of its 6 steps are done" in capsys.readouterr().out
    unlimited = call_main(given, tmp_path / "unlimited", "--freeze_layer", "backbone", "--lr_max", 0, "--patience", 3)
    assert not unlimited.training.plans


def test_patience_needs_something_to_compare(given: Given, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--patience needs validation images"):
        call_main(given, tmp_path, "--freeze_layer", "backbone", "--patience", 1, "--run_eval", False)
    assert list(tmp_path.iterdir()) == []


class Clock:
    """The clock of a run whose epochs take a given time."""

    def __init__(self, epoch_seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        finish_epoch = TrainingState.finish_epoch

        def finish(state: TrainingState, *result: Any) -> None:  # noqa: ANN401 - as finish_epoch
            self.now += epoch_seconds
            finish_epoch(state, *result)

        monkeypatch.setattr(TrainingState, "finish_epoch", finish)
        for module in ("planner", "resume"):
            monkeypatch.setattr(f"src.training.{module}.process_seconds", lambda: self.now)


def test_a_plan_for_some_minutes_is_kept_when_the_run_resumes(
        given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Epochs of 6 s are planned, 8 of them in 53 s, and take 11 s: the second plan is one of 4."""
    clock = Clock(11.0, monkeypatch)
    monkeypatch.setattr("src.training.planner.step_seconds", lambda *_: 2.0)
    monkeypatch.setattr("src.training.planner.batch_seconds", lambda *_: 1.0)
    planned = ("--max_minutes", 1, "--epoch_size", 20, "--warmup_epochs", 0)
    expected = call_main(given, tmp_path / "whole", *planned)
    out = capsys.readouterr().out
    assert "plan for 1 minutes: epoch_size 8 of at most 20, 6.0 s an epoch with images of 64 pixels; 0 s" in out
    assert "epoch: [  0/  8]" in out
    assert "plan: epoch_size 4 instead of 8, because an epoch takes 11.0 s now" in out
    assert "epoch: [  3/  4]" in out
    assert expected.training.plans == [Plan(0, 8, 64), Plan(1, 4, 64)]
    assert expected.training.step == 8
    rates = [row["lr"] for row in expected.training.history]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * rates[0]
    assert "Finished after 8 steps" in (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    clock.now = 0.0  # of another process
    assert_same_run(call_main(given, after_epoch(tmp_path / "whole", 2, tmp_path / "cut"), *planned), expected)
    assert "4 of 8 steps done" in capsys.readouterr().out
