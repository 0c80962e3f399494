"""Where the time goes, by a clock that the tests set."""
import time
from collections.abc import Iterator

import numpy as np
import pytest

from src.training.timing import CHECKPOINTS, DATA, EVALUATION, FIRST_STEP, STEPS, Timing, process_seconds

IMPORTED = time.monotonic()  # later than the start of this process


class Clock:
    """Stands in for the host's clock."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_each_moment_counts_once(clock: Clock) -> None:
    timing = Timing()

    def epoch() -> Iterator[tuple]:
        for _ in range(4):
            clock.now += 1  # images come slowly
            yield np.zeros((5, 3, 2, 2)), np.zeros(5)

    for number, _ in enumerate(timing.batches(epoch())):
        clock.now += 50 if number == 0 else 10
        if number == 1:
            with timing.measure(CHECKPOINTS):
                clock.now += 3
        if number == 2:
            break  # the fourth is never asked for
    with timing.measure(EVALUATION):
        clock.now += 7
    assert timing.seconds == {DATA: 3, FIRST_STEP: 50, STEPS: 20, CHECKPOINTS: 3, EVALUATION: 7}
    assert timing.images == 10
    assert sum(timing.seconds.values()) == clock.now - 100


def test_an_error_within_a_part_is_counted_and_passes(clock: Clock) -> None:
    timing = Timing()
    with pytest.raises(ValueError, match="disk"), timing.measure(CHECKPOINTS):
        clock.now += 2
        raise ValueError("disk")
    assert timing.seconds[CHECKPOINTS] == 2


def test_a_process_counts_from_its_start() -> None:
    first, since_import = process_seconds(), time.monotonic() - IMPORTED
    assert since_import < first <= process_seconds()
