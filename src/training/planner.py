"""Decides how many epochs a run has: as many as `max_minutes` allow, and no more once `patience` is at an end.

A plan for `max_minutes` is made of measured seconds. The learning rate falls to the end of its cosine in the epochs of
the plan. If an epoch takes another time than planned, there is a new plan: the rest of the cosine is stretched or
shortened. Checkpoints have all plans, so a resumed run has the same rates.
"""
import bisect
import math

import numpy as np
from mindspore import Tensor, nn, ops

from src.checkpoint.record import Plan
from src.data.transforms import train_sizes
from src.dataset import Data, growing_size
from src.distributed.collectives import any_over_ranks, broadcast_counts
from src.distributed.world import World
from src.errors import UserError
from src.log import logger
from src.lr_generator import run_lr
from src.training.resume import Run
from src.training.speed import Speed, batch_seconds, step_seconds
from src.training.state import TrainingState
from src.training.step import TrainStep
from src.training.timing import process_seconds

LEAST_EPOCHS = 3  # for which smaller images are taken
LEAST_SIZE, SIZE_STEP = 128, 32  # pixels
USABLE, SLACK = 0.97, 0.02  # shares of `max_minutes`: what is planned with, and what a plan may go beyond that
END_SECONDS = 5.0  # for the report
CHECKPOINT_SECONDS = 1.0
LONGER = 1.25  # a plan is made longer only if that many times the epochs that are left would fit


class Planner:
    """Makes the plans of a run. The state keeps them.

    Rank 0 decides: it has the clock, and in a resumed run it alone has the history.

    Args:
        lr: the rates of all steps of the longest plan. They are changed in place, and with them the optimizer's.
        eval_data: the validation images, if there are any.

    Raises:
        UserError: `patience` without validation images.
    """

    def __init__(self, run: Run, train_step: TrainStep, train_data: Data, lr: np.ndarray, eval_data: Data | None,
                 world: World) -> None:
        if run.config.patience and not eval_data:
            raise UserError("--patience needs validation images: name them (--eval_dataset_path), or hold some out "
                            "(--val_share 0.2)")
        self._run, self._config, self._world = run, run.config, world
        self._train_step, self._train_data, self._lr, self._eval_data = train_step, train_data, lr, eval_data
        self._limit = 60 * USABLE * run.config.max_minutes
        self._speed: Speed | None = None  # not known in a resumed run before its first whole epoch
        self._epoch_begin: float | None = None

    def begin(self, state: TrainingState, eval_net: nn.Cell, test_images: int) -> None:
        """Take up the plan of a checkpoint, or make one for `max_minutes`.

        Args:
            state: of the run.
            eval_net: the network that is evaluated.
            test_images: how many images are scored at the end.
        """
        state.plans = self._broadcast(state.plans)
        if self._config.max_minutes and not self._run.is_finished(state):
            seconds = batch_seconds(eval_net, self._eval_data) if self._eval_data else 0.0
            batches = test_images / (self._config.batch_size * self._world.rank_size)
            self._limit -= END_SECONDS + batches * seconds
            if not state.plans:
                self._measure(seconds)
                state.plans = self._broadcast([self._first_plan(state)])
                self._epoch_begin = process_seconds()
        if state.plans:
            first, last = self._sizes(state.plans[0].image_size)
            self._train_data.replan(first, last, self._growing_epochs(state))
            self._set_rates(state)

    def epoch_end(self, state: TrainingState) -> None:
        """Take notice of the epoch that the state has just finished."""
        if self._run.is_finished(state):
            return
        patience, done = self._config.patience, state.step // self._run.steps_per_epoch
        is_over = patience > 0 and self._world.is_main_process and state.epochs_since_best >= patience
        if any_over_ranks(is_over, self._world):
            state.plans.append(Plan(done, done, train_sizes(self._config)[1]))
            self._tell(f"the last {patience} epochs were not better than epoch {done - patience}: the run ends here "
                       "(--patience)")
        elif self._config.max_minutes:
            self._plan_again(state, done)

    def _measure(self, seconds: float) -> None:
        """Measure the speed of training. `seconds`: those of a batch in an evaluation."""
        training = self._run.steps_per_epoch * step_seconds(self._train_step, self._train_data)
        evaluation = seconds * self._eval_data.steps_per_epoch if self._eval_data else 0.0
        self._speed = Speed(training, self._size_at(0, train_sizes(self._config)[1], self._config.epoch_size),
                            evaluation + CHECKPOINT_SECONDS)

    def _first_plan(self, state: TrainingState) -> Plan:
        size, wanted = train_sizes(self._config)[1], min(LEAST_EPOCHS, self._config.epoch_size)
        has_other_sizes = not (self._config.freeze_layer == "backbone" or self._config.multi_scale_max
                               or self._config.kd_teacher or "train_image_size" in self._config.chosen)
        epochs = self._fitting_epochs(state, 0, size)
        while epochs < wanted and has_other_sizes and size - SIZE_STEP >= LEAST_SIZE:
            size -= SIZE_STEP
            epochs = self._fitting_epochs(state, 0, size)
        plan = Plan(0, max(1, epochs), size)
        self._tell(f"plan for {self._config.max_minutes:g} minutes: epoch_size {plan.epochs} of at most "
                   f"{self._config.epoch_size}, {self._known_speed.epoch(size):.1f} s an epoch with images of {size} "
                   f"pixels; {self._seconds(state):.0f} s are over")
        if epochs < wanted:
            self._tell(f"{self._config.max_minutes:g} minutes are too short for {wanted} epochs; expect little, or "
                       "raise --max_minutes")
        return plan

    def _plan_again(self, state: TrainingState, done: int) -> None:
        """Make another plan if the present one no longer fits after `done` epochs."""
        begin, self._epoch_begin = self._epoch_begin, process_seconds()
        if begin is None:
            return  # this epoch was resumed, or has a compilation in it
        present, size = state.plans[-1], state.plans[0].image_size
        last_size = self._size_at(done - 1, size, self._growing_epochs(state))
        speed = self._speed or Speed(self._epoch_begin - begin, last_size, 0.0)
        self._speed = speed.corrected(last_size, self._epoch_begin - begin)
        epochs = max(done + 1, self._fitting_epochs(state, done, size))
        slack = 60 * SLACK * self._config.max_minutes
        is_late = present.epochs > max(done + 1, self._fitting_epochs(state, done, size, slack))
        if is_late or epochs > done + LONGER * (present.epochs - done):
            present = Plan(done, epochs, size)
        [plan] = self._broadcast([present])
        if plan == state.plans[-1]:
            return
        self._tell(f"plan: epoch_size {plan.epochs} instead of {state.plans[-1].epochs}, because an epoch takes "
                   f"{self._known_speed.epoch(last_size):.1f} s now")
        state.plans.append(plan)
        self._set_rates(state)

    def _fitting_epochs(self, state: TrainingState, done: int, size: int, slack: float = 0.0) -> int:
        """How many epochs the run can have, at most `epoch_size`, if `done` are over and images grow to `size`.

        They may take `slack` seconds more than is planned with.
        """
        left = self._limit + slack - self._seconds(state)
        more = range(done + 1, self._config.epoch_size + 1)
        return done + bisect.bisect_right(more, left, key=lambda epochs: math.fsum(
            self._known_speed.epoch(self._size_at(epoch, size, self._growing_epochs(state) if done else epochs))
            for epoch in range(done, epochs)))

    @property
    def _known_speed(self) -> Speed:
        if self._speed is None:
            raise AssertionError("no speed was measured")
        return self._speed

    @staticmethod
    def _seconds(state: TrainingState) -> float:
        """Seconds that all processes of this run have taken."""
        return state.seconds + process_seconds()

    def _sizes(self, size: int) -> tuple[int, int]:
        """The sizes of the images in the first and in the last epoch, if they grow to `size`."""
        if self._config.freeze_layer == "backbone" or self._config.multi_scale_max:
            return size, size
        return min(size, self._config.train_image_size_start or size), size

    def _size_at(self, epoch: int, size: int, epochs: int) -> int:
        return growing_size(*self._sizes(size), epoch, epochs)

    def _growing_epochs(self, state: TrainingState) -> int:
        """The epochs in which the images grow: those of the first plan, so that later plans change no size."""
        first = next(iter(state.plans), None)
        return first.epochs if first and first.first_epoch == 0 else self._config.epoch_size

    def _set_rates(self, state: TrainingState) -> None:
        """The rates of the present plan, for the log and for the optimizer."""
        batch = self._train_data.batch_size * self._config.grad_accum_steps * self._world.rank_size
        planned = run_lr(self._config, batch, self._run.steps_per_epoch,
                         [(plan.first_epoch, plan.epochs) for plan in state.plans])
        self._lr[:len(planned)] = planned
        rates = next(value for value in self._train_step.get_parameters() if value.name == "learning_rate")
        ops.assign(rates, Tensor(self._lr))

    def _broadcast(self, plans: list[Plan]) -> list[Plan]:
        """The plans of rank 0."""
        number = int(broadcast_counts(np.array([len(plans)]), self._world)[0])
        rows = np.zeros((number, 3), np.int64)
        if self._world.is_main_process and plans:
            rows[:] = [(plan.first_epoch, plan.epochs, plan.image_size) for plan in plans]
        return [Plan(*map(int, row)) for row in broadcast_counts(rows, self._world)] if number else []

    def _tell(self, line: str) -> None:
        if self._world.is_main_process:
            logger.info(line)
