"""The record of a run on disk: checkpoints, curves and the report, and the way back from them.

Rank 0 alone reads and writes files; the other ranks take part where values of all ranks are needed.
"""
import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from src.checkpoint.file import Checkpoint, read_checkpoint
from src.checkpoint.names import LAST, numbered
from src.checkpoint.record import TrainingMetadata
from src.checkpoint.retention import CheckpointFolder, Retention
from src.data.image_folder import ImageFolder
from src.dataset import Batch
from src.distributed.collectives import (
    broadcast_counts,
    broadcast_parameters,
    gather_rows,
    set_values,
    sum_floats,
    values_of,
)
from src.distributed.world import World
from src.errors import UserError
from src.metrics import Score
from src.reports import best_evaluation
from src.reports.best_evaluation import BestEvaluation
from src.reports.event_file import EventFile, check_tensorboard
from src.reports.figures import draw_curves, write_table
from src.reports.report import is_report_of, write_report
from src.training.monitor import Monitor
from src.training.profiler import StepProfiler
from src.training.resume import Progress, Run, find_checkpoint, lock_folder
from src.training.run_report import training_report
from src.training.step import TrainStep, batch_norm_statistics, training_state
from src.training.timing import CHECKPOINTS, Timing
from src.utils import load_parameters, load_weights, scored_parameters

CURVES = "curves.csv"
RANKS_STATISTICS = "batch_norm_of_ranks"  # R x n float32: between validations each rank has statistics of its own


class Recorder:
    """Saves a run and brings it back.

    Args:
        run: what the run is; it goes on only from a checkpoint of the same run.
        network: the whole network, of which `train_step` trains all or the head.
        average: the moving average of `network`, if the run keeps one.
        eval_folder: the images of validation, if there are any.
    """

    def __init__(self, run: Run, train_step: TrainStep, network: nn.Cell, average: nn.Cell | None, world: World,
                 eval_folder: ImageFolder | None = None) -> None:
        config = run.config
        self.progress, self.timing = Progress(), Timing()
        self.folder = Path(config.save_checkpoint_path)
        self._run, self._world = run, world
        self._train_step, self._network, self._average = train_step, network, average
        self._checkpoints = CheckpointFolder(self.folder, Retention(
            config.keep_checkpoint_max, config.keep_checkpoint_best, config.keep_checkpoint_every))
        self._was_finished = False
        self._last_is_written = True
        self._saved_step: int | None = None  # of the newest checkpoint of this run
        self._profiler = StepProfiler(config, self.timing, world)
        self._eval_folder = eval_folder
        self._best: BestEvaluation | None = None
        self._events: EventFile | None = None
        check_tensorboard(config)

    def begin(self) -> None:
        """Resume from this run's last checkpoint, or set aside what an earlier run left; make all ranks equal.

        A run whose last checkpoint is that of its last step has nothing left to do but what `end` does.
        """
        checkpoint = None
        if self._world.is_first:
            lock_folder(self.folder)
            checkpoint = find_checkpoint(self._run, self.folder)
            if checkpoint and checkpoint.training:
                self._resume(checkpoint, checkpoint.training)
            else:
                self._checkpoints.set_aside_earlier_run()
            if self._run.config.tensorboard and not self._was_finished:
                self._events = EventFile(self.folder / "tensorboard", self.progress.step)
        self.progress.step = int(broadcast_counts(np.array([self.progress.step]), self._world)[0])
        self._restore(checkpoint)

    def _resume(self, checkpoint: Checkpoint, training: TrainingMetadata) -> None:
        self.progress = Progress.of(training)
        self._checkpoints.go_on_from(checkpoint)
        self._saved_step = training.step
        self._best = BestEvaluation.load(self.folder / best_evaluation.FILE, training, len(self._run.classes))
        self._was_finished = training.step == self._run.total_steps
        if self._was_finished:
            print(f"{checkpoint.path}: this run is finished, all of its {training.step} steps are done; to train anew, "
                  "use --resume never")
            return
        print(f"resuming from {checkpoint.path}: {training.step} of {self._run.total_steps} steps done")
        for remark in self._run.remarks(checkpoint.metadata):
            print(f"note: {remark}")

    def roll_back(self) -> int | None:
        """Set weights, momenta and statistics, but no counters, back to the last checkpoint.

        Returns the steps that had been done by then; None if there is no checkpoint.
        """
        last = self.folder / f"{LAST}.ckpt"
        checkpoint = read_checkpoint(last) if self._world.is_first and last.is_file() else None
        training = checkpoint.training if checkpoint else None
        found = 1 + training.step if training else 0  # ranks can tell each other no None
        found = int(broadcast_counts(np.array([found]), self._world)[0])
        if not found:
            return None
        counters = {name: value.asnumpy().copy() for name, value in training_state(self._train_step).items()
                    if np.issubdtype(value.asnumpy().dtype, np.integer)}
        self._restore(checkpoint)
        for name, value in training_state(self._train_step).items():
            if name in counters:
                ops.assign(value, Tensor(counters[name]))
        return found - 1

    @property
    def path(self) -> Path:
        """Where the present checkpoint goes: `mobilenetv2-<epoch>_<step in it>.ckpt`, both from 1."""
        epoch, step = divmod(self.progress.step - 1, self._run.steps_per_epoch)
        return self.folder / numbered(self._run.config.freeze_layer == "backbone", epoch + 1, step + 1)

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of an epoch; the clock, and the profiler if it is wanted, run until the next one is asked for."""
        return self._profiler.watch(self.timing.batches(batches))

    def log_step(self, loss: float, lr: float) -> None:
        """Take the figures of a step that has a line in the log."""
        if self._events:
            self._events.write(self.progress.step + 1, {"step/loss": loss, "step/lr": lr})

    def save_epoch(self, row: dict[str, Any], score: Score | None, always: bool = False) -> Path | None:
        """Take the figures of a finished epoch and of its validation; write the table and, if it is time or `always`, a
        checkpoint. Returns the checkpoint that was written, if one was.
        """
        if score:
            row = {**row, "val_loss": score.loss, "top1": score.top1, "top5": score.top5}
        config, progress = self._run.config, self.progress
        is_best = row.get("top1", -1.0) > progress.best_top1
        progress.best_top1 = max(progress.best_top1, row.get("top1", -1.0))
        progress.losses = []
        progress.history.append(row)
        if self._events:
            self._events.write(progress.step, {f"epoch/{name}": row[name] for name in row if name != "epoch"})
        if is_best and score and self._eval_folder and self._world.is_first:
            self._best = BestEvaluation.of(score, self._eval_folder, progress.run, row["epoch"])
            if config.save_checkpoint:
                # Before the checkpoint that it belongs to: so it is there whenever that is.
                with _going_on_without(best_evaluation.FILE):
                    self._best.save(self.folder / best_evaluation.FILE)
        is_saved = bool(config.save_checkpoint and (
            always or is_best or row["epoch"] % config.save_checkpoint_epochs == 0
            or row["epoch"] == config.epoch_size)) and self._save(row, whole_epoch=True, is_best=is_best)
        if self._world.is_first:
            with _going_on_without(CURVES):
                write_table(progress.history, self.folder / CURVES)
        return self.path if is_saved else None

    def save_within_epoch(self, monitor: Monitor) -> None:
        """Write a checkpoint between two steps of an epoch, whose losses so far `monitor` has fetched."""
        self.progress.losses = list(monitor.losses)
        if self._run.config.save_checkpoint:
            self._save({}, whole_epoch=False, is_best=False)

    def end(self) -> None:
        """Draw the curves and write the report.

        Raises:
            UserError: the last checkpoint could not be written.
        """
        if self._world.is_first:
            self._report()
        if not self._last_is_written:
            raise UserError(f"{self.folder}: the last checkpoint could not be written; make room, and start again"
                            + (" to go on from the one before it" if self._saved_step is not None else ""))

    def _report(self) -> None:
        """The curves and the report, unless they are there: of a run that was finished before, nothing is new."""
        path, state = self.folder / "report.html", f"{self.progress.run} {self.progress.step}"
        curves = [self.folder / CURVES, self.folder / "curves.png"]
        if self._was_finished and is_report_of(path, state) and all(file.is_file() for file in curves):
            print(f"report: {path}")
            return
        try:
            if self.progress.history:
                write_table(self.progress.history, curves[0])
                draw_curves(self.progress.history, curves[1])
            is_saved = self._saved_step == self.progress.step
            write_report(training_report(self._run, self.progress, self._best, self._eval_folder, self.timing,
                                         self._network, self._world, is_saved), path, state)
            print(f"report: {path}")
        except UserError as error:
            print(f"warning: the run is saved, but not its report: {error}", file=sys.stderr)

    def _save(self, metrics: dict[str, Any], whole_epoch: bool, is_best: bool) -> bool:
        with self.timing.measure(CHECKPOINTS):
            return self._write_checkpoint(metrics, whole_epoch, is_best)

    def _write_checkpoint(self, metrics: dict[str, Any], whole_epoch: bool, is_best: bool) -> bool:
        """Whether it was written; rank 0 alone knows."""
        state = training_state(self._train_step)
        if self._world.rank_size > 1:
            statistics = values_of(batch_norm_statistics(self._train_step))
            state[RANKS_STATISTICS] = Tensor(gather_rows(statistics, self._world))
        if not self._world.is_first:
            return False
        metadata = self._run.metadata(self.progress, metrics, whole_epoch, is_best)
        self._last_is_written = self._checkpoints.save(
            self.path.stem, scored_parameters(self._network, self._average), state, metadata)
        if self._last_is_written:
            self._saved_step = self.progress.step
        return self._last_is_written

    def _restore(self, checkpoint: Checkpoint | None) -> None:
        """Load a checkpoint, if rank 0 found one, and give all ranks what rank 0 has."""
        statistics = batch_norm_statistics(self._train_step)
        rows = np.zeros((self._world.rank_size, sum(parameter.size for parameter in statistics)), np.float32)
        if checkpoint:
            load_weights(self._network, checkpoint)
            load_parameters(scored_parameters(self._network, self._average), checkpoint)
            wanted = training_state(self._train_step)
            shapes, found = ({name: value.shape for name, value in values.items()} for values in (
                wanted, checkpoint.state))
            if self._world.rank_size > 1:
                shapes[RANKS_STATISTICS] = rows.shape
            if differing := sorted(name for name in shapes.keys() | found.keys()
                                   if shapes.get(name) != found.get(name)):
                raise UserError(f"{checkpoint.path}: cannot resume from this checkpoint: {len(differing)} parts of the "
                                f"training state differ, like {differing[0]}")
            for name, value in wanted.items():  # set_data would not reach the optimizer of a step that is compiled
                ops.assign(value, checkpoint.state[name].astype(value.dtype))
            if self._world.rank_size > 1:
                rows = checkpoint.state[RANKS_STATISTICS].asnumpy()
        if self._world.rank_size == 1:
            return
        broadcast_parameters(self._network.get_parameters(), self._world)
        broadcast_parameters(self._train_step.get_parameters(), self._world)
        loaded = broadcast_counts(np.array([int(checkpoint is not None)]), self._world)[0]
        mine = sum_floats(rows, self._world)[self._world.rank]
        if loaded:
            set_values(statistics, mine)


@contextlib.contextmanager
def _going_on_without(file: str) -> Iterator[None]:
    """Training is worth more than a file about it: a full disk costs the file."""
    try:
        yield
    except UserError as error:
        print(f"warning: {file} is not written this time, training goes on: {error}", file=sys.stderr)
