"""Saves a run to disk as checkpoints, curves and a report, and restores it from them.

Only rank 0 reads and writes files. The other ranks take part where values of all ranks are needed.
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
    all_gather,
    all_reduce,
    broadcast_counts,
    broadcast_parameters,
    flatten,
    set_values,
)
from src.distributed.world import World
from src.errors import UserError
from src.metrics import EvalResult
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
from src.utils import eval_parameters, load_parameters, load_weights

CURVES = "curves.csv"
RANKS_STATISTICS = "batch_norm_of_ranks"  # R x n float32: between validations each rank has its own statistics


class Checkpointer:
    """Saves a run and restores it.

    Args:
        run: what the run is. It resumes only from a checkpoint of the same run.
        network: the whole network, of which `train_step` trains all or the head.
        ema: the network with the moving average of the weights, if the run keeps one.
        eval_folder: the validation images, if there are any.
    """

    def __init__(self, run: Run, train_step: TrainStep, network: nn.Cell, ema: nn.Cell | None, world: World,
                 eval_folder: ImageFolder | None = None) -> None:
        config = run.config
        self.progress, self.timing = Progress(), Timing()
        self.folder = Path(config.save_checkpoint_path)
        self._run, self._world = run, world
        self._train_step, self._network, self._ema = train_step, network, ema
        self._checkpoints = CheckpointFolder(self.folder, Retention(
            config.keep_checkpoint_max, config.keep_checkpoint_best, config.keep_checkpoint_every))
        self._was_finished = False
        self._last_is_written = True
        self._saved_step: int | None = None  # step of the newest checkpoint of this run
        self._profiler = StepProfiler(config, self.timing, world)
        self._eval_folder = eval_folder
        self._best: BestEvaluation | None = None
        self._events: EventFile | None = None
        check_tensorboard(config)

    def restore(self) -> None:
        """Resume from this run's last checkpoint, or set aside what an earlier run left. Make all ranks equal.

        If the last checkpoint is of the last step, the run is finished, and only `finalize` is left to do.
        """
        checkpoint = None
        if self._world.is_main_process:
            lock_folder(self.folder)
            checkpoint = find_checkpoint(self._run, self.folder)
            if checkpoint and checkpoint.training:
                self._resume(checkpoint, checkpoint.training)
            else:
                self._checkpoints.set_aside_earlier_run()
            if self._run.config.tensorboard and not self._was_finished:
                self._events = EventFile(self.folder / "tensorboard", self.progress.step)
        self.progress.step = int(broadcast_counts(np.array([self.progress.step]), self._world)[0])
        self._load(checkpoint)

    def _resume(self, checkpoint: Checkpoint, training: TrainingMetadata) -> None:
        self.progress = Progress.of(training)
        self._checkpoints.attach(checkpoint)
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
        """Set weights, momenta and statistics back to the last checkpoint. Counters stay as they are.

        Returns the number of steps at that checkpoint; None if there is no checkpoint.
        """
        last = self.folder / f"{LAST}.ckpt"
        checkpoint = read_checkpoint(last) if self._world.is_main_process and last.is_file() else None
        training = checkpoint.training if checkpoint else None
        found = 1 + training.step if training else 0  # 0 stands for None, which the ranks cannot broadcast
        found = int(broadcast_counts(np.array([found]), self._world)[0])
        if not found:
            return None
        counters = {name: value.asnumpy().copy() for name, value in training_state(self._train_step).items()
                    if np.issubdtype(value.asnumpy().dtype, np.integer)}
        self._load(checkpoint)
        for name, value in training_state(self._train_step).items():
            if name in counters:
                ops.assign(value, Tensor(counters[name]))
        return found - 1

    @property
    def path(self) -> Path:
        """The file of a checkpoint of the present step: `mobilenetv2-<epoch>_<step in the epoch>.ckpt`, both from 1."""
        epoch, step = divmod(self.progress.step - 1, self._run.steps_per_epoch)
        return self.folder / numbered(self._run.config.freeze_layer == "backbone", epoch + 1, step + 1)

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches. Measures the time of each step, and profiles steps if that is wanted."""
        return self._profiler.watch(self.timing.batches(batches))

    def log_step(self, loss: float, lr: float) -> None:
        """Write loss and learning rate of a logged step to the event file, if there is one."""
        if self._events:
            self._events.write(self.progress.step + 1, {"step/loss": loss, "step/lr": lr})

    def save_epoch(self, row: dict[str, Any], result: EvalResult | None, always: bool = False) -> Path | None:
        """Add a finished epoch and its validation to the history, and write the table of curves.

        Also writes a checkpoint, if one is due or `always` is set. Returns its path, or None if none was written.
        """
        if result:
            row = {**row, "val_loss": result.loss, "top1": result.top1, "top5": result.top5}
        config, progress = self._run.config, self.progress
        is_best = row.get("top1", -1.0) > progress.best_top1
        progress.best_top1 = max(progress.best_top1, row.get("top1", -1.0))
        progress.losses = []
        progress.history.append(row)
        if self._events:
            self._events.write(progress.step, {f"epoch/{name}": row[name] for name in row if name != "epoch"})
        if is_best and result and self._eval_folder and self._world.is_main_process:
            self._best = BestEvaluation.of(result, self._eval_folder, progress.run_id, row["epoch"])
            if config.save_checkpoint:
                # Written before its checkpoint, so that no best checkpoint is without it.
                with _tolerate_failure(best_evaluation.FILE):
                    self._best.save(self.folder / best_evaluation.FILE)
        is_saved = bool(config.save_checkpoint and (
            always or is_best or row["epoch"] % config.save_checkpoint_epochs == 0
            or row["epoch"] == config.epoch_size)) and self._save(row, whole_epoch=True, is_best=is_best)
        if self._world.is_main_process:
            with _tolerate_failure(CURVES):
                write_table(progress.history, self.folder / CURVES)
        return self.path if is_saved else None

    def save_within_epoch(self, monitor: Monitor) -> None:
        """Write a checkpoint between two steps of an epoch. `monitor` has the losses of the epoch so far."""
        self.progress.losses = list(monitor.losses)
        if self._run.config.save_checkpoint:
            self._save({}, whole_epoch=False, is_best=False)

    def finalize(self) -> None:
        """Draw the curves and write the report.

        Raises:
            UserError: the last checkpoint could not be written.
        """
        if self._world.is_main_process:
            self._report()
        if not self._last_is_written:
            raise UserError(f"{self.folder}: the last checkpoint could not be written; make room, and start again"
                            + (" to go on from the one before it" if self._saved_step is not None else ""))

    def _report(self) -> None:
        """Write the curves and the report. A run that was finished before keeps the files that it has."""
        path, state = self.folder / "report.html", f"{self.progress.run_id} {self.progress.step}"
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
        """Write a checkpoint on rank 0. Returns whether it was written; False on all other ranks."""
        state = training_state(self._train_step)
        if self._world.rank_size > 1:
            statistics = flatten(batch_norm_statistics(self._train_step))
            state[RANKS_STATISTICS] = Tensor(all_gather(statistics, self._world))
        if not self._world.is_main_process:
            return False
        metadata = self._run.metadata(self.progress, metrics, whole_epoch, is_best)
        self._last_is_written = self._checkpoints.save(
            self.path.stem, eval_parameters(self._network, self._ema), state, metadata)
        if self._last_is_written:
            self._saved_step = self.progress.step
        return self._last_is_written

    def _load(self, checkpoint: Checkpoint | None) -> None:
        """Load a checkpoint, if rank 0 found one, and give all ranks the values of rank 0."""
        statistics = batch_norm_statistics(self._train_step)
        rows = np.zeros((self._world.rank_size, sum(parameter.size for parameter in statistics)), np.float32)
        if checkpoint:
            load_weights(self._network, checkpoint)
            load_parameters(eval_parameters(self._network, self._ema), checkpoint)
            wanted = training_state(self._train_step)
            shapes, found = ({name: value.shape for name, value in values.items()} for values in (
                wanted, checkpoint.state))
            if self._world.rank_size > 1:
                shapes[RANKS_STATISTICS] = rows.shape
            if differing := sorted(name for name in shapes.keys() | found.keys()
                                   if shapes.get(name) != found.get(name)):
                raise UserError(f"{checkpoint.path}: cannot resume from this checkpoint: {len(differing)} parts of the "
                                f"training state differ, like {differing[0]}")
            for name, value in wanted.items():  # set_data does not change the optimizer of a compiled step
                ops.assign(value, checkpoint.state[name].astype(value.dtype))
            if self._world.rank_size > 1:
                rows = checkpoint.state[RANKS_STATISTICS].asnumpy()
        if self._world.rank_size == 1:
            return
        broadcast_parameters(self._network.get_parameters(), self._world)
        broadcast_parameters(self._train_step.get_parameters(), self._world)
        loaded = broadcast_counts(np.array([int(checkpoint is not None)]), self._world)[0]
        mine = all_reduce(rows, self._world)[self._world.rank]
        if loaded:
            set_values(statistics, mine)


@contextlib.contextmanager
def _tolerate_failure(file: str) -> Iterator[None]:
    """Turn an error in writing a file into a warning: a full disk must not end the training."""
    try:
        yield
    except UserError as error:
        print(f"warning: {file} is not written this time, training goes on: {error}", file=sys.stderr)
