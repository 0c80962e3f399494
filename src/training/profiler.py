"""Runs MindSpore's profiler on some steps of a run and summarises its tables.

On CPU the profiler times every operator. The C++ kernels of this project are one operator for a whole pass of the
backbone; `--cpu_kernels off` shows single layers, but of MindSpore's own operators. On Ascend and GPU the profiler
writes files for the viewers of the vendors. The summary there has only the operators of the host, if there are any.
"""
import csv
import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from mindspore import profiler as ms_profiler

from src.dataset import Batch
from src.distributed.world import World
from src.files import atomic_write
from src.log import logger, without_mindspore_logs
from src.model_utils.config import Config
from src.training.timing import DATA, Timing

LISTED = 10  # operators in the summary
CUSTOM = ("Custom are this project's C++ kernels: below backbone its forward pass, else its backward pass, the check\n"
          "of the gradients and the optimizer. The profiler does not look into them; --cpu_kernels off shows layers,\n"
          "but of MindSpore's operators.")
# What the profiler writes of the host's operators: a row per kind, and a row per operator.
KINDS, OPERATORS = "cpu_op_type_info_*.csv", "cpu_op_detail_info_*.csv"


class StepProfiler:
    """Profiles `profiling_steps` batches of this process, after the first one, which is compiled; rank 0 alone.

    It ends with the epoch at the latest, so that it never includes an evaluation.

    Args:
        config: `enable_profiling` and `profiling_steps` are read.
        timing: of the run, for the time of waiting for data.
        world: which rank this is.
    """

    def __init__(self, config: Config, timing: Timing, world: World) -> None:
        self._config, self._timing = config, timing
        self._wanted = config.enable_profiling and world.is_main_process
        self._compiled = False
        self._folder = Path(config.save_checkpoint_path) / "profile"

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches. Profiles the steps between them. The caller must close the iterator at the end."""
        for batch in batches:
            if self._wanted and self._compiled:
                self._wanted = False
                yield from self._profile(batch, batches)
            else:
                self._compiled = True
                yield batch

    def _profile(self, first: Batch, batches: Iterator[Batch]) -> Iterator[Batch]:
        activity = ms_profiler.ProfilerActivity
        activities = [activity.CPU] + ({"Ascend": [activity.NPU], "GPU": [activity.GPU]}
                                       .get(self._config.platform, []))
        # MindSpore warns that its profiler has no schedule. It needs none: it is started and stopped here.
        with without_mindspore_logs(logging.WARNING):
            profile = ms_profiler.profile(
                activities=activities, start_profile=False,
                on_trace_ready=ms_profiler.tensorboard_trace_handler(dir_name=str(self._folder.absolute())))
        waited = self._timing.seconds[DATA]
        steps = 0
        with without_mindspore_logs(logging.WARNING):
            profile.start()
        begin = time.perf_counter()
        try:
            for batch in itertools.islice(itertools.chain([first], batches), self._config.profiling_steps):
                steps += 1
                yield batch
        finally:
            seconds, waited = time.perf_counter() - begin, self._timing.seconds[DATA] - waited
            with without_mindspore_logs(logging.WARNING):
                profile.stop()
            self._report(steps, seconds, waited)

    def _report(self, steps: int, seconds: float, waited: float) -> None:
        text = summary(self._folder, steps, seconds, waited)
        with atomic_write(self._folder / "summary.txt") as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        logger.info(f"{text}\nprofile: {self._folder}")


def summary(folder: Path, steps: int, seconds: float, waited: float) -> str:
    """A text of where the time of the profiled steps went, from the newest tables of the profiler in a folder.

    Args:
        folder: where the profiler wrote.
        steps: number of profiled batches.
        seconds: time of these batches.
        waited: how many of these seconds the run waited for data.
    """
    lines = [f"{steps} batches profiled, {1000 * seconds / steps:.1f} ms each, of which {waited / seconds:.1%} waiting "
             "for data"]
    try:
        kinds = [(float(row["total_compute_time"]), int(row["type_occurrences"]), row["op_type"])
                 for row in _newest_table(folder, KINDS)]
        operators = [(float(row["op_total_time(ms)"]), int(row["op_occurrences"]), row["full_op_name"])
                     for row in _newest_table(folder, OPERATORS)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):  # a table of another version, or cut off
        kinds = operators = []
    busy = sum(milliseconds for milliseconds, _, _ in kinds)
    if not busy > 0:
        return "\n".join([*lines, f"the profiler wrote no table of operators that this summary knows; see {folder}"])
    lines.append(f"in operators {busy / 1000 / seconds:.1%} of the time; the rest is waiting, starting them, and the "
                 "profiler itself")
    for title, entries in (("kinds of operators", kinds), ("operators", operators)):
        lines.append(f"{title}: share of the operators' time, ms per batch, calls per batch")
        lines += [f"  {milliseconds / busy:6.1%} {milliseconds / steps:9.3f} {calls / steps:7g}  {name}"
                  for milliseconds, calls, name in sorted(entries, reverse=True)[:LISTED]]
    if any(name == "Custom" for *_, name in kinds):
        lines.append(CUSTOM)
    return "\n".join(lines)


def _newest_table(folder: Path, pattern: str) -> list[dict[str, str]]:
    found = sorted(folder.rglob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        return []
    with found[-1].open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
