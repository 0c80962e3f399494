"""Ctrl-C and SIGTERM: the run finishes its step, saves a checkpoint and ends."""
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType

from src.log import NOTICE, logger

SIGACTION_BYTES = 256  # more than a `struct sigaction` has on any Linux
KEEP_SECONDS = 0.002


class StopRequest:
    """Inside its block, the first SIGINT or SIGTERM is noted. A second one ends the process at once.

    A second SIGTERM is ignored if SIGTERM had a handler before: that handler has work to do after the step.

    Whenever a graph starts, MindSpore installs its own SIGINT handler, which turns SIGINT into SIGTERM. A thread
    restores the handler of this class every few milliseconds. A Ctrl-C before that counts as a SIGTERM; only the exit
    status differs then.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._left = threading.Event()

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        threading.Thread(target=self._keep_handler, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._left.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def is_wanted(self) -> bool:
        """Whether a signal has arrived."""
        return self._signal is not None

    @property
    def exit_status(self) -> int:
        """The exit status of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM.

        A rank that stops because another rank got a signal ends with the status of SIGTERM.
        """
        return 128 + (self._signal or signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if number == signal.SIGTERM and callable(self._previous[signal.SIGTERM]):
                return  # the job still has to upload its output after the step
            os._exit(128 + number)
        self._signal = number
        logger.log(NOTICE, f"{signal.Signals(number).name}: stopping after this step; once more to stop at once")

    def _keep_handler(self) -> None:
        sigaction = ctypes.CDLL(None).sigaction
        ours = ctypes.create_string_buffer(SIGACTION_BYTES)
        sigaction(signal.SIGINT, None, ours)
        while not self._left.wait(KEEP_SECONDS):
            sigaction(signal.SIGINT, ours, None)


def run_and_pass_signals(command: Sequence[str]) -> int:
    """Run a program to its end, and pass SIGINT, SIGTERM and SIGHUP on to it.

    The program has a session of its own, so that Ctrl-C at a terminal does not reach it a second time.

    Args:
        command: the program and its arguments.

    Returns:
        The exit status. It is that of a signal if one arrived or ended the program, and 0 only if none did.
    """
    process: subprocess.Popen | None = None
    arrived, before_start = 0, 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal arrived, before_start
        arrived = number
        if process is None:
            before_start = number
        else:
            process.send_signal(number)

    heeded = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
              if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, pass_on) for number in heeded}
    try:
        # In the environment that Python knows. The other one has OMP_NUM_THREADS=1, from a library of MindSpore's.
        process = subprocess.Popen(command, env=os.environ, start_new_session=True)  # noqa: S603
        if before_start:
            process.send_signal(before_start)
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if status == 0 and arrived:
        return 128 + arrived
    return status if status >= 0 else 128 - status
