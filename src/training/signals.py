"""Ctrl-C and SIGTERM: finish the step, save, then end."""
import ctypes
import os
import signal
import sys
import threading
from types import FrameType, TracebackType

SIGACTION_BYTES = 256  # more than a `struct sigaction` has on any Linux
KEEP_SECONDS = 0.002


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is noted; a second one ends the process at once, but for a SIGTERM
    that had a handler before.

    MindSpore puts a SIGINT handler of its own in place whenever a graph starts, which turns SIGINT into SIGTERM. A
    thread puts this one back, so that Ctrl-C is told from a termination but for the first moment of a step; taking the
    one for the other costs nothing but the exit status.
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
        """Whether a signal came."""
        return self._signal is not None

    @property
    def exit_status(self) -> int:
        """What the shell reports of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM.

        A rank that stops because another one got a signal ends like that of SIGTERM.
        """
        return 128 + (self._signal or signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if number == signal.SIGTERM and callable(self._previous[signal.SIGTERM]):
                return  # there is work to do after the step, too: the upload of a job, which a platform may rush
            os._exit(128 + number)
        self._signal = number
        print(f"{signal.Signals(number).name}: stopping after this step; once more to stop at once", file=sys.stderr)

    def _keep_handler(self) -> None:
        sigaction = ctypes.CDLL(None).sigaction
        ours = ctypes.create_string_buffer(SIGACTION_BYTES)
        sigaction(signal.SIGINT, None, ours)
        while not self._left.wait(KEEP_SECONDS):
            sigaction(signal.SIGINT, ours, None)
