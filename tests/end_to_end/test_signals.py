"""A training run that is told to stop."""
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.models import define_net
from src.utils import network_parameters
from tests.conftest import ROOT, config_for, make_images


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_a_whole_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_images(tmp_path / "photos", {"train/ape": 7, "train/zebra": 7, "val/ape": 2, "val/zebra": 2})
    write_checkpoint(tmp_path / "k.ckpt", network_parameters(define_net(config_for("--width_mult", 0.35), 5)), {},
                     CheckpointMetadata())
    command = [sys.executable, ROOT / "train.py", "--platform", "CPU", "--image_size", 32, "--width_mult", 0.35,
               "--batch_size", 4, "--epoch_size", 3000, "--log_steps", 1, "--dataset_path", tmp_path / "photos",
               "--pretrain_ckpt", tmp_path / "k.ckpt", "--freeze_layer", "backbone", "--save_checkpoint_path", folder]
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
