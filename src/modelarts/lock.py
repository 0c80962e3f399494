"""Lets one process of a job on a machine work for all of them.

Each job has four files. The kernel frees a lock on them when its process ends in any way.

- gate: only its holder works.
- members: every process has a shared lock while it lives. A process that gets it exclusively is the only one alive, so
  the notes are from an earlier job.
- queue: processes that have not yet joined have a shared lock.
- notes: what the processes tell each other, as JSON.
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
from src.log import logger
from src.turns import REPORT

POLL_SECONDS = 0.2


class JobLock:
    """The locks and notes of one job on this machine.

    Args:
        job: the name of the job.
        seconds: how long to wait for another process of the job.
    """

    def __init__(self, job: str, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
        readable = re.sub(r"[^A-Za-z0-9._-]", "_", job)[:60]
        digest = hashlib.sha256(job.encode()).hexdigest()[:12]
        self._path = Path(tempfile.gettempdir()) / f"mobilenetv2-{os.getuid()}-{readable}-{digest}"
        self._seconds, self._sleep = seconds, sleep
        self._gate, self._members, self._notes, self._queue = (
            self._open(kind) for kind in ("gate", "members", "notes", "queue"))
        lock_shared(self._queue, self._seconds, f"{self._path}.queue")

    def join(self) -> None:
        """Become a member, inside the gate. Notes are deleted if no other member is alive."""
        if self.is_alone():
            os.ftruncate(self._notes, 0)
        unlock(self._queue)

    def is_awaited(self) -> bool:
        """Whether a process of the job has not yet called `join`; for members only."""
        awaited = not lock(self._queue)
        unlock(self._queue)
        return awaited

    def is_alone(self) -> bool:
        """Whether no other process of the job is alive; inside the gate only. The process stays a member."""
        is_alone = lock(self._members)
        # Also after a failure, which may have freed the shared lock.
        lock_shared(self._members, self._seconds, f"{self._path}.members")
        return is_alone

    @contextmanager
    def gate(self, what: str) -> Iterator[None]:
        """Be the only process of the job in this block.

        Args:
            what: what the holder of the gate does, for the error.

        Raises:
            UserError: another process held the gate for too long.
        """
        awaited = f"another process of this job to {what}"
        if not wait_until(lambda: lock(self._gate), self._seconds, self._sleep, awaited):
            raise UserError(f"waited {self._seconds:g} seconds for {awaited}; look in its "
                            "log, or raise --copy_wait_seconds")
        try:
            yield
        finally:
            unlock(self._gate)

    def note(self, key: str, value: str) -> None:
        """Write a note for the other processes, inside the gate."""
        content = json.dumps({**self._read(), key: value}).encode()
        os.ftruncate(self._notes, 0)
        os.pwrite(self._notes, content, 0)

    def noted(self, key: str) -> str | None:
        """Read the note of a process of this job, inside the gate; None if there is none."""
        return self._read().get(key)

    def leave(self) -> None:
        """End the membership."""
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


def lock_shared(descriptor: int, seconds: float, path: object) -> None:
    """Lock a file together with others. Who has it alone has it for a moment only.

    Raises:
        UserError: another process had it alone for `seconds`.
    """
    if not wait_until(lambda: lock(descriptor, shared=True), seconds):
        raise UserError(f"{path}: waited {seconds:g} seconds for the lock on this file; end the process that has it "
                        "(fuser tells which), and start again")


def wait_until(condition: Callable[[], bool], seconds: float, sleep: Callable[[float], None] = time.sleep,
               awaited: str = "") -> bool:
    """Wait until a condition holds. Returns False if it does not within `seconds`.

    Args:
        condition: asked again and again.
        seconds: how long to wait.
        sleep: waits for some seconds.
        awaited: what is waited for, for a line in the log each minute; none if it is empty.
    """
    begin = last_report = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now >= begin + seconds:
            return False
        if awaited and now >= last_report + REPORT:
            last_report = now
            logger.info(f"waiting for {awaited}, {now - begin:.0f} seconds so far")
        sleep(POLL_SECONDS)
    return True
