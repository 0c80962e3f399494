"""Measures where the time of a run goes."""
import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from src.dataset import Batch

FIRST_STEP, STEPS, DATA = "first step, with compilation", "steps", "waiting for data"
EVALUATION, CHECKPOINTS = "evaluation", "checkpoints"


def process_seconds() -> float:
    """Seconds since this process was started. All imports are in them."""
    begin = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])  # the field `starttime`
    return time.clock_gettime(time.CLOCK_BOOTTIME) - begin / os.sysconf("SC_CLK_TCK")


class Timing:
    """Seconds of each part of the training in this process, by the clock of the host.

    The parts do not overlap: time in an inner part does not count for the outer one. With an accelerator the parts say
    what the host waited for, because the device computes while the host waits for data.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((DATA, FIRST_STEP, STEPS, EVALUATION, CHECKPOINTS), 0.0)
        self.images = 0  # trained on, without those of the first step, which includes compilation
        self._measured = 0.0
        self._compiled = False

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of this block to `part`."""
        begin, measured = time.perf_counter(), self._measured
        try:
            yield
        finally:
            elapsed = time.perf_counter() - begin
            self.seconds[part] += elapsed - (self._measured - measured)
            self._measured = measured + elapsed

    def batches(self, epoch: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches. Waiting for a batch counts as DATA. The time until the next request counts as its step."""
        waiting = iter(epoch)
        while True:
            with self.measure(DATA):
                batch = next(waiting, None)
            if batch is None:
                return
            part = STEPS if self._compiled else FIRST_STEP
            if self._compiled:
                self.images += batch[0].shape[0]
            self._compiled = True
            with self.measure(part):
                yield batch
