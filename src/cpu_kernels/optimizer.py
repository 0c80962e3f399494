"""What a step does with all gradients, as one operator each: hundreds of small ones cost more to start than to run."""
from collections.abc import Callable

import mindspore as ms
from mindspore import Tensor, amp, nn, ops

from src.cpu_kernels.cells import Shape, library_in_use


def _one_number(*_: Shape) -> list[int]:
    return [1]


class AcceleratedMomentum(nn.Momentum):
    """The same state under the same names as `nn.Momentum`, whose `construct` alone it replaces."""

    def adopt(self, library: str) -> None:
        """Called once, on an optimizer that was made by the stock class."""
        decay = self.weight_decay if self.is_group else (self.weight_decay,) * len(self.params)
        self.decay_per_parameter = Tensor(
            [float(d) if flag else 0.0 for d, flag in zip(decay, self.decay_flags, strict=True)], ms.float32)
        self.update = ops.Custom(f"{library}:momentum_update", _one_number, ms.float32, "aot")
        self.update.add_prim_attr("side_effect_mem", True)

    def construct(self, gradients: tuple) -> Tensor:
        rate = self.get_lr()
        done = self.update(rate, self.momentum, self.decay_per_parameter, *self.params, *self.moments, *gradients)
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        return done


class AcceleratedAllFinite(nn.Cell):
    """As `mindspore.amp.all_finite`, which is several operators for each gradient."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self.all_finite = ops.Custom(f"{library}:all_finite", _one_number, ms.float32, "aot")

    def construct(self, gradients: tuple) -> Tensor:
        return self.all_finite(*gradients)[0] > 0


def finite_check(network: nn.Cell) -> Callable[[tuple], Tensor]:
    """What tells whether all float32 gradients are finite: one operator if the network is accelerated."""
    library = library_in_use(network)
    return amp.all_finite if library is None else AcceleratedAllFinite(library)


def accelerate_optimizer(optimizer: nn.Optimizer, network: nn.Cell) -> None:
    """Let an optimizer update in one pass, in place, if the network that it trains is accelerated.

    What the operator does not do stays with the stock optimizer: anything but plain momentum over float32 parameters
    with one learning rate, fixed weight decay and no loss scale. Call it before the optimizer is compiled.
    """
    library = library_in_use(network)
    plain = (type(optimizer) is nn.Momentum and not optimizer.use_nesterov and not optimizer.is_group_lr
             and not optimizer.dynamic_weight_decay and optimizer.loss_scale == 1.0
             and not (optimizer.is_group and any(optimizer.grad_centralization_flags))
             and all(parameter.dtype == ms.float32 for parameter in optimizer.params))
    if library is not None and plain:
        optimizer.__class__ = AcceleratedMomentum
        optimizer.adopt(library)
