"""train.py in a process that dies, as by a power cut, between writing a file and giving it its name.

    python tests/support/dying_train.py RENAMES [OPTION ...]      after so many files were named; 0: never
"""
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Count the files that are renamed, and die instead of the one after RENAMES."""
    renames_left = int(sys.argv[1]) or sys.maxsize
    rename = Path.replace

    def dying_replace(self: Path, target: Path) -> Path:
        nonlocal renames_left
        if "checkpoint" in str(target) and (renames_left := renames_left - 1) < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = dying_replace
    sys.argv = ["train.py", *sys.argv[2:]]
    sys.path.insert(0, str(ROOT))
    import train
    train.run_command(train.main)


if __name__ == "__main__":
    main()
