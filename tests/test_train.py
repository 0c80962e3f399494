"""train.py on real images: from scratch, fine-tuning, a frozen backbone; what it writes; and what it refuses."""
import ast
import contextlib
import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EPOCH_LINE, STEP_LINE, Images, assert_one_clear_line, make_images, run_script
from PIL import Image

import eval as evaluate_command
import train
from src.checkpoint.file import Checkpoint, file_digest, read_checkpoint
from src.errors import UserError
from src.utils import HEAD_PREFIX

SMALL = ("--platform", "CPU", "--image_size", "32", "--width_mult", "0.35", "--batch_size", "4", "--log_steps", "2")
RESULT_LINE = re.compile(r"result: (\{'acc': [\d.]+, 'top5': [\d.]+, 'images': \d+, [^}]*\}) ckpt=(\S+\.ckpt)")

def call_main(*argv: object) -> None:
    """train.py's main in this process, as a command line would call it; on stock cells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *SMALL, *map(str, argv)])
        train.main()


@pytest.fixture(scope="module")
def scratch(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A run from new weights with a moving average, as a user starts it: checkpoints and output."""
    folder = tmp_path_factory.mktemp("scratch") / "checkpoint"
    run = run_script("train.py", *SMALL, "--dataset_path", photos, "--epoch_size", 3, "--save_checkpoint_path", folder,
                     "--keep_checkpoint_max", 2, "--ema_decay", 0.5, "--seed", 7)
    assert run.returncode == 0, run.stderr
    return folder, run


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train/ape": 6, "train/zebra": 6, "val/ape": 2, "val/zebra": 3}
    return make_images(tmp_path_factory.mktemp("two"), counts, seed=3)


def read(folder: Path, stem: str) -> Checkpoint:
    return read_checkpoint(folder / f"{stem}.ckpt")


def stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.ckpt")}


# ---- from scratch

def test_log_lines_have_the_published_form(scratch: tuple[Path, subprocess.CompletedProcess]) -> None:
    lines = scratch[1].stdout.splitlines()
    steps = [line for line in lines if line.startswith("epoch: ")]
    assert len(steps) == 3 * 3  # 5 steps an epoch: after the 2nd, the 4th and the last
    assert all(STEP_LINE.fullmatch(line) for line in steps)
    epochs = [line for line in lines if line.startswith("epoch time: ")]
    assert len(epochs) == 3
    assert all(EPOCH_LINE.fullmatch(line) for line in epochs)
    results = [RESULT_LINE.fullmatch(line) for line in lines if line.startswith("result: ")]
    assert len(results) == 3
    assert all(ast.literal_eval(match[1])["images"] == 9 for match in results if match)
    assert None not in results
    assert "21 training images of 3 classes" in scratch[1].stdout
    assert "Traceback" not in scratch[1].stderr
    assert "\r" not in scratch[1].stdout  # no progress bar in a log


def test_checkpoints_kept_with_their_json(scratch: tuple[Path, subprocess.CompletedProcess]) -> None:
    folder, _ = scratch
    best = f"mobilenetv2-{read(folder, 'best').training.epoch}_5"
    assert {"best", "last", "mobilenetv2-2_5", "mobilenetv2-3_5", best} == stems(folder)
    for stem in stems(folder):
        about = json.loads((folder / f"{stem}.json").read_text())
        assert about["sha256"] == file_digest(folder / f"{stem}.ckpt")
        assert about["classes"] == ["blue", "green", "red"]
        assert about["config"]["width_mult"] == 0.35
        assert about["config"]["seed"] == 7
        assert about["step"] == 5 * about["epoch"]
        assert about["metrics"]["epoch"] == about["epoch"]
    assert read(folder, "last").training.epoch == 3
    assert (folder / "last.ckpt").read_bytes() == (folder / "mobilenetv2-3_5.ckpt").read_bytes()


def test_best_is_the_first_epoch_with_the_highest_score(scratch: tuple[Path, subprocess.CompletedProcess]) -> None:
    folder, run = scratch
    scores = [ast.literal_eval(match)["acc"] for match, _ in RESULT_LINE.findall(run.stdout)]
    assert read(folder, "best").training.epoch == 1 + int(np.argmax(scores))
    assert read(folder, "last").training.best_top1 == max(scores)
    assert [row["top1"] for row in read(folder, "last").training.history] == scores


def test_the_table_of_curves_has_the_losses_of_the_log(scratch: tuple[Path, subprocess.CompletedProcess]) -> None:
    folder, run = scratch
    with (folder / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    means = re.findall(r"avg loss: +?([\d.]+)", run.stdout)
    for row, mean in zip(rows, means, strict=True):
        assert float(row["loss"]) == pytest.approx(float(mean), abs=6e-4)
    assert set(rows[0]) == {"epoch", "loss", "lr", "val_loss", "top1", "top5", "balanced_accuracy", "macro_f1"}
    with Image.open(folder / "curves.png") as image:
        assert image.format == "PNG"
        image.load()


def test_the_average_is_saved_as_the_network_and_the_weights_as_state(
        scratch: tuple[Path, subprocess.CompletedProcess]) -> None:
    checkpoint = read(scratch[0], "last")
    assert len(checkpoint.network) == 262
    assert set(checkpoint.network) <= set(checkpoint.state)
    assert any(name.startswith("moments.") for name in checkpoint.state)
    averaged = checkpoint.network["head.classifier.weight"].asnumpy()
    trained = checkpoint.state["head.classifier.weight"].asnumpy()
    assert not np.array_equal(averaged, trained)


# ---- the whole network from a checkpoint, for other classes

@pytest.fixture(scope="module")
def finetuned(scratch: tuple[Path, Any], two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetuned")
    (folder / "last.ckpt").write_bytes(b"an earlier run's")
    (folder / "mine.txt").write_text("mine")
    call_main("--dataset_path", two_classes / "train", "--pretrain_ckpt", scratch[0] / "best.ckpt", "--filter_head",
              "--epoch_size", 2, "--save_checkpoint_path", folder, "--save_checkpoint_epochs", 5)
    return folder


def test_fine_tuning_starts_from_the_backbone_and_moves_it(scratch: tuple[Path, Any], finetuned: Path) -> None:
    start, end = read(scratch[0], "best").network, read(finetuned, "last").network
    assert end["head.classifier.weight"].shape == (2, 1280)
    # New weights would differ by some tenths. The first layers are no measure: images of one colour drive them far.
    name = "backbone.last.conv.weight"
    difference = np.abs(end[name].asnumpy() - start[name].asnumpy()).max()
    assert 0 < difference < 0.02
    assert read(finetuned, "last").classes == ("ape", "zebra")
    assert read(finetuned, "last").training.metrics["top1"] >= 0  # val beside train/ was found


def test_an_epoch_between_checkpoints_is_kept_only_if_it_is_the_best(finetuned: Path) -> None:
    epochs = {read(finetuned, stem).training.epoch for stem in stems(finetuned)}
    best = read(finetuned, "best").training.epoch
    assert epochs == {1, 2} if best == 1 else epochs <= {1, 2}
    assert read(finetuned, "last").training.epoch == 2


def test_an_earlier_run_is_set_aside_not_deleted(finetuned: Path) -> None:
    aside, = (path for path in finetuned.iterdir() if path.is_dir())
    assert aside.name.startswith("earlier-")
    assert (aside / "last.ckpt").read_bytes() == b"an earlier run's"
    assert (finetuned / "mine.txt").read_text() == "mine"


# ---- a frozen backbone

@pytest.fixture(scope="module")
def frozen(scratch: tuple[Path, Any], two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frozen")
    call_main("--dataset_path", two_classes, "--pretrain_ckpt", scratch[0] / "best.ckpt", "--freeze_layer", "backbone",
              "--epoch_size", 8, "--lr_max", 0.5, "--keep_checkpoint_max", 1, "--ema_decay", 0.1,
              "--save_checkpoint_path", folder)
    return folder


def test_a_frozen_backbone_does_not_move(scratch: tuple[Path, Any], frozen: Path) -> None:
    start, end = read(scratch[0], "best").network, read(frozen, "last").network
    assert len(end) == 262  # the whole network, ready for evaluation and export
    for name, value in end.items():
        if not name.startswith(HEAD_PREFIX):
            np.testing.assert_array_equal(value.asnumpy(), start[name].asnumpy(), err_msg=name)
    assert end["head.classifier.weight"].shape == (2, 1280)


def test_the_same_options_work_on_a_frozen_backbone(frozen: Path) -> None:
    best = f"mobilenetv2_head-{read(frozen, 'best').training.epoch}_3"
    assert {"best", "last", "mobilenetv2_head-8_3", best} == stems(frozen)
    last = read(frozen, "last")
    assert last.classes == ("ape", "zebra")
    assert len(last.training.history) == 8
    assert last.training.history[-1]["loss"] < last.training.history[0]["loss"]
    assert (frozen / "curves.csv").is_file()
    assert (frozen / "curves.png").is_file()


def test_its_features_are_cached_apart_from_the_images(frozen: Path, two_classes: Path, cache: Path) -> None:
    assert len(list(cache.rglob("features/*.npy"))) >= 2
    assert {path.suffix for path in two_classes.rglob("*") if path.is_file()} == {".jpg"}


# ---- small data, and no validation

def test_fewer_images_than_a_batch_train_on_what_there_is(images: Images, tmp_path: Path,
                                                            scratch: tuple[Path, Any],
                                                            capsys: pytest.CaptureFixture) -> None:
    root = images({"ape": 2, "zebra": 1})
    call_main("--dataset_path", root, "--epoch_size", 2, "--freeze_layer", "backbone",
              "--pretrain_ckpt", scratch[0] / "best.ckpt", "--save_checkpoint_path", tmp_path / "out")
    out = capsys.readouterr().out
    assert "batch_size is 3, not 4" in out
    assert "no validation" in out
    assert {"last", "mobilenetv2_head-1_1", "mobilenetv2_head-2_1"} == stems(tmp_path / "out")  # nothing says best
    assert read(tmp_path / "out", "last").training.metrics.keys() == {"epoch", "loss", "lr"}


def test_held_out_images_and_a_test_at_the_end(images: Images, tmp_path: Path, scratch: tuple[Path, Any],
                                               capsys: pytest.CaptureFixture) -> None:
    root = images({"train/ape": 6, "train/zebra": 5, "test/ape": 2, "test/zebra": 1})
    arguments = ("--dataset_path", root, "--epoch_size", 2, "--freeze_layer", "backbone", "--val_share", 0.2,
                 "--pretrain_ckpt", scratch[0] / "best.ckpt", "--save_checkpoint_path", tmp_path / "out")
    call_main(*arguments)
    out = capsys.readouterr().out
    assert "20% of each class are held out" in out
    assert "9 training images of 2 classes" in out
    assert len(re.findall(r"^result: \{.*'images': 2, .*\} ckpt=", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^test result: \{.*'images': 3, .*\} of the best weights$", out, re.MULTILINE)) == 1
    shutil.copytree(tmp_path / "out", tmp_path / "again")
    call_main(*arguments[:-1], tmp_path / "again")
    assert "test result" not in capsys.readouterr().out  # it was scored when the run ended
    shutil.copytree(tmp_path / "out", tmp_path / "killed")
    (tmp_path / "killed" / "report.html").unlink()  # as if the run had been killed before it was written
    call_main(*arguments[:-1], tmp_path / "killed")
    again = re.findall(r"^test result: .*", capsys.readouterr().out, re.MULTILINE)
    assert again == re.findall(r"^test result: .*", out, re.MULTILINE)
    top1 = float(re.findall(r"'acc': ([\d.]+)", again[0])[0])
    for folder in "out", "killed":
        page = (tmp_path / folder / "report.html").read_text(encoding="utf-8")
        assert f"<dt>top-1, test</dt><dd>{top1:.2%}</dd>" in page
        assert "<dt>test images</dt><dd>3</dd>" in page
    eval_argv = ["eval.py", *SMALL, "--dataset_path", root / "test", "--pretrain_ckpt", tmp_path / "out" / "best.ckpt"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(map(str, eval_argv)))
        evaluate_command.main()
    scored = re.search(r"result: (\{.*?\})", capsys.readouterr().out)
    assert scored
    assert f"test result: {scored[1]} of" in out


def test_checkpoints_can_be_left_out(two_classes: Path, tmp_path: Path, scratch: tuple[Path, Any]) -> None:
    call_main("--dataset_path", two_classes, "--epoch_size", 1, "--freeze_layer", "backbone", "--save_checkpoint", "no",
              "--pretrain_ckpt", scratch[0] / "best.ckpt", "--save_checkpoint_path", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["curves.csv", "curves.png", "report.html"]


# ---- the result's checkpoint

def results(folder: Path, scratch: tuple[Path, Any], two_classes: Path, capsys: pytest.CaptureFixture,
            *options: object) -> list[str]:
    """What `ckpt=` says after each of three epochs of a classifier that does not change."""
    call_main("--dataset_path", two_classes, "--epoch_size", 3, "--freeze_layer", "backbone", "--lr_max", 0,
              "--pretrain_ckpt", scratch[0] / "best.ckpt", "--save_checkpoint_path", folder, *options)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("result: ")]
    return [re.fullmatch(r"result: \{.*\} ckpt=(\S+)", line)[1] for line in lines]


def test_a_result_names_a_checkpoint_that_is_there(scratch: tuple[Path, Any], two_classes: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "out"
    found = results(folder, scratch, two_classes, capsys, "--save_checkpoint_epochs", 5)
    assert found == [f"{folder}/mobilenetv2_head-1_3.ckpt", "none", f"{folder}/mobilenetv2_head-3_3.ckpt"]
    assert {Path(name).stem for name in found} - {"none"} == stems(folder) - {"best", "last"}


def test_a_result_without_checkpoints_names_none(scratch: tuple[Path, Any], two_classes: Path, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture) -> None:
    found = results(tmp_path / "out", scratch, two_classes, capsys, "--save_checkpoint", False)
    assert found == ["none", "none", "none"]
    assert stems(tmp_path / "out") == set()


def test_a_full_disk_costs_files_and_no_training(scratch: tuple[Path, Any], two_classes: Path,
                                                 small_disk: Path) -> None:
    (small_disk / "out").mkdir()
    with (small_disk / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    run = run_script("train.py", *SMALL, "--dataset_path", two_classes, "--epoch_size", 3, "--freeze_layer", "backbone",
                     "--pretrain_ckpt", scratch[0] / "best.ckpt", "--save_checkpoint_path", small_disk / "out")
    assert run.returncode == 2
    assert run.stderr.endswith("the last checkpoint could not be written; make room, and start again\n")
    assert "Traceback" not in run.stderr
    assert run.stdout.count(" ckpt=none\n") == 3
    assert not [path for path in (small_disk / "out").iterdir() if path.stat().st_size]


# ---- bad input

def refusal(*argv: object) -> str:
    with pytest.raises(UserError) as error:
        call_main(*argv)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_without_images_it_is_refused(tmp_path: Path, images: Images) -> None:
    assert refusal("--dataset_path", tmp_path / "none").startswith(f"{tmp_path / 'none'}: no such folder")
    (tmp_path / "hollow" / "train" / "cat").mkdir(parents=True)
    assert refusal("--dataset_path", tmp_path / "hollow").startswith(f"{tmp_path}/hollow/train: no images here")
    assert "--dataset_path" in refusal()


def test_a_wrong_number_of_classes_is_refused(photos: Path) -> None:
    text = refusal("--dataset_path", photos, "--num_classes", 5)
    assert "num_classes is 5" in text
    assert "has 3 classes" in text


def test_validation_classes_that_differ_are_named(images: Images) -> None:
    root = images({"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dgo": 1})
    text = refusal("--dataset_path", root)
    assert str(root / "val") in text
    assert "lacks dog" in text
    assert "does not know dgo" in text


def test_a_frozen_backbone_without_a_checkpoint_is_refused(photos: Path) -> None:
    assert "--pretrain_ckpt" in refusal("--dataset_path", photos, "--freeze_layer", "backbone")


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "text", "unrelated"])
def test_checkpoints_that_will_not_do_are_refused(kind: str, photos: Path, scratch: tuple[Path, Any],
                                                  tmp_path: Path) -> None:
    path = tmp_path / "k.ckpt"
    content = (scratch[0] / "best.ckpt").read_bytes()
    if kind == "unrelated":
        import mindspore as ms
        ms.save_checkpoint([{"name": "conv1.weight", "data": ms.Tensor([1.0])}], str(path))
    elif kind != "missing":
        path.write_bytes({"empty": b"", "truncated": content[:len(content) // 2], "text": b"hello"}[kind])
        if kind == "truncated":
            (tmp_path / "k.json").write_bytes((scratch[0] / "best.json").read_bytes())
    text = refusal("--dataset_path", photos, "--pretrain_ckpt", path)
    assert text.startswith(f"{path}: ")
    assert {"missing": "no such checkpoint", "empty": "empty", "truncated": "damaged", "text": "not a MindSpore",
            "unrelated": "holds another network: its 1 arrays"}[kind] in text


def test_other_classes_without_filter_head(scratch: tuple[Path, Any], two_classes: Path) -> None:
    text = refusal("--dataset_path", two_classes, "--pretrain_ckpt", scratch[0] / "best.ckpt")
    assert "3x1280 instead of 2x1280" in text
    assert "--filter_head True" in text


def test_an_unreadable_image_is_named(images: Images, scratch: tuple[Path, Any], tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = images({"train/ape": 3, "train/zebra": 3})
    (root / "train" / "ape" / "bad.jpg").write_bytes(b"not an image")
    assert "bad.jpg" in refusal("--dataset_path", root, "--pretrain_ckpt", scratch[0] / "best.ckpt", "--freeze_layer",
                                "backbone", "--save_checkpoint_path", tmp_path / "out")


def test_half_precision_on_cpu_is_refused(photos: Path) -> None:
    assert "amp_level O2" in refusal("--dataset_path", photos, "--amp_level", "O2")


@pytest.mark.parametrize(("argv", "mentions"), [
    (("--platform", "Ascend", "--dataset_path", "x"), ("Ascend", "not available", "--platform CPU")),
    (("--platform", "CPU", "--dataset_path", "/nowhere/at/all"), ("/nowhere/at/all", "no such folder")),
])
def test_commands_end_in_one_line_without_traceback(argv: tuple[str, ...], mentions: tuple[str, ...]) -> None:
    assert_one_clear_line(run_script("train.py", *argv), *mentions)


def test_malformed_yaml_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("platform: CPU\nepoch_size: [1\n")
    assert_one_clear_line(run_script("train.py", "--config_path", tmp_path / "bad.yaml"), "bad.yaml, line", "malformed")
