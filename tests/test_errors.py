"""How commands end."""
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Images, config_for

from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.data.formats.tar_archive import tar_members
from src.data.image_folder import ImageFolder
from src.dataset import ImageData
from src.deployment.exporter import ExportOptions, deployable, export
from src.distributed.device import setup_device
from src.errors import UserError, first_line
from src.mobilenetV2 import MobileNetV2
from src.model_utils.config import get_config
from src.utils import network_parameters

END = "from src.errors import UserError, run_command\ndef main():\n    {}\nrun_command(main)"


@pytest.mark.parametrize(("body", "status", "told"), [
    ("print('done')", 0, ""),
    ("raise UserError('no such folder')", 2, "error: no such folder\n"),
    ("raise KeyboardInterrupt", 130, "interrupted\n"),
])
def test_a_command_ends_in_one_line(body: str, status: int, told: str) -> None:
    run = subprocess.run([sys.executable, "-c", END.format(body)], cwd=ROOT, capture_output=True, text=True,
                         check=False)
    assert (run.returncode, run.stderr) == (status, told)


def test_a_bug_is_not_hidden() -> None:
    run = subprocess.run([sys.executable, "-c", END.format("1 / 0")], cwd=ROOT, capture_output=True, text=True,
                         check=False)
    assert run.returncode == 1
    assert "ZeroDivisionError" in run.stderr


def test_output_that_nobody_reads_is_no_traceback() -> None:
    """As after `| head -1`, without its luck of who is first."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        run = subprocess.run([sys.executable, "-c", END.format("print('a line')")], cwd=ROOT, stdout=write_end,
                             stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write_end)
    assert (run.returncode, run.stderr) == (141, "")


# ---- what libraries say

@pytest.mark.parametrize(("error", "line"), [
    (ValueError("one\ntwo"), "one"), (ValueError("\n \n  three \n"), "three"), (ValueError(""), "ValueError"),
    (ValueError("\n"), "ValueError"), (RuntimeError(), "RuntimeError"),
    (RuntimeError("------\n- Kernel select failed:\n------"), "- Kernel select failed:")])
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line


def silent(*_: object, **__: object) -> None:
    raise RuntimeError


@pytest.mark.parametrize(("target", "read"), [
    ("mindspore.load_checkpoint", lambda path: read_checkpoint(path / "k.ckpt")),
    ("mindspore.save_checkpoint", lambda path: write_checkpoint(path / "n.ckpt", {}, {}, CheckpointMetadata())),
    ("mindspore.set_device", lambda path: setup_device(config_for())),
    ("mindspore.communication.init", lambda path: setup_device(config_for("--distribute", True))),
    ("mindspore.export", lambda path: export(deployable(read_checkpoint(path / "k.ckpt"), config_for(
        "--width_mult", 0.35), ExportOptions(32)), ExportOptions(32), path / "m.mindir")),
    ("mindspore.dataset.Dataset.create_tuple_iterator", lambda path: list(ImageData(
        ImageFolder.scan(path / "pictures"), 32, 1, training=False).epoch())),
    ("tarfile.open", lambda path: tar_members(path / "k.ckpt")),
    ("yaml.SafeLoader.check_node", lambda path: get_config(["--config_path", str(path / "a.yaml")])),
])
def test_a_library_that_says_nothing_is_told_by_the_kind_of_its_error(
        target: str, read: Callable[[Path], object], images: Images, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    images({"a": 1, "b": 1})
    (tmp_path / "a.yaml").write_text("seed: 1")
    write_checkpoint(tmp_path / "k.ckpt", network_parameters(MobileNetV2(2, 0.35)), {}, CheckpointMetadata())
    get_config([])  # reads its own files
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.setattr(target, silent)
    with pytest.raises(UserError, match="RuntimeError"):
        read(tmp_path)
