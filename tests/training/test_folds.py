"""Cross-validation as a user starts it; what it refuses; and signals that arrive meanwhile."""
import csv
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, config_for, make_images, run_script

from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.errors import UserError
from src.models import define_net
from src.training.folds import check_folds
from src.utils import network_parameters

OPTIONS = ("--platform", "CPU", "--image_size", 32, "--width_mult", 0.35, "--batch_size", 4, "--freeze_layer",
           "backbone", "--epoch_size", 2, "--folds", 2)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object]]:
    """A folder in which the second fold alone has been trained, and the command for all of them."""
    folder = tmp_path_factory.mktemp("folds")
    photos = make_images(folder / "photos", {"train/ape": 7, "train/zebra": 6, "val/ape": 1, "val/zebra": 1})
    write_checkpoint(folder / "k.ckpt", network_parameters(define_net(config_for("--width_mult", 0.35), 5)), {},
                     CheckpointMetadata())
    command = ["train.py", *OPTIONS, "--dataset_path", photos, "--pretrain_ckpt", folder / "k.ckpt"]
    run = run_script(*command, "--fold", 2, "--save_checkpoint_path", folder / "run" / "fold_2")
    assert run.returncode == 0, run.stderr
    assert "fold 2 of 2 is held out to validate on" in run.stdout
    return folder / "run", [*command, "--save_checkpoint_path", folder / "run"]


def test_all_folds_make_one_report(begun: tuple[Path, list[object]]) -> None:
    folder, command = begun
    before = read_checkpoint(folder / "fold_2" / "last.ckpt").digest
    run = run_script(*command)
    assert run.returncode == 0, run.stderr
    assert "fold_2/mobilenetv2_head-2_1.ckpt: this run is finished" in run.stdout
    assert read_checkpoint(folder / "fold_2" / "last.ckpt").digest == before
    values = json.loads((folder / "folds.json").read_text(encoding="utf-8"))
    assert values["images"] == 13  # those to train on; each once
    histories = [training_of(folder / f"fold_{fold}").history for fold in (1, 2)]
    # Scored anew, with the features that the folds' runs have used, of which there are those of the whole set alone.
    assert [fold["top1"] for fold in values["folds"]] == [history[-1]["top1"] for history in histories]
    losses = [history[-1]["val_loss"] for history in histories]
    assert [fold["loss"] for fold in values["folds"]] == pytest.approx(losses)
    with (folder / "label_errors.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == values["likely_label_errors"]
    assert "Likely label errors" in (folder / "report.html").read_text(encoding="utf-8")
    assert "result of 2 folds: {'acc': " in run.stdout
    final = run.stdout.splitlines()[-1]
    assert f"--save_checkpoint_path={folder}/final" in final
    assert "--folds" not in final


def training_of(folder: Path) -> Any:
    return read_checkpoint(folder / "last.ckpt").training


@pytest.mark.parametrize(("options", "fault"), [
    (("--folds", 1), "folds is 1 and fold is 0: --folds must be 2 or more"),
    (("--fold", 2), "folds is 0 and fold is 2"),
    (("--folds", 3, "--fold", 4), "folds is 3 and fold is 4"),
    (("--folds", 3, "--distribute", "True"), "trains in one process; leave out --distribute"),
    (("--folds", 3, "--run_eval", "False"), "leave out --run_eval False"),
    (("--folds", 3, "--save_checkpoint", "False"), "--save_checkpoint False"),
    (("--folds", 3, "--resume", "a.ckpt"), "--resume a.ckpt: is one checkpoint"),
])
def test_what_does_not_go_with_folds_is_told(options: tuple[object, ...], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        check_folds(config_for(*options))


def test_a_dry_run_shows_the_first_fold(begun: tuple[Path, list[object]], capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    import train
    folder, command = begun
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--dry_run"])
    train.main()
    assert f"{folder}/fold_1/mobilenetv2_head-<epoch>_" in capsys.readouterr().out


# ---- signals

PARENT = ("import sys; from src.training.signals import run_and_pass_signals\n"
          "sys.exit(run_and_pass_signals([sys.executable, '-c', sys.argv[1]]))")
CHILD = "import signal, sys, time\n{}\nprint('ready', flush=True)\ntime.sleep(60)"
NOTE = "signal.signal(signal.{0}, lambda *given: (print('got {0}', flush=True), sys.exit({1})))"


@pytest.mark.parametrize(("name", "own_status", "status"), [
    ("SIGINT", 130, 130),  # as a run that was stopped
    ("SIGTERM", 143, 143),
    ("SIGTERM", 0, 143),  # it had just finished: the next fold must not begin
    ("SIGHUP", None, 129),  # it has no handler
])
def test_a_signal_reaches_the_run_of_a_fold_once(name: str, own_status: int | None, status: int) -> None:
    child = CHILD.format("" if own_status is None else NOTE.format(name, own_status))
    with subprocess.Popen([sys.executable, "-c", PARENT, child], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.Signals[name])
        assert parent.stdout.read().count("got") == (own_status is not None)
    assert parent.returncode == status


@pytest.mark.parametrize(("body", "status"), [("", 0), ("sys.exit(2)", 2), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_status_is_that_of_the_run(body: str, status: int) -> None:
    run = subprocess.run([sys.executable, "-c", PARENT, f"import sys; {body}"], cwd=ROOT, check=False)
    assert run.returncode == status
