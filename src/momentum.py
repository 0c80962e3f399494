"""The optimizer: stochastic gradient descent with momentum."""
from collections.abc import Sequence

from mindspore import Tensor, nn, ops

from src.model_utils.config import Config


class Momentum(nn.Momentum):
    """`nn.Momentum` with gradient clipping, Nesterov's momentum, and learning rates per parameter.

    Clipping scales all gradients by one factor, so that their global norm is at most `clip_norm`; 0 means no clipping:
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", algorithm 1,
    https://arxiv.org/abs/1211.5063. Nesterov's momentum is that of Sutskever et al., "On the importance of
    initialization and momentum in deep learning", equation 4, https://proceedings.mlr.press/v28/sutskever13.html. The
    parameters here are those at the look-ahead point. MindSpore's own operator, one for each parameter, computes the
    same, but on CPU it ignores `use_nesterov`.

    Each parameter's learning rate is multiplied by one of `rate_factors`, in the order of `order_params`; without them
    all have the same rate.
    """

    def __init__(self, groups: list[dict], lr: Tensor, config: Config, rate_factors: Sequence[float] = ()) -> None:
        super().__init__(groups, lr, config.momentum, use_nesterov=config.nesterov)
        self.clip_norm = config.grad_clip_norm
        self.looks_ahead_itself = config.nesterov and config.platform == "CPU"
        self.rate_factors = tuple(rate_factors) or (1.0,) * len(self.params)
        self.has_one_rate = set(self.rate_factors) == {1.0}

    def construct(self, gradients: tuple) -> Tensor:
        if self.clip_norm > 0:
            gradients = ops.clip_by_global_norm(gradients, self.clip_norm)
        if self.looks_ahead_itself:
            return self._look_ahead(self.decay_weight(gradients), self.get_lr())
        if self.has_one_rate:
            return super().construct(gradients)
        return self._apply_with_own_rates(self.decay_weight(gradients), self.get_lr())

    def _look_ahead(self, gradients: tuple, rate: Tensor) -> Tensor:
        for value, moment, gradient, factor in zip(  # noqa: B905 - graph mode knows no strict=
                self.params, self.moments, gradients, self.rate_factors):
            ops.assign(moment, self.momentum * moment + gradient)
            ops.assign_sub(value, rate * factor * (gradient + self.momentum * moment))
        return self.assignadd(self.global_step, self.global_step_increase_tensor)

    def _apply_with_own_rates(self, gradients: tuple, rate: Tensor) -> Tensor:
        for value, moment, gradient, factor in zip(  # noqa: B905 - as above
                self.params, self.moments, gradients, self.rate_factors):
            self.opt(value, moment, rate * factor, gradient, self.momentum)
        return self.assignadd(self.global_step, self.global_step_increase_tensor)
