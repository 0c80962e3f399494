"""Saves the state of a run in checkpoints, and restores it.

Rank 0 alone reads and writes files; the other ranks take part where values of all ranks are needed.
"""
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops

from src.checkpoint.file import Checkpoint, read_checkpoint
from src.checkpoint.names import LAST, numbered
from src.checkpoint.retention import CheckpointFolder, Retention
from src.distributed.collectives import (
    all_gather,
    all_reduce,
    any_over_ranks,
    broadcast_counts,
    broadcast_parameters,
    flatten,
    set_values,
)
from src.distributed.world import World
from src.errors import UserError
from src.log import logger
from src.training.resume import Run, find_checkpoint, lock_folder
from src.training.state import TrainingState
from src.training.step import TrainStep, batch_norm_statistics, training_state
from src.training.timing import CHECKPOINTS, Timing
from src.utils import eval_parameters, load_parameters, load_weights

RANKS_STATISTICS = "batch_norm_of_ranks"  # R x n float32: between validations each rank has its own statistics


class Checkpointer:
    """Saves a run and restores it.

    Args:
        run: what the run is. It resumes only from a checkpoint of the same run.
        network: the whole network, of which `train_step` trains all or the head.
        ema: the network with the moving average of the weights, if the run keeps one.
        timing: counts the time that checkpoints take.
    """

    def __init__(self, run: Run, train_step: TrainStep, network: nn.Cell, ema: nn.Cell | None, timing: Timing,
                 world: World) -> None:
        config = run.config
        self.folder = Path(config.save_checkpoint_path)
        self._run, self._timing, self._world = run, timing, world
        self._train_step, self._network, self._ema = train_step, network, ema
        self._checkpoints = CheckpointFolder(self.folder, Retention(
            config.keep_checkpoint_max, config.keep_checkpoint_best, config.keep_checkpoint_every, config.best_metric))
        self._last_is_written = True
        self._saved_step: int | None = None  # step of the newest checkpoint of this run

    def restore(self) -> TrainingState:
        """Resume from this run's last checkpoint, or set aside what an earlier run left. Make all ranks equal.

        Returns the state of the run: that of the checkpoint, or a new one. If it is that of the last step, the run is
        finished.
        """
        metric = self._run.config.best_metric
        checkpoint, state = None, TrainingState(best_metric=metric)
        if self._world.is_main_process:
            lock_folder(self.folder)
            checkpoint = find_checkpoint(self._run, self.folder)
            if checkpoint and checkpoint.training:
                state = TrainingState.of(checkpoint.training, metric)
                self._attach(checkpoint, state)
            else:
                self._checkpoints.set_aside_earlier_run()
        state.step = int(broadcast_counts(np.array([state.step]), self._world)[0])
        self._load(checkpoint)
        return state

    def _attach(self, checkpoint: Checkpoint, state: TrainingState) -> None:
        self._checkpoints.attach(checkpoint)
        self._saved_step = state.step
        if self._run.is_finished(state):
            logger.info(f"{checkpoint.path}: this run is finished, all of its {state.step} steps are done; to train "
                        "anew, use --resume never")
            return
        steps = self._run.planned_epochs(state) * self._run.steps_per_epoch
        logger.info(f"resuming from {checkpoint.path}: {state.step} of {steps} steps done")
        for remark in self._run.remarks(checkpoint.metadata):
            logger.info(f"note: {remark}")

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

    def is_due(self, state: TrainingState) -> bool:
        """Whether the configuration asks for a checkpoint of this state. The same on all ranks."""
        config = self._run.config
        epoch, step = divmod(state.step, self._run.steps_per_epoch)
        if step:
            return config.save_checkpoint_steps > 0 and step % config.save_checkpoint_steps == 0
        # Rank 0 decides: a resumed run has the history there alone.
        return any_over_ranks(self._world.is_main_process and (
            state.is_best or epoch % config.save_checkpoint_epochs == 0 or self._run.is_finished(state)), self._world)

    def save(self, state: TrainingState) -> Path | None:
        """Write a checkpoint on rank 0, unless the configuration wants none.

        Returns its path. Returns None if it was not written, as on a full disk, and on all other ranks.
        """
        if not self._run.config.save_checkpoint:
            return None
        with self._timing.measure(CHECKPOINTS):
            tensors = training_state(self._train_step)
            if self._world.rank_size > 1:
                statistics = flatten(batch_norm_statistics(self._train_step))
                tensors[RANKS_STATISTICS] = Tensor(all_gather(statistics, self._world))
            if not self._world.is_main_process:
                return None
            epoch, step = divmod(state.step - 1, self._run.steps_per_epoch)
            path = self.folder / numbered(self._run.config.freeze_layer == "backbone", epoch + 1, step + 1)
            weights = eval_parameters(self._network, self._ema)
            self._last_is_written = self._checkpoints.save(path.stem, weights, tensors, self._run.metadata(state))
            if not self._last_is_written:
                return None
            self._saved_step = state.step
            return path

    def is_saved(self, state: TrainingState) -> bool:
        """Whether there is a checkpoint of this state; rank 0 knows."""
        return self._saved_step == state.step

    def finalize(self) -> None:
        """Tell if the last checkpoint is missing.

        Raises:
            UserError: it could not be written.
        """
        if not self._last_is_written:
            raise UserError(f"{self.folder}: the last checkpoint could not be written; make room, and start again"
                            + (" to go on from the one before it" if self._saved_step is not None else ""))

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
