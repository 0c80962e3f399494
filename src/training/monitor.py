"""The log lines of a training: losses and times."""
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from mindspore import Tensor

from src.model_utils.config import Config


class Monitor:
    """Writes losses and times of a run in the form of MindSpore's model zoo.

    Losses are fetched from the device only for a log line and before a checkpoint, so that an accelerator does not wait
    for the host. On CPU and with `on_nan=skip` they are fetched after every step. A step is bad if its gradients were
    not finite, so that its update was left out. `on_line` is called with the loss and learning rate of logged steps.
    """

    def __init__(self, lr: np.ndarray, config: Config, steps_per_epoch: int,
                 write: Callable[[str], None] = print,
                 on_line: Callable[[float, float], None] | None = None) -> None:
        self._lr, self._epochs, self._steps = lr, config.epoch_size, steps_per_epoch
        self._log_steps, self._write, self._on_line = config.log_steps, write, on_line
        each_step = config.platform == "CPU" or config.on_nan == "skip"
        self._fetch_steps = (1,) if each_step else (config.log_steps, config.save_checkpoint_steps or config.log_steps)
        self.losses: list[float] = []  # of the fetched steps of the epoch
        self.bad_steps = 0  # number of fetched steps whose update was left out
        self._pending: list[tuple[Tensor, Tensor]] = []

    def epoch_begin(self, epoch: int, losses: Sequence[float] = ()) -> None:
        """Start the clock of an epoch (from 0). `losses` are of the steps that a resumed run has done before."""
        self._epoch, self.losses, self._pending = epoch, list(losses), []
        self._begin = self._line_begin = time.perf_counter()
        self._steps_before, self._bad_before = len(self.losses), self.bad_steps

    def step_end(self, step: int, loss: Tensor, applied: Tensor) -> None:
        """Take the result of a step (from 0). Write a line every `log_steps` and at the end of the epoch."""
        self._pending.append((loss, applied))
        done = step + 1
        if done == self._steps or any(done % steps == 0 for steps in self._fetch_steps):
            self._fetch()
        if done % self._log_steps and done != self._steps:
            return
        now = time.perf_counter()
        self._write(f"epoch: [{self._epoch:3d}/{self._epochs:3d}], step:[{step:5d}/{self._steps:5d}], "
                    f"loss:[{self.losses[-1]:5.3f}/{np.mean(self.losses):5.3f}], "
                    f"time:[{1000 * (now - self._line_begin):5.3f}], "
                    f"lr:[{self._lr[self._epoch * self._steps + step]:5.3f}]")
        self._line_begin = now
        if self._on_line:
            self._on_line(self.losses[-1], float(self._lr[self._epoch * self._steps + step]))

    @property
    def is_fetched(self) -> bool:
        """Whether the values of all steps so far have been fetched."""
        return not self._pending

    def epoch_end(self) -> float:
        """Write the line of the epoch. Returns the mean loss of its steps."""
        milliseconds = 1000 * (time.perf_counter() - self._begin)
        loss = float(np.mean([loss for loss in self.losses if math.isfinite(loss)] or [math.nan]))
        self._write(f"epoch time: {milliseconds:5.3f}, "
                    f"per step time: {milliseconds / (len(self.losses) - self._steps_before):5.3f}, "
                    f"avg loss: {loss:5.3f}")
        if bad_steps := self.bad_steps - self._bad_before:
            self._write(f"{bad_steps} steps of this epoch left out: their gradients were not finite")
        return loss

    def _fetch(self) -> None:
        for loss, applied in self._pending:
            self.bad_steps += not applied.asnumpy()
            self.losses.append(float(loss.asnumpy()))
        self._pending = []
