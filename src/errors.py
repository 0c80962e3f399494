"""How the commands end when the user can put something right."""
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from src.names import ESCAPED, escape_line


class UserError(Exception):
    """A fault for a person to mend. The text is one line: what is wrong, where, and what to do.

    Names in it that are not text, or would break the line, are escaped as src/names.py says.
    """

    def __init__(self, text: str) -> None:
        super().__init__(escape_line(text))


def first_line(error: BaseException) -> str:
    """The first line of an error's text that has a letter or digit, or the name of its type.

    Texts of libraries can be empty, and MindSpore's can begin with a line of dashes.
    """
    return next((line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))), type(error).__name__)


def list_some(items: Sequence[str], limit: int, separator: str = ", ") -> str:
    """The first `limit` items as one text, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run an entry script: exit status 0, or 2 and one line on stderr for a `UserError`; other exceptions pass."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)  # names of files need not be text, nor the locale know all letters
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a log file is never behind
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or what is left would fail at exit once more
        sys.exit(128 + signal.SIGPIPE)
    sys.exit(0)
