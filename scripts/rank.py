"""Run a script as one of the processes that msrun starts, with its own log and a note of how it ended.

    msrun ... rank.py train.py --platform CPU ...

msrun does not say which rank failed first, or how. RUN_LOGS is the folder of the logs, RUN_ENDED the file of the
notes: `pid PID RANK` at the start, `RANK STATUS` at the end. launch_util.sh reads it.
"""
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def main() -> None:
    """Run the script with this Python, wait for it, and end with its status."""
    scheduler = os.environ["MS_ROLE"] == "MS_SCHED"
    rank = "scheduler" if scheduler else os.environ["RANK_ID"]
    ended = Path(os.environ["RUN_ENDED"])
    log = None if scheduler else Path(os.environ["RUN_LOGS"], f"rank{rank}", f"log{rank}.log")
    # The launcher signals the script itself, and ends all processes when this one has ended.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _append(ended, f"pid {os.getpid()} {rank}\n")
    with contextlib.nullcontext() if log is None else log.open("wb") as output:
        status = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=output,  # noqa: S603 - the user's own
                                  stderr=subprocess.STDOUT, preexec_fn=_before_script).wait()  # noqa: PLW1509
    status = 128 - status if status < 0 else status
    _append(ended, f"{rank} {status}\n")
    sys.exit(status)


def _before_script() -> None:
    """In the child: receive signals again, and end when rank.py ends."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="ascii") as file:
        file.write(line)


if __name__ == "__main__":
    main()
