"""Copies what a job prints to a file that is uploaded with its output."""
import contextlib
import io
import sys
import traceback
from pathlib import Path
from typing import TextIO

from src.errors import UserError
from src.names import ESCAPED


class Log:
    """A file that gets a copy of everything that is printed."""

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._streams: tuple[TextIO, TextIO] | None = None

    def open(self, path: Path) -> None:
        try:
            self._file = path.open("a", encoding="utf-8", errors=ESCAPED, buffering=1)
        except OSError as error:
            raise UserError(f"{path}: cannot write this log: {error.strerror}") from error
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Tee(stream, self) for stream in self._streams)

    def write(self, text: str) -> None:
        """Write to the file. An error in writing does not end the run."""
        if self._file:
            with contextlib.suppress(OSError, ValueError):
                self._file.write(text)

    def write_end(self, error: BaseException) -> None:
        """Write how the process ends, which is printed only after the upload."""
        if isinstance(error, UserError):
            self.write(f"error: {error}\n")
        elif isinstance(error, SystemExit):
            self.write(f"ended with status {error.code}\n")
        else:
            self.write("".join(traceback.format_exception(error)))

    def close(self) -> None:
        if self._streams:
            sys.stdout, sys.stderr = self._streams
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = self._streams = None


class _Tee(io.TextIOBase):
    def __init__(self, stream: TextIO, log: Log) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()
