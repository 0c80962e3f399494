"""Ctrl-C and SIGTERM: finish the step, save, then end."""
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Item = TypeVar("Item")


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is noted; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.getsignal(number) for number in SIGNALS}
        self._listen()
        return self

    def heeding(self, batches: Iterable[Item]) -> Iterator[Item]:
        """`batches`, with the signals heard in between: each MindSpore pipeline that starts takes SIGINT for itself."""
        for batch in batches:
            self._listen()
            yield batch

    def _listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._note)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def is_wanted(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """What the shell reports of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM.

        A rank that stops because another one got a signal ends like that of SIGTERM.
        """
        return 128 + (self.signal or signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        print(f"{signal.Signals(number).name}: stopping after this step; once more to stop at once", file=sys.stderr)
