"""Sends a batch to the device while the step before it computes."""
import contextlib
from collections.abc import Iterable, Iterator

from mindspore import runtime

from src.dataset import Batch


class DeviceFeed:
    """An iterator over batches on the device, of which the next one can be sent before it is asked for.

    Copies have a stream of their own, because the work of one stream is done in order: a copy in the stream of the
    steps would begin when the step is over. A step waits for its batch, and a copy waits for the step before the
    present one, because it may get the memory of that step's batch. A CPU has no streams, and nothing is copied.

    Args:
        platform: "Ascend" or "CPU". MindSpore's `Tensor.to` knows no other.
    """

    def __init__(self, platform: str) -> None:
        self._platform = platform
        self._copies = None if platform == "CPU" else runtime.Stream()

    def begin(self, batches: Iterable[Batch]) -> "DeviceFeed":
        """Go over other batches from now on. Returns itself."""
        self._batches = iter(batches)
        self._sent: Batch | None = None
        self._mark_steps()
        return self

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.send_next()
        batch, self._sent = self._sent, None
        if batch is None:
            raise StopIteration
        self._mark_steps()
        if self._copies:
            runtime.current_stream().wait_stream(self._copies)
        return batch

    def send_next(self) -> None:
        """Fetch the next batch and begin to copy it, unless that was done before. Returns before it has arrived."""
        if self._sent is not None or (batch := next(self._batches, None)) is None:
            return
        if self._copies:
            self._copies.wait_event(self._steps_before)
        with runtime.StreamCtx(self._copies) if self._copies else contextlib.nullcontext():
            inputs, labels = (part.to(self._platform, non_blocking=True) for part in batch)
        self._sent = inputs, labels

    def _mark_steps(self) -> None:
        """Remember which steps were started so far: the next copy waits for them."""
        if self._copies:
            self._steps_before = runtime.current_stream().record_event()
