"""What users of MindSpore's model zoo do with its unchanged files: train, score, export, score the ONNX file.

All is on CPU: the file for GPU has --platform CPU beside it, as docs/migration.md says.
"""
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import few_blocks, make_images

import eval as evaluate_command
import eval_onnx
import export
import train
from src.checkpoint.file import read_checkpoint
from src.deployment.engines import OnnxEngine
from tests.support.model_zoo_files import write_file

CLASSES = tuple(f"class{number:02d}" for number in range(26))  # as many as the file for CPU says
TINY = ("--image_size", "32", "--width_mult", "0.35", "--batch_size", "4", "--cpu_kernels", "off")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(main: Callable[[], None], script: str, *argv: str) -> None:
    """A command's main in this process, with networks of 6 blocks."""
    with pytest.MonkeyPatch.context() as patch, few_blocks():
        patch.setattr(sys, "argv", [script, *argv])
        main()


def test_the_whole_way_with_the_file_for_cpu(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = ("--platform", "CPU", "--config_path", str(write_file("last/default_config_cpu.yaml", tmp_path)))
    make_images(tmp_path / "dataset", {f"{part}/{name}": 1 for name in CLASSES
                                       for part in ("train", "validation_preprocess")})
    call(train.main, "train.py", *config, "--dataset_path", "dataset", "--epoch_size", "1", *TINY)
    out = capsys.readouterr().out
    assert out.count("a file of MindSpore's model zoo") == 1
    assert "lr:[0.030]" in out
    checkpoint = Path("ckpt_0/mobilenetv2-1_6.ckpt")
    assert read_checkpoint(checkpoint).classes == CLASSES

    call(evaluate_command.main, "eval.py", *config, "--dataset_path", "dataset", "--pretrain_ckpt", str(checkpoint),
         *TINY)
    accuracy = re.search(r"result: \{'acc': ([\d.]+), .*'images': 26", capsys.readouterr().out)[1]

    call(export.main, "export.py", *config, "--ckpt_file", str(checkpoint), "--file_format", "ONNX", "--file_name",
         "out.onnx", *TINY)
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    assert OnnxEngine(Path("out.onnx"), 1)(images).sum() == pytest.approx(1, abs=1e-5)  # as activation: Softmax says

    call(eval_onnx.main, "eval_onnx.py", *config, "--dataset_path", "dataset", "--file_name", "out.onnx", *TINY)
    assert capsys.readouterr().out.endswith(f"\naccuracy: {float(accuracy):.4f}\n")


def test_a_training_with_the_file_for_gpu(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_file("last/default_config_gpu.yaml", tmp_path)
    make_images(tmp_path / "dataset", {"train/a": 4, "train/b": 4})
    call(train.main, "train.py", "--platform", "CPU", "--config_path", str(path), "--dataset_path", "dataset",
         "--num_classes", "2", "--epoch_size", "1", "--log_steps", "1", *TINY)
    assert "lr:[0.800]" in capsys.readouterr().out
    assert read_checkpoint(Path("ckpt_0/mobilenetv2-1_2.ckpt")).config["label_smooth"] == 0.1


def test_eval_onnx_names_the_file_that_it_misses(tmp_path: Path) -> None:
    with pytest.raises(eval_onnx.UserError, match="nowhere.onnx: no such ONNX file; --file_name names one"):
        call(eval_onnx.main, "eval_onnx.py", "--platform", "CPU", "--file_name", "nowhere")
