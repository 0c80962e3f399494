"""The one logger of the library code, where its lines go, and which lines of MindSpore are left out.

Library code calls `logger`. Only a command sets up where the lines go: `run_command` and `setup_device` do.
"""
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping

from tqdm import tqdm

logger = logging.getLogger("mobilenetv2")

NOTICE = logging.INFO + 5  # a line for the person at the terminal that is no result of the command

# Variables in which a user chooses what MindSpore writes.
ALL_LEVELS, LEVELS_BY_MODULE = "GLOG_v", "MS_SUBMODULE_LOG_v"
READER, CRITICAL = "MD", "4"  # MindSpore's names for its dataset module and for its highest level


class TerminalHandler(logging.Handler):
    """Writes to stdout what is below `NOTICE`, the rest to stderr; warnings and errors say so first.

    With several ranks a line names its rank, unless it is a line of rank 0 below a warning: those look as in a run of
    one process. A progress bar is drawn again below the line.
    """

    def __init__(self, rank: int = 0, rank_size: int = 1) -> None:
        super().__init__()
        self._rank, self._rank_size = rank, rank_size

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. An error in writing passes, as it would from `print`."""
        is_warning = record.levelno >= logging.WARNING
        kind = f"{record.levelname.lower()}: " if is_warning else ""
        rank = f"rank {self._rank}: " if self._rank_size > 1 and (is_warning or self._rank) else ""
        tqdm.write(f"{kind}{rank}{record.getMessage()}",
                   file=sys.stdout if record.levelno < NOTICE else sys.stderr)


def setup_log(rank: int = 0, rank_size: int = 1) -> None:
    """Let the lines of `logger` go to stdout and stderr, in place of where they went before.

    Args:
        rank: of this process among `rank_size` ones; a line names it.
        rank_size: number of processes.
    """
    logger.handlers.clear()
    logger.addHandler(TerminalHandler(rank, rank_size))
    logger.setLevel(logging.INFO)
    logger.propagate = False


def reader_log_level(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that leave out what MindSpore's dataset module writes; none if the user set them.

    The module writes a warning for each file that is no image, in each epoch, and an error before the exception that
    becomes this project's own error. It has one level for all of its lines, so its other warnings are left out, too.
    MindSpore reads the variables when it is imported.
    """
    if environment.get(ALL_LEVELS) or environment.get(LEVELS_BY_MODULE):
        return {}
    return {LEVELS_BY_MODULE: f"{{{READER}:{CRITICAL}}}"}


@contextlib.contextmanager
def without_mindspore_logs(level: int) -> Iterator[None]:
    """Leave out the lines up to a level of MindSpore's Python code; none if the user set a level for MindSpore.

    It is for calls after which MindSpore writes what needs no line, or what this project reports itself.
    """
    if os.environ.get(ALL_LEVELS):
        yield
        return
    mindspore_logger = logging.getLogger(f"ME.mindspore.log.{os.getpid()}")

    def is_above(record: logging.LogRecord) -> bool:
        return record.levelno > level

    mindspore_logger.addFilter(is_above)
    try:
        yield
    finally:
        mindspore_logger.removeFilter(is_above)
