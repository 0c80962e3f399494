"""Whole jobs on a ModelArts that is a folder and a stand-in for MoXing: the real commands, on tiny images."""
import csv
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import EPOCH_LINE, ROOT, STEP_LINE

from tests.support.modelarts_tools import Platform, ended

TINY = {"platform": "CPU", "image_size": 32, "width_mult": 0.35, "batch_size": 4,
        "epoch_size": 1, "warmup_epochs": 0, "num_workers": 1, "log_steps": 1}
DATA, OUT = "obs://bucket/photos", "obs://bucket/out"
STEPS = 5  # in an epoch of 21 images


@pytest.fixture
def platform(tmp_path: Path, photos: Path) -> Platform:
    made = Platform(tmp_path)
    shutil.copytree(photos, made.storage / "bucket/photos")
    return made


def next_machine(platform: Platform) -> None:
    """What a job leaves on a machine is gone when the next one comes."""
    shutil.rmtree(platform.machine)
    (platform.machine / "tmp").mkdir(parents=True)


def about(platform: Platform, name: str) -> dict:
    return json.loads((platform.storage / "bucket" / name).read_text(encoding="utf-8"))


def test_train_fine_tune_evaluate_export_classify(platform: Platform) -> None:
    def job(script: str, train_url: str, *more: str, **options: object) -> subprocess.CompletedProcess:
        run = platform.run(ROOT / script, *platform.options(**TINY, train_url=train_url, **options), *more)
        assert run.returncode == 0, run.stdout + run.stderr
        assert len(platform.uploads()) == 1
        next_machine(platform)
        (platform.storage / ".calls").unlink()
        return run

    # ---- train from scratch, with an argument that the platform adds
    job("train.py", OUT, "--ma_reserved=1", data_url=DATA)
    whole = f"mobilenetv2-1_{STEPS}"
    assert platform.stored("bucket/out") == sorted(
        [f"checkpoint/{name}.{ending}" for name in (whole, "best", "last") for ending in ("ckpt", "json")]
        + [f"checkpoint/{name}" for name in ("MODEL_CARD.md", "best.npz", "curves.csv", "curves.png", "report.html")]
        + ["train.log"])
    log = (platform.storage / "bucket/out/train.log").read_text(encoding="utf-8")
    assert len(STEP_LINE.findall(log)) == STEPS
    assert len(EPOCH_LINE.findall(log)) == 1

    # ---- fine-tune the classifier from it
    job("train.py", "obs://bucket/tuned", data_url=DATA, checkpoint_url="obs://bucket/out/checkpoint",
        freeze_layer="backbone", run_eval=False)
    assert f"checkpoint/mobilenetv2_head-1_{STEPS}.ckpt" in platform.stored("bucket/tuned")
    assert about(platform, "tuned/checkpoint/last.json")["config"]["pretrain_ckpt"].endswith("/load/best.ckpt")

    # ---- evaluate
    run = job("eval.py", "obs://bucket/scored", data_url=DATA, checkpoint_url="obs://bucket/out/checkpoint/last.ckpt",
              confusion_matrix="confusion.png")
    assert platform.stored("bucket/scored") == ["confusion.png", "eval.log", "predictions/metrics.json",
                                                "predictions/scored.csv"]
    trained = list(csv.DictReader((platform.storage / "bucket/out/checkpoint/curves.csv").open(encoding="utf-8")))[-1]
    for text in (run.stdout, (platform.storage / "bucket/scored/eval.log").read_text(encoding="utf-8")):
        assert float(re.search(r"'acc': ([\d.]+)", text)[1]) == pytest.approx(float(trained["top1"]), abs=1e-5)
        assert "'images': 9" in text

    # ---- export
    job("export.py", "obs://bucket/exported", checkpoint_url="obs://bucket/out/checkpoint", pretrain_ckpt="last.ckpt",
        file_name="small")
    assert {"small.mindir", "export.log"} <= set(platform.stored("bucket/exported"))

    # ---- classify with what was exported
    run = job("infer.py", "obs://bucket/predicted", data_url=DATA, images="val/green",
              checkpoint_url="obs://bucket/exported/small.mindir")
    assert "4 of 4 images classified" in run.stdout
    assert [f"predictions/predictions.{ending}" for ending in ("csv", "json", "png")] == [
        name for name in platform.stored("bucket/predicted") if name != "infer.log"]


def test_sigterm_in_an_epoch_then_the_job_is_restarted(platform: Platform) -> None:
    """The step is finished, the checkpoint uploaded; on another machine the run goes on from it."""
    def start_and_stop(seen: str) -> tuple[subprocess.CompletedProcess, str]:
        process = platform.start(ROOT / "train.py", *platform.options(
            **{**TINY, "epoch_size": 5000}, data_url=DATA, train_url=OUT, run_eval=False, save_checkpoint_epochs=1000))
        log = platform.machine / "train/train.log"
        end = time.monotonic() + 120
        while not log.exists() or log.read_text(encoding="utf-8").partition(seen)[2].count("step:[") < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        run = ended(process)
        assert run.returncode == 143, run.stderr
        next_machine(platform)
        return run, (platform.storage / "bucket/out/train.log").read_text(encoding="utf-8")

    start_and_stop("training images")
    first = about(platform, "out/checkpoint/last.json")
    assert first["step"] >= 3
    run, log = start_and_stop("resuming from")
    assert f"{first['step']} of {5000 * STEPS} steps done" in run.stdout
    second = about(platform, "out/checkpoint/last.json")
    assert second["run"] == first["run"]
    assert second["step"] > first["step"]
    assert log.count("ended with status 143") == 2


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_processes_download_and_upload_once(platform: Platform) -> None:
    """Started by msrun, as the boot command of a custom image does; its scheduler runs the boot file, too."""
    train = [str(ROOT / "train.py"), *platform.options(**TINY, data_url=DATA, train_url=OUT, distribute=True)]
    msrun = Path(sys.executable).parent / "msrun"
    run = subprocess.run(
        [msrun, "--worker_num=2", "--local_worker_num=2", f"--master_port={free_port()}", "--join=True",
         f"--log_dir={platform.folder / 'msrun'}", *train],
        cwd=platform.machine, env={**platform.environment, "OMP_NUM_THREADS": "1", "MS_RECEIVE_MSG_TIMEOUT": "1000",
                                   "PATH": f"{msrun.parent}:{platform.environment['PATH']}"},
        capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert len([call for call in platform.calls() if call["urls"][0] == DATA]) == 1
    assert len(platform.uploads()) == 1
    stored = platform.stored("bucket/out")
    assert {"train.log", "train-rank1.log", "checkpoint/best.ckpt", "checkpoint/last.ckpt"} <= set(stored)
    assert about(platform, "out/checkpoint/last.json")["ranks"] == 2
