"""Errors that a user can mend, and how a command ends."""
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from src.log import NOTICE, logger, setup_log
from src.names import ESCAPED, escape_line


class UserError(Exception):
    """An error that the user can mend. The text is one line: what is wrong, where, and what to do.

    Characters that are not text, or would break the line, are escaped as in src/names.py.
    """

    def __init__(self, text: str) -> None:
        super().__init__(escape_line(text))


def first_line(error: BaseException) -> str:
    """The first line of an error's text that has a letter or digit; the name of its type if there is none.

    The text of a library can be empty, and MindSpore's can begin with a line of dashes.
    """
    return next((line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))), type(error).__name__)


def list_some(items: Sequence[str], limit: int, separator: str = ", ") -> str:
    """The first `limit` items as one text, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command. A `UserError` becomes one line on stderr and exit status 2. Other exceptions pass."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)  # file names may not be text, and the locale may lack letters
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a log file is up to date
    setup_log()
    try:
        main()
    except UserError as error:
        logger.error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        logger.log(NOTICE, "interrupted")
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of the output has ended, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the rest would fail again at exit
        sys.exit(128 + signal.SIGPIPE)
    sys.exit(0)
