"""The optimizer: stochastic gradient descent with momentum."""
from mindspore import Tensor, nn, ops

from src.model_utils.config import Config


class Momentum(nn.Momentum):
    """`nn.Momentum` with gradient clipping and Nesterov's momentum.

    Clipping scales all gradients by one factor, so that their global norm is at most `clip_norm`; 0 means no clipping:
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", algorithm 1,
    https://arxiv.org/abs/1211.5063. Nesterov's momentum is that of Sutskever et al., "On the importance of
    initialization and momentum in deep learning", equation 4, https://proceedings.mlr.press/v28/sutskever13.html. The
    parameters here are those at the look-ahead point. MindSpore's own operator, one for each parameter, computes the
    same, but on CPU it ignores `use_nesterov`.
    """

    def __init__(self, groups: list[dict], lr: Tensor, config: Config) -> None:
        super().__init__(groups, lr, config.momentum, use_nesterov=config.nesterov)
        self.clip_norm = config.grad_clip_norm
        self.looks_ahead_itself = config.nesterov and config.platform == "CPU"

    def construct(self, gradients: tuple) -> Tensor:
        if self.clip_norm > 0:
            gradients = ops.clip_by_global_norm(gradients, self.clip_norm)
        if self.looks_ahead_itself:
            return self._look_ahead(self.decay_weight(gradients), self.get_lr())
        return super().construct(gradients)

    def _look_ahead(self, gradients: tuple, rate: Tensor) -> Tensor:
        for value, moment, gradient in zip(self.params, self.moments, gradients):  # noqa: B905 - as above
            ops.assign(moment, self.momentum * moment + gradient)
            ops.assign_sub(value, rate * (gradient + self.momentum * moment))
        return self.assignadd(self.global_step, self.global_step_increase_tensor)
