"""One optimisation step as one compiled graph."""
from collections.abc import Iterable, Iterator
from itertools import islice

import mindspore as ms
from mindspore import Parameter, Tensor, amp, nn, ops

from src.compiled import compiled
from src.cpu_kernels import ema_update, finite_check, rank_sum
from src.distributed.world import ALONE, World
from src.errors import UserError
from src.model_utils.config import Config
from src.models import EMA_PREFIX
from src.normalisation import NORMALISATIONS
from src.training.device_feed import DeviceFeed
from src.training.ema import ema_and_weights, one_minus_decay
from src.training.loss_scale import adapt_loss_scale
from src.training.normalise import Normalise
from src.training.overflow import ClearOverflow
from src.utils import network_parameters

SUM_PREFIX = "sum."  # of the gradients of the batches of one step


class TrainStep(nn.Cell):
    """Forward, backward, update.

    A step whose gradients are not finite (float16 overflow) changes no weight, but counts for the learning rate.

    Args:
        network: inputs to logits. Inputs of uint8 are images to normalise before.
        loss_fn: logits and labels to a scalar loss.
        optimizer: over the parameters to train, made by `build_optimizer` for the same configuration.
        config: `grad_accum_steps`, `amp_level`, `loss_scale`, `loss_scale_window`, `ema_decay` and `device_prefetch`
            count here.
        ema: optional network for the moving average of the weights. Its parameters have the same names with
            `EMA_PREFIX` before them.
        world: the ranks that train together. Gradients and loss are means over them, so all take the same step. All
            ranks must create their steps at the same time.

    `step(inputs, labels)` returns the loss, and whether the step was applied. With `grad_accum_steps` above 1 a step
    takes several batches; use `step.over(batches)`.
    """

    def __init__(self, network: nn.Cell, loss_fn: nn.Cell, optimizer: nn.Optimizer, config: Config,
                 ema: nn.Cell | None = None, world: World = ALONE) -> None:
        super().__init__(auto_prefix=False)
        self.network = network if config.amp_level == "O0" else amp.auto_mixed_precision(network, config.amp_level)
        self.normalise = Normalise(NORMALISATIONS[config.normalisation])
        self.loss_fn, self.optimizer = loss_fn, optimizer
        self.one = Tensor([1], ms.int32)
        self.is_scaled = config.amp_level != "O0"  # float32 needs no loss scale
        self.loss_scale = config.loss_scale if self.is_scaled else 1.0
        self.window = config.loss_scale_window if self.is_scaled else 0
        if self.window:
            self.loss_scale = Parameter(Tensor(config.loss_scale, ms.float32), "loss_scale", requires_grad=False)
            self.good_steps = Parameter(Tensor(0, ms.int32), "good_steps", requires_grad=False)
        self.grad_accum_steps = config.grad_accum_steps
        if self.grad_accum_steps > 1:
            self.loss_sum = Parameter(Tensor(0, ms.float32), f"{SUM_PREFIX}loss", requires_grad=False)
            self.sums = optimizer.parameters.clone(SUM_PREFIX.rstrip("."), init="zeros")
        self.value_and_grad = ops.value_and_grad(self._scaled_loss, None, optimizer.parameters)
        self.all_finite = finite_check(network)
        self.clear_overflow = ClearOverflow() if config.platform == "Ascend" else None
        self.device_feed = DeviceFeed(config.platform) if config.device_prefetch else None
        self.rank_size = world.rank_size
        self.summands = world.rank_size * config.grad_accum_steps  # losses and gradients in the sum of a step
        if world.rank_size > 1:
            self.rank_sum = rank_sum(network, optimizer.parameters, world)
        self.ema_decay = config.ema_decay
        self.has_ema = ema is not None
        if ema is not None:
            self.means, self.values = ema_and_weights(ema, network)
            self.ema_update = ema_update(network)

    def _scaled_loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, of which the sum over batches and ranks is taken.

        Float16 gets the full scale: the division by batches and ranks, which would take bits from small gradients,
        follows in float32.
        """
        loss = self.loss_fn(self.network(self.normalise(inputs)), labels)
        return loss * self.loss_scale if self.is_scaled else loss * (1 / self.summands)

    def _all_finite_on_all_ranks(self, gradients: tuple) -> Tensor:
        """Whether the gradients of all ranks are finite: the same verdict everywhere, so that no rank goes its own way.

        Sums of the gradients do not tell: see `src/training/overflow.py`.
        """
        finite = self.all_finite(gradients)
        if self.rank_size > 1:
            finite = self.rank_sum((1 - finite.astype(ms.float32).reshape(1),))[0].reshape(()) < 0.5
        return finite

    def over(self, batches: Iterable[tuple[Tensor, Tensor]],
             steps: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Run one step for every `grad_accum_steps` batches; yields what `step(inputs, labels)` returns.

        With `device_prefetch` the next batch is sent to the device before a result is yielded. `steps`: the most that
        are wanted, so that no batch is fetched after the last of them.
        """
        step = compiled(self)
        batches = islice(batches, steps and steps * self.grad_accum_steps)
        if self.device_feed:
            batches = self.device_feed.begin(batches)
        for number, (inputs, labels) in enumerate(batches):
            batch = number % self.grad_accum_steps
            is_last = batch + 1 == self.grad_accum_steps
            # A platform without the register does not compile a graph of its own for the first batch.
            result = step(inputs, labels, is_last, batch == 0 or self.clear_overflow is None)
            if self.device_feed:
                self.device_feed.send_next()
            if is_last:
                yield result

    def construct(self, inputs: Tensor, labels: Tensor, is_last: bool = True,
                  is_first: bool = True) -> tuple[Tensor, Tensor | bool]:
        """`is_last` and `is_first` are True for the last and first batch of a step. They are constants of the graph."""
        if is_first and self.clear_overflow is not None:
            inputs = self.clear_overflow(inputs)
        loss, gradients = self.value_and_grad(inputs, labels)
        if not is_last:
            return self._add_to_sums(loss, gradients), False
        if self.grad_accum_steps > 1:
            loss, gradients = self._take_sums(loss, gradients)
        if self.rank_size > 1:
            sums = self.rank_sum((loss.reshape(1), *gradients))
            loss, gradients = sums[0].reshape(()), sums[1:]
        finite = self._all_finite_on_all_ranks(gradients)
        scale = self.loss_scale * self.summands if self.is_scaled else 1.0
        loss = loss / scale
        if finite:
            if self.is_scaled:
                gradients = tuple([gradient / scale for gradient in gradients])
            loss = ops.depend(loss, self.optimizer(gradients))
            if self.has_ema:
                rate = one_minus_decay(self.ema_decay, self.optimizer.global_step)
                loss = ops.depend(loss, self.ema_update(rate, self.means, self.values))
        else:  # a skipped step counts for the schedule, as it does in the log
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
        """Loss and gradients of all batches of a step. Sets the sums back to zero."""
        loss = loss + self.loss_sum
        gradients = tuple([total + gradient for total, gradient in zip(self.sums, gradients)])  # noqa: B905
        ops.assign(self.loss_sum, ops.zeros_like(self.loss_sum))
        for total in self.sums:
            ops.assign(total, ops.zeros_like(total))
        return loss, gradients


def training_state(train_step: TrainStep) -> dict[str, Tensor]:
    """What a resumed run needs besides the evaluated network: momenta, counters, the adaptive loss scale.

    With an EMA the evaluated network is the average, so the trained weights are here, too. The sums of gradients are
    left out: they are zero between two steps.
    """
    evaluated = () if train_step.has_ema else network_parameters(train_step.network)
    return {name: value for name, value in train_step.parameters_dict().items()
            if name not in evaluated and name != "learning_rate" and not name.startswith((EMA_PREFIX, SUM_PREFIX))}


def batch_norm_statistics(cell: nn.Cell) -> list[Parameter]:
    """The moving means and variances of all batch norms in a cell."""
    return [parameter for parameter in cell.get_parameters()
            if parameter.name.endswith((".moving_mean", ".moving_variance"))]


def count_steps(batches: int, config: Config) -> int:
    """Steps in an epoch of `batches` batches. Batches that do not fill a step are left out.

    Raises:
        UserError: there are too few batches for one step.
    """
    if batches < config.grad_accum_steps:
        raise UserError(f"grad_accum_steps is {config.grad_accum_steps}, but an epoch has only {batches} batches; "
                        "lower one of --grad_accum_steps and --batch_size")
    return batches // config.grad_accum_steps
