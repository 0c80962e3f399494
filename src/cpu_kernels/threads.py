"""How many threads the kernels may use, so that nobody else on the machine starves."""
import math
import os
from pathlib import Path


def _cgroup_cores() -> float:
    """The processor share that the container may use, in cores; infinite without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def _positive_number(name: str) -> int | None:
    """The whole number above 0 at the start of a variable such as `OMP_NUM_THREADS=4,2`, or None."""
    text = os.environ.get(name, "").split(",")[0].strip()
    return int(text) if text.isdecimal() and int(text) > 0 else None


def thread_count() -> int:
    """Threads for this process: its cores by affinity mask and container quota, shared with the other local workers.

    `OMP_NUM_THREADS` is the user's word and wins over both, but never exceeds the affinity mask. msrun tells the
    number of workers in `MS_WORKER_NUM`, on this machine in `MS_LOCAL_WORKER_NUM` where it is set.
    """
    cores = len(os.sched_getaffinity(0))
    wanted = _positive_number("OMP_NUM_THREADS")
    if wanted is not None:
        return min(wanted, cores)
    workers = _positive_number("MS_LOCAL_WORKER_NUM") or _positive_number("MS_WORKER_NUM") or 1
    return max(1, int(min(cores, _cgroup_cores())) // workers)
