"""Work that one process does for others, which wait for it: by turns, as long as the work goes on."""
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from src.errors import UserError
from src.files import lock
from src.log import logger

PATIENCE = 1800.0  # seconds; below the hour that the launchers let Ascend cards wait for one another
REPORT = 60.0  # seconds between the log lines of a process that waits
POLL = 0.2  # seconds between looks at the lock
TOUCH = 1.0  # seconds between two marks of progress


@contextlib.contextmanager
def one_at_a_time(path: Path, work: str) -> Iterator[Callable[[], None]]:
    """A block that one process at a time is in, of all that name the same lock file. The others wait.

    The lock file says which process is in the block, and its time is that of the last progress. It is removed at the
    end. The kernel frees the lock of a process that ends in any way. On a file system without locks nobody waits.

    Args:
        path: the lock file, in a folder that exists.
        work: what the block does, for those who wait, such as "unpacks photos.zip".

    Yields:
        A function to call in the block whenever a part of the work is done. Any thread may call it.

    Raises:
        UserError: the process in the block made no progress for `PATIENCE` seconds.
        OSError: the lock file cannot be made.
    """
    descriptor = _take(path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} {work}".encode(errors="replace"), 0)
        yield _progress_mark(descriptor)
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _progress_mark(descriptor: int) -> Callable[[], None]:
    last = time.monotonic()

    def mark() -> None:
        nonlocal last
        if time.monotonic() >= last + TOUCH:
            last = time.monotonic()
            os.utime(descriptor)

    return mark


def _take(path: Path) -> int:
    """Wait for the lock; returns the descriptor of the lock file."""
    begin = last_news = last_report = time.monotonic()
    seen = None
    while (descriptor := _try(path)) is None:
        now = time.monotonic()
        # Changes are looked for, and not ages: the clock of a file server may be another one.
        found = _state(path)
        if found != seen:
            seen, last_news = found, now
        holder = found[0] or "another process"
        if now >= last_news + PATIENCE:
            raise UserError(f"{path}: waited for {now - last_news:.0f} seconds without progress: {holder}; look at "
                            "that process, end it if it hangs, and start again")
        if now >= last_report + REPORT:
            last_report = now
            logger.info(f"waiting, {now - begin:.0f} seconds so far: {holder}")
        time.sleep(POLL)
    return descriptor


def _try(path: Path) -> int | None:
    """The descriptor of the locked file; None if another process has the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        is_ours = lock(descriptor) and _is_named(path, descriptor)
    except OSError:  # a file system without locks
        is_ours = True
    if is_ours:
        return descriptor
    os.close(descriptor)
    return None


def _is_named(path: Path, descriptor: int) -> bool:
    """Whether a file still has its name: the process that had the lock may have removed it since."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _state(path: Path) -> tuple[str, int]:
    """What the lock file says, and the time of its last change in ns; nothing if it was removed."""
    try:
        return path.read_text(encoding="utf-8", errors="replace"), path.stat().st_mtime_ns
    except OSError:
        return "", 0
