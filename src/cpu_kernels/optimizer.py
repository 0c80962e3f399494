"""Operators over all parameters at once. Hundreds of small operators would cost more to start than to run."""
from collections.abc import Callable, Sequence

import mindspore as ms
from mindspore import Tensor, amp, nn, ops

from src.adamw import AdamW
from src.cpu_kernels.cells import Shape, library_in_use
from src.momentum import Momentum


def _one_number(*_: Shape) -> list[int]:
    return [1]


class OnePassUpdate(nn.Optimizer):
    """What the updates have in common that change all parameters in one pass. State and names stay as they are."""

    OPERATOR: str

    def adopt(self, library: str, clip_norm: float, rate_factors: Sequence[float]) -> None:
        """Called once, on an optimizer that was made by a stock class."""
        self.clip_limit = Tensor(clip_norm, ms.float32)
        decay = self.weight_decay if self.is_group else (self.weight_decay,) * len(self.parameters)
        self.decay_per_parameter = Tensor(
            [float(d) if flag else 0.0 for d, flag in zip(decay, self.decay_flags, strict=True)], ms.float32)
        self.factor_per_parameter = Tensor(rate_factors, ms.float32)
        self.update = ops.Custom(f"{library}:{self.OPERATOR}", _one_number, ms.float32, "aot")
        self.update.add_prim_attr("side_effect_mem", True)


class AcceleratedMomentum(OnePassUpdate, nn.Momentum):
    """`nn.Momentum` or `src.momentum.Momentum` with another `construct`."""

    OPERATOR = "momentum_update"

    def adopt(self, library: str, clip_norm: float, rate_factors: Sequence[float]) -> None:
        super().adopt(library, clip_norm, rate_factors)
        self.looks_ahead = Tensor(float(self.use_nesterov), ms.float32)

    def construct(self, gradients: tuple) -> Tensor:
        rate = self.get_lr()
        done = self.update(rate, self.momentum, self.clip_limit, self.looks_ahead, self.decay_per_parameter,
                           self.factor_per_parameter, *self.params, *self.moments, *gradients)
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        return done


class AcceleratedAdamW(OnePassUpdate, AdamW):
    """`src.adamw.AdamW` with another `construct`."""

    OPERATOR = "adamw_update"

    def adopt(self, library: str, clip_norm: float, rate_factors: Sequence[float]) -> None:
        super().adopt(library, clip_norm, rate_factors)
        self.rule = tuple(Tensor(number, ms.float32) for number in (*self.betas, self.epsilon))

    def construct(self, gradients: tuple) -> Tensor:
        rate, updates = self.get_lr(), ops.assign_add(self.updates, self.one)
        done = self.update(rate, updates, *self.rule, self.clip_limit, self.decay_per_parameter,
                           self.factor_per_parameter, *self.parameters, *self.moment1, *self.moment2, *gradients)
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        return done


class AcceleratedAllFinite(nn.Cell):
    """As `mindspore.amp.all_finite`, which takes several operators for each gradient."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self.all_finite = ops.Custom(f"{library}:all_finite", _one_number, ms.float32, "aot")

    def construct(self, gradients: tuple) -> Tensor:
        return self.all_finite(*gradients)[0] > 0


class EmaUpdate(nn.Cell):
    """Update of the moving averages, in place: mean += (1 - decay) * (value - mean)."""

    def construct(self, one_minus_decay: Tensor, means: tuple, values: tuple) -> Tensor:
        for mean, value in zip(means, values):  # noqa: B905 - graph mode knows no strict=
            ops.assign_add(mean, one_minus_decay * (value - mean))
        return one_minus_decay


class AcceleratedEmaUpdate(nn.Cell):
    """As `EmaUpdate`, for float32 parameters, as one operator."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self.update = ops.Custom(f"{library}:ema_update", _one_number, ms.float32, "aot")
        self.update.add_prim_attr("side_effect_mem", True)

    def construct(self, one_minus_decay: Tensor, means: tuple, values: tuple) -> Tensor:
        return self.update(one_minus_decay, *means, *values)


def ema_update(network: nn.Cell) -> nn.Cell:
    """The EMA update of a network's float32 parameters: one operator if the network is accelerated."""
    library = library_in_use(network)
    return EmaUpdate() if library is None else AcceleratedEmaUpdate(library)


def finite_check(network: nn.Cell) -> Callable[[tuple], Tensor]:
    """The check that all float32 gradients are finite: one operator if the network is accelerated."""
    library = library_in_use(network)
    return amp.all_finite if library is None else AcceleratedAllFinite(library)


def accelerate_optimizer(optimizer: nn.Optimizer, network: nn.Cell) -> None:
    """Let an optimizer update in one pass, in place, if the network that it trains is accelerated.

    It must be of one of three classes, and of no subclass, which may have another rule: `src.momentum.Momentum`,
    `src.adamw.AdamW`, or `nn.Momentum` without Nesterov's rule, of which the stock operator takes no notice on CPU.
    What the pass does not do stays with the stock optimizer, too: other than float32 parameters, a learning rate for
    each group, weight decay that changes, a loss scale. Call it before the optimizer is compiled.
    """
    library = library_in_use(network)
    if library is None:
        return
    clip_norm, rate_factors = 0.0, (1.0,) * len(optimizer.parameters)
    if type(optimizer) in {Momentum, AdamW}:
        clip_norm, rate_factors = optimizer.clip_norm, optimizer.rate_factors
    elif type(optimizer) is not nn.Momentum or optimizer.use_nesterov:
        return
    if (not optimizer.is_group_lr and not optimizer.dynamic_weight_decay and optimizer.loss_scale == 1.0
            and not (optimizer.is_group and any(optimizer.grad_centralization_flags))
            and all(parameter.dtype == ms.float32 for parameter in optimizer.parameters)):
        optimizer.__class__ = AcceleratedAdamW if type(optimizer) is AdamW else AcceleratedMomentum
        optimizer.adopt(library, clip_norm, rate_factors)
