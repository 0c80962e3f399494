"""Steps whose loss or gradients are not finite. `TrainStep` leaves the weights as they were; this does the rest."""
from collections.abc import Callable

from mindspore import Parameter, Tensor, ops

from src.errors import UserError
from src.model_utils.config import Config

ROLLBACKS = 3  # to one checkpoint; a run that comes no further than that is lost
OVERFLOWS = 100  # in a row; a loss scale that adapts has come from its largest value to 1 by then


class NonFiniteGuard:
    """Does as `on_nan` says: stop, skip the step, or roll back to the last checkpoint.

    Under float16 such a step is an overflow, to be expected now and then, and skipped whatever `on_nan` says, unless
    there have been `OVERFLOWS` of them and nothing else.

    Args:
        config: `on_nan` and `amp_level` count here.
        statistics: batch norm statistics; the forward pass of a skipped step may have spoiled them.
        roll_back: sets weights and momenta back to the last checkpoint; returns the steps that had been done by then,
            None if there is none.
    """

    def __init__(self, config: Config, statistics: list[Parameter], roll_back: Callable[[], int | None]) -> None:
        self._choice = config.on_nan if config.amp_level == "O0" else "overflow"
        self._statistics = statistics
        self._roll_back = roll_back
        self._steps = self._overflows = 0
        self._rollbacks: list[int | None] = []  # to which step each led
        self._good_statistics = self._copy()

    def check(self, bad_steps: int, where: str) -> None:
        """Act on the steps that were left out, if any. To be called after each step.

        Args:
            bad_steps: how many steps were left out since the last call.
            where: the latest step, for people.

        Raises:
            UserError: the run is to stop, or cannot be rolled back.
        """
        self._steps += 1
        if not bad_steps:
            self._good_statistics = self._copy()
        elif self._choice == "stop":
            raise UserError(f"the loss or its gradients are not finite at {where}; lower --lr_max, or see "
                            "--on_nan; checkpoints of earlier steps are good")
        elif self._choice == "skip":
            for parameter, value in zip(self._statistics, self._good_statistics, strict=True):
                ops.assign(parameter, value)
        elif self._choice == "rollback":
            self._rollbacks.append(self._roll_back())
            tries = self._rollbacks.count(self._rollbacks[-1])
            if self._rollbacks[-1] is None or tries > ROLLBACKS:
                raise UserError(f"the loss or its gradients are not finite at {where}, and "
                                + ("there is no checkpoint to go back to" if self._rollbacks[-1] is None
                                   else f"{ROLLBACKS} returns to the last checkpoint did not help")
                                + "; lower --lr_max")
        else:
            # Values come from the device several steps at a time: bad ones, and the steps since there last were any.
            self._overflows, self._steps = bad_steps + (self._overflows if bad_steps == self._steps else 0), 0
            if self._overflows >= OVERFLOWS:
                raise UserError(f"{self._overflows} steps in a row overflowed float16, the last at {where}; lower "
                                "--lr_max or --loss_scale, or set --loss_scale_window")

    def _copy(self) -> list[Tensor]:
        return [Tensor(parameter.asnumpy()) for parameter in self._statistics] if self._choice == "skip" else []
