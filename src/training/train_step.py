"""One optimisation step as one compiled graph."""
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, amp, nn, ops

from src.cpu_kernels import accelerate_optimizer, finite_check, rank_sum
from src.device import ALONE, World
from src.model_utils.config import Config
from src.models import EMA_PREFIX
from src.utils import network_parameters


class TrainStep(nn.Cell):
    """Forward, backward, update. A step whose gradients are not finite (float16 overflow) changes no weight.

    Args:
        network: inputs to logits.
        loss_fn: logits and labels to a scalar loss.
        optimizer: over the parameters to train, made by `build_optimizer` for the same configuration.
        config: `amp_level`, `loss_scale` and `ema_decay` count here.
        average: optional network of the same parameters, their names with `EMA_PREFIX` before them, that follows the
            trained one as an exponential moving average.
        world: the ranks that train together: gradients and loss are means over them, so all take the same step. They
            make their steps together, too.

    `step(inputs, labels)` returns the loss, and whether the step was applied.
    """

    def __init__(self, network: nn.Cell, loss_fn: nn.Cell, optimizer: nn.Optimizer, config: Config,
                 average: nn.Cell | None = None, world: World = ALONE) -> None:
        super().__init__(auto_prefix=False)
        self.network = network if config.amp_level == "O0" else amp.auto_mixed_precision(network, config.amp_level)
        self.loss_fn, self.optimizer = loss_fn, optimizer
        self.loss_scale = _loss_scale(config)
        self.value_and_grad = ops.value_and_grad(self._scaled_loss, None, optimizer.parameters)
        self.all_finite = finite_check(network)
        self.rank_size = world.rank_size
        if world.rank_size > 1:
            self.rank_sum = rank_sum(network, optimizer.parameters, world)
        self.ema_decay = config.ema_decay
        self.has_average = average is not None
        if average is not None:
            trained = network.parameters_dict()
            self.means = ParameterTuple(average.get_parameters())
            self.values = ParameterTuple(trained[mean.name.removeprefix(EMA_PREFIX)] for mean in self.means)

    def _scaled_loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        # Each rank's share of the mean over the ranks, so that sums over them are that mean.
        return self.loss_fn(self.network(inputs), labels) * (self.loss_scale / self.rank_size)

    def construct(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradients = self.value_and_grad(inputs, labels)
        if self.rank_size > 1:
            sums = self.rank_sum((loss.reshape(1), *gradients))
            loss, gradients = sums[0].reshape(()), sums[1:]
        finite = self.all_finite(gradients)  # of the sums, which one rank's overflow spoils for all
        if finite:
            loss = ops.depend(loss, self.optimizer(gradients))
            if self.has_average:
                for mean, value in zip(self.means, self.values):  # noqa: B905 - graph mode knows no strict=
                    ops.assign(mean, mean * self.ema_decay + value * (1 - self.ema_decay))
        return loss / self.loss_scale, finite


def build_optimizer(network: nn.Cell, lr: np.ndarray, config: Config) -> nn.Optimizer:
    """SGD with momentum over the trainable parameters, a learning rate per step.

    Without `norm_bias_decay`, weight decay leaves out batch norm and biases: all that has one dimension.
    """
    parameters = network.trainable_params()
    decay = config.weight_decay
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": decay if config.norm_bias_decay else 0.0},
        {"order_params": parameters},
    ]
    optimizer = nn.Momentum(groups, Tensor(lr), config.momentum, loss_scale=_loss_scale(config))
    accelerate_optimizer(optimizer, network)
    return optimizer


def training_state(train_step: TrainStep) -> dict[str, Tensor]:
    """What going on with training needs besides the scored network: momenta, counters, and under an average the
    trained weights themselves.
    """
    scored = () if train_step.has_average else network_parameters(train_step.network)
    return {name: value for name, value in train_step.parameters_dict().items()
            if name not in scored and name != "learning_rate" and not name.startswith(EMA_PREFIX)}


def batch_norm_statistics(cell: nn.Cell) -> list[Parameter]:
    """The moving means and variances at and below a cell, which follow the pictures and not the gradients."""
    return [parameter for parameter in cell.get_parameters()
            if parameter.name.endswith((".moving_mean", ".moving_variance"))]


def _loss_scale(config: Config) -> float:
    """Float32 needs none."""
    return 1.0 if config.amp_level == "O0" else config.loss_scale
