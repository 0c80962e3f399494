"""Measures speed by the median of single runs. It needs the standard library alone."""
import statistics
import time
from collections.abc import Callable

WARM_UP = 2  # runs that do not count: they compile and fill the caches
MOST_STEPS = 1000


def speed(run: Callable[[], object], images: int, steps: int, seconds: float = 0.0) -> float:
    """Images per second of a run over `images` of them, from the median of at least `steps` runs.

    Short runs are repeated until `seconds` have passed, but at most `MOST_STEPS` times.
    """
    for _ in range(WARM_UP):
        run()
    durations: list[float] = []
    while len(durations) < steps or (sum(durations) < seconds and len(durations) < MOST_STEPS):
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return round(images / statistics.median(durations), 2)
