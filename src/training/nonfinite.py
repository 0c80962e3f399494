"""Handles steps whose loss or gradients are not finite. `TrainStep` has already left the weights as they were."""
from collections.abc import Callable

import numpy as np
from mindspore import Parameter, Tensor, ops

from src.errors import UserError
from src.log import logger
from src.model_utils.config import Config

ROLLBACKS = 3  # to the same checkpoint; after that the run ends
OVERFLOWS = 100  # in a row; by then an adaptive loss scale has fallen from its largest value to 1


class NonFiniteGuard:
    """Follows `on_nan`: stop, skip the step, or roll back to the last checkpoint.

    With float16 such a step is an overflow, which is normal now and then. It is skipped whatever `on_nan` says, but
    `OVERFLOWS` of them in a row end the run.

    Args:
        config: `on_nan` and `amp_level` are read.
        statistics: batch norm statistics, which the forward pass of a skipped step may have spoiled.
        roll_back: sets weights and momenta back to the last checkpoint. Returns the step of the checkpoint; None if
            there is no checkpoint.
    """

    def __init__(self, config: Config, statistics: list[Parameter], roll_back: Callable[[], int | None]) -> None:
        self._choice = config.on_nan if config.amp_level == "O0" else "overflow"
        self._statistics = statistics
        self._roll_back = roll_back
        self._steps = self._overflows = 0
        self._rollbacks: list[int | None] = []  # the step that each rollback led to
        self._good_statistics = self._copy()
        self._good_since = "the start"

    def check(self, bad_steps: int, where: str) -> None:
        """React to bad steps. To be called after each step.

        Args:
            bad_steps: number of bad steps since the last call.
            where: describes the latest step, for the error.

        Raises:
            UserError: the run must stop, or cannot be rolled back.
        """
        self._steps += 1
        if not bad_steps:
            if self._choice == "skip":
                self._good_statistics = self._copy()
        elif self._choice == "stop":
            raise UserError(f"the loss or its gradients are not finite at {where}; lower --lr_max, or see "
                            "--on_nan; checkpoints of earlier steps are good")
        elif self._choice == "skip":
            self._set_back()
        elif self._choice == "rollback":
            self._rollbacks.append(self._roll_back())
            tries = self._rollbacks.count(self._rollbacks[-1])
            if self._rollbacks[-1] is None or tries > ROLLBACKS:
                raise UserError(f"the loss or its gradients are not finite at {where}, and "
                                + ("there is no checkpoint to go back to" if self._rollbacks[-1] is None
                                   else f"{ROLLBACKS} rollbacks to the last checkpoint did not help")
                                + "; lower --lr_max")
        else:
            # Values arrive for several steps at once. If all of these steps are bad, the row of bad steps goes on.
            self._overflows, self._steps = bad_steps + (self._overflows if bad_steps == self._steps else 0), 0
            if self._overflows >= OVERFLOWS:
                raise UserError(f"{self._overflows} steps in a row overflowed float16, the last at {where}; lower "
                                "--lr_max or --loss_scale, or set --loss_scale_window")

    def repair_statistics(self, where: str) -> None:
        """Set the statistics back to the last finite ones if one is not finite, and say so.

        A forward pass that overflows float16 leaves infinity in them, although its step is left out, and no later step
        takes it out again. To be called before they are saved, averaged over the ranks or evaluated with. Each rank
        looks after its own.

        Args:
            where: describes the latest step, for the log.
        """
        if all(np.isfinite(parameter.asnumpy()).all() for parameter in self._statistics):
            self._good_statistics, self._good_since = self._copy(), where
            return
        self._set_back()
        logger.warning(f"batch norm's moving statistics were not finite at {where}: a forward pass overflowed. They "
                       f"are set back to those of {self._good_since}")

    def _copy(self) -> list[Tensor]:
        return [Tensor(parameter.asnumpy().copy()) for parameter in self._statistics]

    def _set_back(self) -> None:
        for parameter, value in zip(self._statistics, self._good_statistics, strict=True):
            ops.assign(parameter, value)
