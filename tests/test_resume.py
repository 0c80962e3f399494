"""An interrupted run goes on where it was, bit for bit, or says why it cannot."""
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Pictures, config_for, make_pictures

import train
from src.checkpoint import Checkpoint, CheckpointFolder, read_checkpoint, write_checkpoint
from src.checkpoint_metadata import CheckpointMetadata
from src.dataset import Batch, FeatureData
from src.errors import UserError
from src.models import define_net
from src.utils import network_parameters

OPTIONS = ("--platform", "CPU", "--image_size", "32", "--width_mult", "0.35", "--batch_size", "4",
           "--freeze_layer", "backbone", "--keep_checkpoint_max", "9", "--ema_decay", "0.5",
           "--lr_max", "0.5", "--save_checkpoint_steps", "2")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Pictures and a backbone."""
    folder = tmp_path_factory.mktemp("given")
    make_pictures(folder / "photos", {"train/ape": 7, "train/zebra": 7, "val/ape": 2, "val/zebra": 2})
    write_checkpoint(folder / "k.ckpt", network_parameters(define_net(config_for("--width_mult", 0.35), 5)), {},
                     CheckpointMetadata())
    return "--dataset_path", folder / "photos", "--pretrain_ckpt", folder / "k.ckpt"


def call_main(given: tuple[object, ...], folder: Path, *more: object, base: tuple[str, ...] = OPTIONS) -> Checkpoint:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *base, "--epoch_size", "3",
                                    *map(str, (*given, "--save_checkpoint_path", folder, *more))])
        train.main()
    return read_checkpoint(folder / "last.ckpt")


@pytest.fixture(scope="module")
def whole(given: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    """A run of 3 epochs of 3 steps without interruption; every checkpoint is kept."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, call_main(given, folder)


def cut(whole: tuple[Path, Checkpoint], folder: Path, *stems: str) -> Path:
    """What a run that ended after the last of `stems` leaves."""
    folder.mkdir()
    for stem in stems:
        for ending in ("ckpt", "json"):
            shutil.copy(whole[0] / f"{stem}.{ending}", folder)
    return folder


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    for part in ("network", "state"):
        values, wanted = getattr(found, part), getattr(expected, part)
        assert values.keys() == wanted.keys()
        for name, value in values.items():
            np.testing.assert_array_equal(value.asnumpy(), wanted[name].asnumpy(), err_msg=name)
    assert found.training.history == expected.training.history
    assert found.training.best_top1 == expected.training.best_top1
    assert found.training.step == expected.training.step == 9


def test_after_an_epoch_it_goes_on_bit_for_bit(whole: tuple[Path, Checkpoint], given: tuple[object, ...],
                                               tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = cut(whole, tmp_path / "cut", "mobilenetv2_head-1_3")
    assert_same(call_main(given, folder), whole[1])
    assert "3 of 9 steps done" in capsys.readouterr().out
    assert not [path for path in folder.iterdir() if path.is_dir()]  # nothing set aside: it is the same run


def test_another_learning_rate_is_another_run(whole: tuple[Path, Checkpoint], given: tuple[object, ...],
                                              tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = cut(whole, tmp_path / "cut", "mobilenetv2_head-1_3")
    call_main(given, folder, "--momentum", 0.5)
    assert "a new run begins: momentum is 0.5 now and was 0.9" in capsys.readouterr().out
    aside, = (path for path in folder.iterdir() if path.is_dir())
    assert (aside / "mobilenetv2_head-1_3.ckpt").is_file()


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
        whole: tuple[Path, Checkpoint], given: tuple[object, ...], tmp_path: Path,
        capsys: pytest.CaptureFixture) -> None:
    folder = cut(whole, tmp_path / "cut", "mobilenetv2_head-1_3", "mobilenetv2_head-2_3")
    damaged = folder / "mobilenetv2_head-2_3.ckpt"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert_same(call_main(given, folder), whole[1])
    out = capsys.readouterr().out
    assert "3 of 9 steps done" in out
    assert "mobilenetv2_head-2_3.ckpt.damaged" in out
    assert (folder / "mobilenetv2_head-2_3.ckpt.damaged").stat().st_size == 1000


def test_a_clock_that_was_set_back_changes_nothing(
        whole: tuple[Path, Checkpoint], given: tuple[object, ...], tmp_path: Path,
        capsys: pytest.CaptureFixture) -> None:
    folder = cut(whole, tmp_path / "cut", "mobilenetv2_head-1_3", "mobilenetv2_head-2_3")
    for path in folder.glob("mobilenetv2_head-2_3.*"):
        os.utime(path, (1, 1))  # seconds since 1970
    assert_same(call_main(given, folder), whole[1])
    assert "6 of 9 steps done" in capsys.readouterr().out


def test_never_and_a_named_checkpoint(whole: tuple[Path, Checkpoint], given: tuple[object, ...], tmp_path: Path,
                                      capsys: pytest.CaptureFixture) -> None:
    folder = cut(whole, tmp_path / "cut", "mobilenetv2_head-1_3")
    assert_same(call_main(given, folder, "--resume", "never"), whole[1])
    assert "resuming" not in capsys.readouterr().out
    named = whole[0] / "mobilenetv2_head-2_3.ckpt"
    assert_same(call_main(given, tmp_path / "new", "--resume", named), whole[1])
    assert f"resuming from {named}: 6 of 9 steps done" in capsys.readouterr().out


def test_a_named_checkpoint_of_something_else_is_refused(given: tuple[object, ...], tmp_path: Path,
                                                         whole: tuple[Path, Checkpoint]) -> None:
    with pytest.raises(UserError, match="cannot resume from this checkpoint: it is not of a training run"):
        call_main(given, tmp_path / "a", "--resume", given[3])
    with pytest.raises(UserError, match="cannot resume from this checkpoint: label_smooth is 0.2 now and was 0.1"):
        call_main(given, tmp_path / "b", "--resume", whole[0] / "last.ckpt", "--label_smooth", 0.2)


def test_a_finished_run_is_not_resumed(whole: tuple[Path, Checkpoint], given: tuple[object, ...], tmp_path: Path,
                                       capsys: pytest.CaptureFixture) -> None:
    folder = cut(whole, tmp_path / "cut", "last", "mobilenetv2_head-3_3")
    assert_same(call_main(given, folder), whole[1])
    assert "resuming" not in capsys.readouterr().out


def test_an_interruption_within_an_accumulation(given: tuple[object, ...], tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of several batches is whole or not there: its batches are gone through again."""
    changed = {"--batch_size": "2", "--save_checkpoint_steps": "1", "--ema_decay": "0.9999", "--accumulate_steps": "2",
               "--nesterov": "True", "--clip_norm": "0.1"}
    base = tuple(itertools.chain(*{**dict(zip(OPTIONS[::2], OPTIONS[1::2], strict=True)), **changed}.items()))
    expected = call_main(given, tmp_path / "whole", base=base)
    assert expected.training.step == 9  # 7 batches an epoch make 3 steps
    epoch = FeatureData.epoch

    def cut_epoch(self: FeatureData, number: int = 0, first_step: int = 0) -> Iterator[Batch]:
        batches = epoch(self, number, first_step)
        if self.batch_size == 2 and number == 1:
            yield from itertools.islice(batches, 3)  # the first batch of the second step is the last
            raise KeyboardInterrupt
        yield from batches

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FeatureData, "epoch", cut_epoch)
        call_main(given, tmp_path / "cut", base=base)
    assert read_checkpoint(tmp_path / "cut" / "last.ckpt").training.step == 4
    again = shutil.copytree(tmp_path / "cut", tmp_path / "again")  # this process still holds the lock of the first
    assert_same(call_main(given, again, base=base), expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_a_whole_checkpoint(number: signal.Signals, given: tuple[object, ...],
                                               tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = (*OPTIONS, *given, "--epoch_size", 3000, "--log_steps", 1, "--save_checkpoint_path", folder)
    command = [sys.executable, ROOT / "train.py", *options]
    with subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch: [  1/"):
                process.send_signal(number)
                break
        process.stdout.read()
    # While a graph runs, MindSpore takes Ctrl-C for itself and passes it on as SIGTERM.
    assert process.returncode in {128 + number, 128 + signal.SIGTERM}
    stopped = read_checkpoint(folder / "last.ckpt")
    assert 3 < stopped.training.step < 9000
    assert stopped.config["epoch_size"] == 3000


def test_two_runs_cannot_write_to_one_folder(given: tuple[object, ...], tmp_path: Path) -> None:
    from src.training.resume import lock_folder
    lock_folder(tmp_path / "run")
    with pytest.raises(UserError, match="another run is writing its checkpoints here"):
        call_main(given, tmp_path / "run")


def test_the_whole_network_goes_on_bit_for_bit_within_an_epoch(pictures: Pictures, tmp_path: Path) -> None:
    """On MindSpore's own cells, as on Ascend and GPU; random crops, mixed and erased pictures, batch norm statistics
    and dropout included.
    """
    photos = pictures({"train/ape": 5, "train/zebra": 5})
    whole = tmp_path / "whole"

    def run(folder: Path) -> Checkpoint:
        argv = ["train.py", "--platform", "CPU", "--image_size", "32", "--width_mult", "0.35", "--batch_size", "3",
                "--cpu_kernels", "off", "--epoch_size", "1", "--save_checkpoint_steps", "2", "--warmup_epochs", "0",
                "--mixup_alpha", "0.4", "--cutmix_alpha", "1", "--random_erasing", "0.5",
                "--repeated_augmentation", "2", "--dataset_path", photos, "--save_checkpoint_path", folder]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(word) for word in argv])
            if folder == whole:  # keep a copy of the checkpoint that the end of the epoch replaces
                save = CheckpointFolder.save

                def save_and_copy(self: CheckpointFolder, name: str, *rest: Any) -> bool:  # noqa: ANN401 - as save
                    done = save(self, name, *rest)
                    if name == "mobilenetv2-1_2":
                        for ending in ("ckpt", "json"):
                            (tmp_path / "cut").mkdir(exist_ok=True)
                            shutil.copy(whole / f"{name}.{ending}", tmp_path / "cut")
                    return done

                patch.setattr(CheckpointFolder, "save", save_and_copy)
            train.main()
        return read_checkpoint(folder / "last.ckpt")

    expected, found = run(whole), run(tmp_path / "cut")
    assert found.training.history == expected.training.history
    for part in ("network", "state"):
        for name, value in getattr(expected, part).items():
            np.testing.assert_array_equal(getattr(found, part)[name].asnumpy(), value.asnumpy(), err_msg=name)
