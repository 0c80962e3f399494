"""Where the time of a run goes."""
import contextlib
import time
from collections.abc import Iterable, Iterator

from src.dataset import Batch

FIRST_STEP, STEPS, DATA = "first step, with compilation", "steps", "waiting for data"
EVALUATION, CHECKPOINTS = "evaluation", "checkpoints"


class Timing:
    """Seconds of each part of this process's training, by the clock of the host.

    Parts exclude each other: what is measured within another part counts as the inner one alone. An accelerator works
    on while the host waits for data, so there the parts tell what the host waited for.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((DATA, FIRST_STEP, STEPS, EVALUATION, CHECKPOINTS), 0.0)
        self.images = 0  # trained on, those of the first step, which is compiled, left out
        self._measured = 0.0
        self._compiled = False

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the time in this block as `part`'s."""
        begin, measured = time.perf_counter(), self._measured
        try:
            yield
        finally:
            elapsed = time.perf_counter() - begin
            self.seconds[part] += elapsed - (self._measured - measured)
            self._measured = measured + elapsed

    def batches(self, epoch: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of an epoch: waiting for one is waiting for data, until the next is wanted is its step."""
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
