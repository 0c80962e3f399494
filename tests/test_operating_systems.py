"""What the commands say on systems that they do not run on."""
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_clear_line

# MindSpore has wheels for these systems. Of a Windows there is no module fcntl.
PRETEND = """
import runpy, sys
import numpy, tqdm, mindspore
system, path = sys.argv[1:]
sys.platform = system
sys.argv = [path]
sys.path.insert(0, path.rpartition("/")[0])
sys.modules["fcntl"] = None
runpy.run_path(path, run_name="__main__")
"""
COMMANDS = sorted(path for path in ROOT.glob("*.py") if "run_command(" in path.read_text(encoding="utf-8"))


def pretend(system: str, path: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PRETEND, system, str(path)], capture_output=True, text=True,
                          check=False)


@pytest.mark.parametrize("command", [*COMMANDS, ROOT / "tools/describe_data.py"], ids=lambda path: path.stem)
def test_on_windows_a_command_ends_with_one_line(command: Path) -> None:
    assert_one_clear_line(pretend("win32", command), command.name, "this is Windows", "WSL2", "docs/containers.md")


def test_on_macos_it_names_a_container() -> None:
    done = pretend("darwin", ROOT / "train.py")
    assert_one_clear_line(done, "this is macOS", "use a container")
    assert "WSL2" not in done.stderr


def test_a_program_of_ones_own_is_not_stopped(tmp_path: Path) -> None:
    program = tmp_path / "mine.py"
    program.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport src.mobilenetV2\nprint('there')\n")
    assert pretend("win32", program).stdout == "there\n"
