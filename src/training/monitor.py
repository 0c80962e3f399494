"""The log lines of a training: losses and times."""
import math
import time
from collections.abc import Callable

import numpy as np
from mindspore import Tensor

from src.log import logger
from src.model_utils.config import Config
from src.training.state import TrainingState


class Monitor:
    """Writes losses and times of a run in the form of MindSpore's model zoo.

    Losses are fetched from the device at a log line and before a checkpoint only, so that an accelerator does not wait
    for the host. On CPU, and with `on_nan` skip, they are fetched after every step. A step is bad if its update was
    left out because the gradients were not finite.

    Args:
        state: of the run; the losses of the epoch's steps are kept there.
        lr: the learning rate of every step of the run.
        config: `epoch_size`, `log_steps`, `platform`, `on_nan` and `save_checkpoint_steps` count here.
        steps_per_epoch: steps of an epoch.
        on_line: takes loss and learning rate of each step that has a line.
    """

    def __init__(self, state: TrainingState, lr: np.ndarray, config: Config, steps_per_epoch: int,
                 on_line: Callable[[float, float], None] | None = None) -> None:
        self._state, self._lr, self._epoch_size, self._steps = state, lr, config.epoch_size, steps_per_epoch
        self._log_steps, self._on_line = config.log_steps, on_line
        each_step = config.platform == "CPU" or config.on_nan == "skip"
        self._fetch_steps = (1,) if each_step else (config.log_steps, config.save_checkpoint_steps or config.log_steps)
        self._pending: list[tuple[Tensor, Tensor]] = []

    def epoch_begin(self, epoch: int) -> None:
        """Start the clock of an epoch (from 0). A resumed run has done some of its steps before."""
        self._epoch, self._pending, self._bad_steps = epoch, [], 0
        self._begin = self._line_begin = time.perf_counter()
        self._steps_before = len(self._state.losses)

    def step_end(self, step: int, loss: Tensor, applied: Tensor) -> int:
        """Take what a step (from 0) returned. Write a line every `log_steps` and at the end of the epoch.

        Returns how many of the steps that were fetched just now are bad.
        """
        self._pending.append((loss, applied))
        done, bad_steps = step + 1, 0
        if done == self._steps or any(done % steps == 0 for steps in self._fetch_steps):
            bad_steps = self._fetch()
        if done % self._log_steps and done != self._steps:
            return bad_steps
        now, losses, lr = time.perf_counter(), self._state.losses, float(self._lr[self._epoch * self._steps + step])
        epochs = self._state.planned_epochs(self._epoch_size)
        logger.info(f"epoch: [{self._epoch:3d}/{epochs:3d}], step:[{step:5d}/{self._steps:5d}], "
                    f"loss:[{losses[-1]:5.3f}/{np.mean(losses):5.3f}], "
                    f"time:[{1000 * (now - self._line_begin):5.3f}], lr:[{lr:5.3f}]")
        self._line_begin = now
        if self._on_line:
            self._on_line(losses[-1], lr)
        return bad_steps

    @property
    def is_fetched(self) -> bool:
        """Whether the values of all steps so far are here, so that asking for more costs no waiting."""
        return not self._pending

    def epoch_end(self) -> float:
        """Write the epoch's line. Returns the mean loss of all its steps."""
        milliseconds, losses = 1000 * (time.perf_counter() - self._begin), self._state.losses
        loss = float(np.mean([loss for loss in losses if math.isfinite(loss)] or [math.nan]))
        logger.info(f"epoch time: {milliseconds:5.3f}, "
                    f"per step time: {milliseconds / (len(losses) - self._steps_before):5.3f}, "
                    f"avg loss: {loss:5.3f}")
        if self._bad_steps:
            logger.info(f"{self._bad_steps} steps of this epoch left out: their gradients were not finite")
        return loss

    def _fetch(self) -> int:
        bad_steps = 0
        for loss, applied in self._pending:
            bad_steps += not applied.asnumpy()
            self._state.losses.append(float(loss.asnumpy()))
        self._pending = []
        self._bad_steps += bad_steps
        return bad_steps
