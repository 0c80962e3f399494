"""train.py in a process that dies, as by a power cut, between writing a file and giving it its name.

    python tests/support/dying_train.py RENAMES [OPTION ...]      after so many files were named; 0: never
"""
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import train  # noqa: E402 - needs the path


def main(argv: Sequence[str]) -> None:
    """Count the files that are renamed, and die instead of the one after RENAMES."""
    renames_left = int(argv[0]) or sys.maxsize
    rename = Path.replace

    def dying_replace(self: Path, target: Path) -> Path:
        nonlocal renames_left
        if "checkpoint" in str(target) and (renames_left := renames_left - 1) < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = dying_replace
    sys.argv = ["train.py", *argv[1:]]
    train.run_command(train.main)


def main_with_log(log: Connection, argv: Sequence[str]) -> None:
    """In a forked process: what is printed goes to a pipe, and errors nowhere."""
    with (open(log.fileno(), "w", encoding="utf-8", closefd=False) as out, Path(os.devnull).open("w") as nowhere,
          contextlib.redirect_stdout(out), contextlib.redirect_stderr(nowhere)):
        main(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
