"""Work that one of the processes of a job on a machine does for all of them.

Two files of a job, which the kernel locks (flock) and unlocks when their holder dies in whatever way. The gate lets
one process work at a time. Each process holds the membership file, shared, for as long as it lives: who gets it for
itself alone knows that no other process of the job is alive, and that what is noted was noted by an earlier job.
A third file is held by who has not yet got through the gate for the first time.
"""
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError
from src.files import lock, unlock

POLL_SECONDS = 0.2


class JobLock:
    """What the processes of one job on this machine agree by.

    Args:
        job: tells jobs apart.
        seconds: how long to wait for another process of the job.
    """

    def __init__(self, job: str, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
        readable = re.sub(r"[^A-Za-z0-9._-]", "_", job)[:60]
        digest = hashlib.sha256(job.encode()).hexdigest()[:12]
        self._path = Path(tempfile.gettempdir()) / f"mobilenetv2-{os.getuid()}-{readable}-{digest}"
        self._seconds, self._sleep = seconds, sleep
        self._gate, self._members, self._notes, self._queue = (
            self._open(kind) for kind in ("gate", "members", "notes", "queue"))
        lock(self._queue, shared=True, wait=True)

    def join(self) -> None:
        """Become a member; within the gate. Notes of a job without living members are forgotten."""
        if self.is_alone():
            os.ftruncate(self._notes, 0)
        unlock(self._queue)

    def is_awaited(self) -> bool:
        """Whether a process of the job is still on its way to `join`; to be asked by a member."""
        awaited = not lock(self._queue)
        unlock(self._queue)
        return awaited

    def is_alone(self) -> bool:
        """Whether no other process of the job is alive; to be asked within the gate. The membership stays."""
        is_alone = lock(self._members)
        lock(self._members, shared=True, wait=True)  # also after a failure, which may have freed the shared lock
        return is_alone

    @contextmanager
    def gate(self, what: str) -> Iterator[None]:
        """Be the only process of the job in this block.

        Args:
            what: what the others are waiting for, for the error.

        Raises:
            UserError: another process stayed in it for too long.
        """
        if not wait_until(lambda: lock(self._gate), self._seconds, self._sleep):
            raise UserError(f"waited {self._seconds:g} seconds for another process of this job to {what}; look in its "
                            "log, or raise --copy_wait_seconds")
        try:
            yield
        finally:
            unlock(self._gate)

    def note(self, key: str, value: str) -> None:
        """Tell the other processes something; within the gate."""
        content = json.dumps({**self._read(), key: value}).encode()
        os.ftruncate(self._notes, 0)
        os.pwrite(self._notes, content, 0)

    def noted(self, key: str) -> str | None:
        """What a process of this job has told; within the gate."""
        return self._read().get(key)

    def leave(self) -> None:
        """No longer be a member."""
        for descriptor in (self._members, self._gate, self._notes, self._queue):
            os.close(descriptor)

    def _read(self) -> dict[str, str]:
        try:
            notes = json.loads(os.pread(self._notes, 1 << 16, 0) or b"{}")
        except (ValueError, RecursionError):  # the process that was writing it was killed
            return {}
        return {key: value for key, value in notes.items() if isinstance(value, str)} if isinstance(notes, dict) else {}

    def _open(self, kind: str) -> int:
        path = f"{self._path}.{kind}"
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UserError(f"{path}: cannot make this lock file: {error.strerror}") from error


def wait_until(condition: Callable[[], bool], seconds: float, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Ask again and again until a condition holds; False if it does not within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        sleep(POLL_SECONDS)
    return True
