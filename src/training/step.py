"""One optimisation step as one compiled graph."""
from collections.abc import Iterable, Iterator

import mindspore as ms
from mindspore import Parameter, Tensor, amp, nn, ops

from src.cpu_kernels import ema_update, finite_check, rank_sum
from src.distributed.world import ALONE, World
from src.errors import UserError
from src.model_utils.config import Config
from src.models import EMA_PREFIX
from src.training.ema import average_share, means_and_values
from src.training.loss_scale import adapt_loss_scale
from src.utils import network_parameters

SUM_PREFIX = "sum."  # of the gradients of the batches of one step


class TrainStep(nn.Cell):
    """Forward, backward, update. A step whose gradients are not finite (float16 overflow) changes no weight; the
    learning rate goes on as if it had.

    Args:
        network: inputs to logits.
        loss_fn: logits and labels to a scalar loss.
        optimizer: over the parameters to train, made by `build_optimizer` for the same configuration.
        config: `accumulate_steps`, `amp_level`, `loss_scale`, `loss_scale_window` and `ema_decay` count here.
        average: optional network of the same parameters, their names with `EMA_PREFIX` before them, that follows the
            trained one as an exponential moving average.
        world: the ranks that train together: gradients and loss are means over them, so all take the same step. They
            make their steps together, too.

    `step(inputs, labels)` returns the loss, and whether the step was applied. With `accumulate_steps` above 1 a step is
    over several batches: `step.over(batches)`.
    """

    def __init__(self, network: nn.Cell, loss_fn: nn.Cell, optimizer: nn.Optimizer, config: Config,
                 average: nn.Cell | None = None, world: World = ALONE) -> None:
        super().__init__(auto_prefix=False)
        self.network = network if config.amp_level == "O0" else amp.auto_mixed_precision(network, config.amp_level)
        self.loss_fn, self.optimizer = loss_fn, optimizer
        self.one = Tensor([1], ms.int32)
        self.is_scaled = config.amp_level != "O0"  # float32 needs no loss scale
        self.loss_scale = config.loss_scale if self.is_scaled else 1.0
        self.window = config.loss_scale_window if self.is_scaled else 0
        if self.window:
            self.loss_scale = Parameter(Tensor(config.loss_scale, ms.float32), "loss_scale", requires_grad=False)
            self.good_steps = Parameter(Tensor(0, ms.int32), "good_steps", requires_grad=False)
        self.accumulate_steps = config.accumulate_steps
        if self.accumulate_steps > 1:
            self.loss_sum = Parameter(Tensor(0, ms.float32), f"{SUM_PREFIX}loss", requires_grad=False)
            self.sums = optimizer.parameters.clone(SUM_PREFIX.rstrip("."), init="zeros")
        self.value_and_grad = ops.value_and_grad(self._scaled_loss, None, optimizer.parameters)
        self.all_finite = finite_check(network)
        self.rank_size = world.rank_size
        if world.rank_size > 1:
            self.rank_sum = rank_sum(network, optimizer.parameters, world)
        self.ema_decay = config.ema_decay
        self.has_average = average is not None
        if average is not None:
            self.means, self.values = means_and_values(average, network)
            self.ema_update = ema_update(network)

    def _scaled_loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        # A batch's share of the mean over ranks and batches, so that sums over them are that mean.
        return self.loss_fn(self.network(inputs), labels) * (self.loss_scale / (self.rank_size * self.accumulate_steps))

    def over(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Step after step, each over `accumulate_steps` of the batches: what `step(inputs, labels)` returns."""
        for number, (inputs, labels) in enumerate(batches, 1):
            is_last = number % self.accumulate_steps == 0
            result = self(inputs, labels, is_last)
            if is_last:
                yield result

    def construct(self, inputs: Tensor, labels: Tensor, is_last: bool = True) -> tuple[Tensor, Tensor | bool]:
        """`is_last`, a constant of the graph, is False for all but the last of the batches of a step."""
        loss, gradients = self.value_and_grad(inputs, labels)
        if not is_last:
            return self._add_to_sums(loss, gradients), False
        if self.accumulate_steps > 1:
            loss, gradients = self._take_sums(loss, gradients)
        if self.rank_size > 1:
            sums = self.rank_sum((loss.reshape(1), *gradients))
            loss, gradients = sums[0].reshape(()), sums[1:]
        finite = self.all_finite(gradients)  # of the sums, which one rank's overflow spoils for all
        loss = loss / self.loss_scale
        if finite:
            if self.is_scaled:
                gradients = tuple([gradient / self.loss_scale for gradient in gradients])
            loss = ops.depend(loss, self.optimizer(gradients))
            if self.has_average:
                share = average_share(self.ema_decay, self.optimizer.global_step)
                loss = ops.depend(loss, self.ema_update(share, self.means, self.values))
        else:  # the schedule goes by the steps of the run, as the log does
            loss = ops.depend(loss, ops.assign_add(self.optimizer.global_step, self.one))
        if self.window:
            adapt_loss_scale(self.loss_scale, self.good_steps, self.window, finite)
        return loss, finite

    def _add_to_sums(self, loss: Tensor, gradients: tuple) -> Tensor:
        ops.assign_add(self.loss_sum, loss)
        for total, gradient in zip(self.sums, gradients):  # noqa: B905 - graph mode knows no strict=
            ops.assign_add(total, gradient)
        return loss

    def _take_sums(self, loss: Tensor, gradients: tuple) -> tuple[Tensor, tuple]:
        """Loss and gradients of all batches of a step; the sums are zero again."""
        loss = loss + self.loss_sum
        gradients = tuple([total + gradient for total, gradient in zip(self.sums, gradients)])  # noqa: B905
        ops.assign(self.loss_sum, ops.zeros_like(self.loss_sum))
        for total in self.sums:
            ops.assign(total, ops.zeros_like(total))
        return loss, gradients


def training_state(train_step: TrainStep) -> dict[str, Tensor]:
    """What going on with training needs besides the scored network: momenta, counters, a loss scale that adapts, and
    under an average the trained weights themselves. The sums of gradients are zero between two steps.
    """
    scored = () if train_step.has_average else network_parameters(train_step.network)
    return {name: value for name, value in train_step.parameters_dict().items()
            if name not in scored and name != "learning_rate" and not name.startswith((EMA_PREFIX, SUM_PREFIX))}


def batch_norm_statistics(cell: nn.Cell) -> list[Parameter]:
    """The moving means and variances at and below a cell, which follow the pictures and not the gradients."""
    return [parameter for parameter in cell.get_parameters()
            if parameter.name.endswith((".moving_mean", ".moving_variance"))]


def count_steps(batches: int, config: Config) -> int:
    """Steps in an epoch of so many batches; batches that do not fill a step are left out.

    Raises:
        UserError: they fill none.
    """
    if batches < config.accumulate_steps:
        raise UserError(f"accumulate_steps is {config.accumulate_steps}, but an epoch has only {batches} batches; "
                        "lower one of --accumulate_steps and --batch_size")
    return batches // config.accumulate_steps
