"""How commands end."""
import os
import subprocess
import sys

import pytest
from conftest import ROOT

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


def test_nobody_reads_the_output() -> None:
    """As after `| head -1`, without its luck of who is first."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        run = subprocess.run([sys.executable, "-c", END.format("print('a line')")], cwd=ROOT, stdout=write_end,
                             stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write_end)
    assert (run.returncode, run.stderr) == (141, "")
