"""An interrupted run goes on where it was, bit for bit, or says why it cannot."""
import dataclasses
import itertools
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Images, assert_same_run, config_for, few_blocks, make_images
from mindspore import Tensor

import train
from src.checkpoint.file import Checkpoint, read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.checkpoint.retention import CheckpointFolder
from src.dataset import Batch, FeatureData
from src.errors import UserError
from src.model_utils.config import Config
from src.model_utils.keys import KEYS
from src.models import define_net
from src.training.resume import Run, find_checkpoint
from src.training.state import TrainingState
from src.utils import network_parameters

OPTIONS = ("--platform", "CPU", "--image_size", "32", "--width_mult", "0.35", "--batch_size", "4",
           "--freeze_layer", "backbone", "--keep_checkpoint_max", "9", "--ema_decay", "0.5",
           "--lr_max", "0.5", "--save_checkpoint_steps", "2")


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    with few_blocks():
        yield


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Images and a backbone."""
    folder = tmp_path_factory.mktemp("given")
    make_images(folder / "photos", {"train/ape": 7, "train/zebra": 7, "val/ape": 2, "val/zebra": 2})
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
    assert_same_run(found, expected)
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
    with pytest.raises(UserError, match="cannot resume from this checkpoint: no training run wrote it"):
        call_main(given, tmp_path / "a", "--resume", given[3])
    with pytest.raises(UserError, match="cannot resume from this checkpoint: label_smooth is 0.2 now and was 0.1"):
        call_main(given, tmp_path / "b", "--resume", whole[0] / "last.ckpt", "--label_smooth", 0.2)


# ---- a run that is finished

def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


def test_a_finished_run_is_told_and_left_as_it_is(whole: tuple[Path, Checkpoint], given: tuple[object, ...],
                                                  tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "run")
    before = contents(folder)
    call_main(given, folder)
    out = capsys.readouterr().out
    assert "-3_3.ckpt: this run is finished, all of its 9 steps are done; to train anew, use --resume never" in out
    assert f"report: {folder}/report.html" in out
    assert contents(folder) == before
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_never_trains_a_finished_run_anew(whole: tuple[Path, Checkpoint], given: tuple[object, ...], tmp_path: Path,
                                          capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "run")
    assert_same(call_main(given, folder, "--resume", "never"), whole[1])
    assert capsys.readouterr().out.count("result:") == 3
    aside, = (path for path in folder.iterdir() if path.is_dir())
    assert (aside / "mobilenetv2_head-3_3.ckpt").is_file()


def run_like(checkpoint: Checkpoint, pretrained: str | None = None, **values: object) -> Run:
    """The run that a checkpoint is of, with another configuration or other weights to begin with."""
    training = checkpoint.training
    assert training
    return Run(Config(**{**checkpoint.config, **values}), checkpoint.classes or (), training.train_images, 1, 3,
               eval_images=training.eval_images or "", pretrained=pretrained or training.pretrained or "")


def test_another_configuration_of_a_finished_run_says_why_it_trains(whole: tuple[Path, Checkpoint],
                                                                    capsys: pytest.CaptureFixture) -> None:
    assert find_checkpoint(run_like(whole[1]), whole[0])
    assert find_checkpoint(run_like(whole[1], momentum=0.5), whole[0]) is None
    assert "-3_3.ckpt: not resumed, a new run begins: momentum is 0.5 now and was 0.9" in capsys.readouterr().out


@pytest.mark.parametrize("lost", [("report.html",), ("curves.csv", "curves.png", "last.ckpt")])
def test_a_run_that_was_killed_before_its_report_writes_it(
        lost: tuple[str, ...], whole: tuple[Path, Checkpoint], given: tuple[object, ...], tmp_path: Path,
        capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "run")
    for name in lost:
        (folder / name).unlink()
    call_main(given, folder)
    assert "result:" not in capsys.readouterr().out
    assert contents(folder).keys() == contents(whole[0]).keys()
    assert (folder / "curves.csv").read_bytes() == (whole[0] / "curves.csv").read_bytes()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Finished after 9 steps" in page
    assert "Confusion matrix" in page


def test_the_report_of_an_earlier_stop_is_not_taken_for_that_of_the_end(
        whole: tuple[Path, Checkpoint], given: tuple[object, ...], tmp_path: Path) -> None:
    """Killed at the end, after it had been stopped and resumed before."""
    folder = shutil.copytree(whole[0], tmp_path / "run")
    earlier = (folder / "report.html").read_text(encoding="utf-8").replace(
        f'content="{whole[1].training.run_id} 9"', f'content="{whole[1].training.run_id} 3"')
    (folder / "report.html").write_text(earlier.replace("Finished after 9 steps", "Stopped after 3 of 9 steps"))
    call_main(given, folder)
    assert "Finished after 9 steps" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_evaluation_of_the_best_epoch_is_there_before_its_checkpoint(
        given: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run that is killed after its last checkpoint can still report it."""
    def die_after_an_epoch(path: Path, network: dict, state: dict, metadata: CheckpointMetadata) -> None:
        if metadata.training and metadata.training.whole_epoch:
            raise KeyboardInterrupt
        write_checkpoint(path, network, state, metadata)

    monkeypatch.setattr("src.checkpoint.retention.write_checkpoint", die_after_an_epoch)
    with pytest.raises(KeyboardInterrupt):
        call_main(given, tmp_path / "run")
    assert "best.npz" in contents(tmp_path / "run")


# ---- keys that do not affect the result

OTHER_VALUES = {str: "other", bool: None, int: 7, float: 0.25}


@pytest.mark.parametrize("key", sorted(config_for().as_dict()))
def test_a_key_keeps_from_resuming_if_it_affects_the_result(key: str) -> None:
    config = config_for()
    value = config.as_dict()[key]
    changed = config.replace({key: not value if isinstance(value, bool) else OTHER_VALUES[type(value)]})
    run, other = (Run(one, ("a", "b"), "digest", 1, 3) for one in (config, changed))
    metadata = run.metadata(TrainingState())
    assert metadata.training
    earlier = dataclasses.replace(metadata, training=dataclasses.replace(metadata.training, pretrained=None))
    assert run.difference(earlier) is None
    assert bool(other.difference(earlier)) == KEYS[key].affects_result


def test_a_checkpoint_that_was_written_before_keys_were_renamed_is_resumed(whole: tuple[Path, Checkpoint],
                                                                           tmp_path: Path) -> None:
    """Its configuration has the old names."""
    folder = cut(whole, tmp_path / "cut", "mobilenetv2_head-1_3")
    path = folder / "mobilenetv2_head-1_3.json"
    values = json.loads(path.read_text())
    for old, new in (("repeated_augmentation", "aug_repeats"), ("clip_norm", "grad_clip_norm"),
                     ("accumulate_steps", "grad_accum_steps"), ("pictures", "images")):
        values["config"][old] = values["config"].pop(new)
    path.write_text(json.dumps(values))
    found = find_checkpoint(run_like(whole[1]), folder)
    assert found
    assert run_like(whole[1], grad_accum_steps=2).difference(found.metadata) == "grad_accum_steps is 2 now and was 1"


def test_a_key_that_a_checkpoint_lacks_had_its_default(whole: tuple[Path, Checkpoint]) -> None:
    metadata = whole[1].metadata
    older = dataclasses.replace(metadata, config={name: value for name, value in metadata.config.items()
                                                  if name != "random_erasing"})
    assert run_like(whole[1]).difference(older) is None
    assert run_like(whole[1], random_erasing=0.5).difference(older) == "random_erasing is 0.5 now and was 0.0"


def test_class_names_in_the_form_of_an_older_version_are_the_same() -> None:
    name = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    now, other = (Run(config_for(), (first, "tea"), "digest", 1, 3) for first in (name, "cafe"))
    then = dataclasses.replace(now, classes=(unicodedata.normalize("NFD", name), "tea")).metadata(TrainingState())
    assert now.difference(then) is None
    assert other.difference(then) == "the training images have changed"


def test_what_does_not_affect_the_result_leaves_every_bit(whole: tuple[Path, Checkpoint], given: tuple[object, ...],
                                                          tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The data set and the checkpoint by other paths, too."""
    folder = cut(whole, tmp_path / "cut", "mobilenetv2_head-1_3")
    other = tmp_path / "elsewhere"
    other.symlink_to(Path(str(given[1])).parent)
    found = call_main(("--dataset_path", other / "photos", "--pretrain_ckpt", other / "k.ckpt"), folder,
                      "--num_workers", 1, "--num_classes", 2, "--bad_images", "skip", "--log_steps", 2, "--on_nan",
                      "skip", "--cache_session_id", 77, "--onnx_threads", 1, "--report", "True", "--file_format",
                      "ONNX", "--export_batch_size", 3, "--images", "x", "--top_k", 2)
    assert "3 of 9 steps done" in (out := capsys.readouterr().out)
    assert "note:" not in out  # a frozen backbone sees no random crops
    assert_same(found, whole[1])


def test_without_validation_the_weights_are_the_same(whole: tuple[Path, Checkpoint], given: tuple[object, ...],
                                                     tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = cut(whole, tmp_path / "cut", "mobilenetv2_head-1_3")
    found = call_main(given, folder, "--run_eval", False)
    assert "note: the validation images have changed" in capsys.readouterr().out
    for name, value in whole[1].network.items():
        np.testing.assert_array_equal(found.network[name].asnumpy(), value.asnumpy(), err_msg=name)


def test_more_workers_draw_crops_in_another_order_and_this_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    run = Run(config_for("--num_workers", 1), ("a", "b"), "digest", 1, 3)
    for workers, told in ("2", True), ("1", False):
        earlier = Run(config_for("--num_workers", workers), ("a", "b"), "digest", 1, 3)
        metadata = earlier.metadata(TrainingState())
        assert run.difference(metadata) is None
        assert bool(run.remarks(metadata)) == told


def test_other_weights_under_the_same_name_are_another_run(whole: tuple[Path, Checkpoint]) -> None:
    assert run_like(whole[1], "another").difference(whole[1].metadata) == \
        "the checkpoint to begin with is another one now"
    assert run_like(whole[1], pretrain_ckpt="elsewhere/k.ckpt").difference(whole[1].metadata) is None


def test_a_checkpoint_of_the_last_version_is_resumed(whole: tuple[Path, Checkpoint], tmp_path: Path) -> None:
    """It lacks the digests that this version adds: of the weights to begin with, then, the path counts."""
    folder = cut(whole, tmp_path / "cut", "mobilenetv2_head-1_3")
    path = folder / "mobilenetv2_head-1_3.json"
    values = json.loads(path.read_text())
    del values["pretrained"], values["eval_images"]
    path.write_text(json.dumps(values))
    found = find_checkpoint(run_like(whole[1], "another"), folder)
    assert found
    moved = run_like(whole[1], pretrain_ckpt="elsewhere/k.ckpt")
    assert moved.difference(found.metadata).startswith("pretrain_ckpt is 'elsewhere/k.ckpt' now and was")


def test_a_training_state_of_another_shape_is_refused(whole: tuple[Path, Checkpoint], given: tuple[object, ...],
                                                      tmp_path: Path) -> None:
    checkpoint = read_checkpoint(whole[0] / "mobilenetv2_head-2_3.ckpt")
    name = next(name for name in checkpoint.state if name.startswith("moments."))
    state = {**checkpoint.state, name: Tensor(np.zeros((2, 2), np.float32))}
    write_checkpoint(tmp_path / "odd.ckpt", checkpoint.network, state, checkpoint.metadata)
    with pytest.raises(UserError, match=f"1 parts of the training state differ, like {name}"):
        call_main(given, tmp_path / "run", "--resume", tmp_path / "odd.ckpt")


def test_an_interruption_within_an_accumulation(given: tuple[object, ...], tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of several batches is whole or not there: its batches are gone through again."""
    changed = {"--batch_size": "2", "--save_checkpoint_steps": "1", "--ema_decay": "0.9999", "--grad_accum_steps": "2",
               "--nesterov": "True", "--grad_clip_norm": "0.1", "--class_weights": "balanced"}
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


@pytest.mark.parametrize("kernels", ["off", "on"])
def test_adamw_goes_on_bit_for_bit(kernels: str, images: Images, tmp_path: Path,
                                   capsys: pytest.CaptureFixture) -> None:
    """Both moments, the number of updates, and the rates per depth, of the whole network."""
    photos = images({"train/ape": 6, "train/zebra": 6})
    base = ("--platform", "CPU", "--image_size", "32", "--width_mult", "0.35", "--batch_size", "4", "--dataset_path",
            str(photos), "--cpu_kernels", kernels, "--optimizer", "adamw", "--layer_decay", "0.8", "--grad_clip_norm",
            "1", "--weight_decay", "0.05", "--ema_decay", "0.5")
    whole = tmp_path / "whole"
    expected = call_main((), whole, base=base)
    assert expected.state["updates"].asnumpy().tolist() == [9]
    again = cut((whole, expected), tmp_path / "again", "mobilenetv2-1_3")
    assert_same(call_main((), again, base=base), expected)
    assert "3 of 9 steps done" in capsys.readouterr().out


def test_two_runs_cannot_write_to_one_folder(given: tuple[object, ...], tmp_path: Path) -> None:
    from src.training.resume import lock_folder
    lock_folder(tmp_path / "run")
    with pytest.raises(UserError, match="another run is writing its checkpoints here"):
        call_main(given, tmp_path / "run")


def test_the_whole_network_goes_on_bit_for_bit_within_an_epoch(images: Images, tmp_path: Path) -> None:
    """On MindSpore's own cells, as on Ascend and GPU; random crops, mixed and erased images, classes drawn equally
    often, batch norm statistics, also those measured anew, and dropout included.
    """
    photos = images({"train/ape": 7, "train/zebra": 3})
    whole = tmp_path / "whole"

    def run(folder: Path) -> Checkpoint:
        argv = ["train.py", "--platform", "CPU", "--image_size", "32", "--width_mult", "0.35", "--batch_size", "3",
                "--cpu_kernels", "off", "--epoch_size", "1", "--save_checkpoint_steps", "2", "--warmup_epochs", "0",
                "--mixup_alpha", "0.4", "--cutmix_alpha", "1", "--random_erasing", "0.5",
                "--aug_repeats", "2", "--balanced_sampling", "True", "--focal_gamma", "2", "--precise_bn", "True",
                "--dataset_path", photos, "--save_checkpoint_path", folder]
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
