"""The optimizer AdamW: Adam with decoupled weight decay."""
import math
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.model_utils.config import Config


class AdamW(nn.Optimizer):
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization", https://arxiv.org/abs/1711.05101, algorithm 2.

    With g the gradient, clipped as in `src.momentum.Momentum`, r the learning rate of the parameter, and t the number
    of updates, this one among them:

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        value -= r * weight_decay * value + r * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    This is `torch.optim.AdamW`. The paper multiplies the decay by its schedule alone, PyTorch by the learning rate.

    Args:
        groups: parameters with their weight decay, as MindSpore's optimizers take them, with `order_params`.
        lr: the learning rates of all steps, float32.
        config: `adam_beta1`, `adam_beta2`, `adam_eps` and `grad_clip_norm` are read.
        rate_factors: by which each parameter's learning rate is multiplied, in the order of `order_params`; 1 for all
            if there are none.
    """

    def __init__(self, groups: list[dict], lr: Tensor, config: Config, rate_factors: Sequence[float] = ()) -> None:
        super().__init__(lr, groups)
        self.moment1 = self.parameters.clone("moment1", init="zeros")
        self.moment2 = self.parameters.clone("moment2", init="zeros")
        # t. A skipped step makes no update, so `global_step`, which counts for the schedule, may be larger. A float,
        # which counts exactly to 2^24: a rollback sets floats back, as the moments, and leaves integers as they are.
        self.updates = Parameter(Tensor([0], ms.float32), "updates", requires_grad=False)
        self.one = Tensor([1], ms.float32)
        # Rounded to float32 first: 1 - beta and 1 - beta^t are then of the same beta, as in the CPU kernels.
        self.betas = tuple(float(np.float32(beta)) for beta in (config.adam_beta1, config.adam_beta2))
        self.log_betas = tuple(Tensor(math.log(beta) if beta else -math.inf, ms.float32) for beta in self.betas)
        self.epsilon = config.adam_eps
        self.clip_norm = config.grad_clip_norm
        self.decays = tuple(float(decay) for decay in self.weight_decay)
        self.rate_factors = tuple(rate_factors) or (1.0,) * len(self.parameters)

    def construct(self, gradients: tuple) -> Tensor:
        if self.clip_norm > 0:
            gradients = ops.clip_by_global_norm(gradients, self.clip_norm)
        rate = self.get_lr()
        updates = ops.assign_add(self.updates, self.one)
        beta1, beta2 = self.betas
        # 1 - beta^t. As a difference of float32 numbers it would have few digits in the first updates.
        correction = -ops.expm1(updates * self.log_betas[0])
        root = ops.sqrt(-ops.expm1(updates * self.log_betas[1]))
        for value, moment1, moment2, gradient, decay, factor in zip(  # noqa: B905 - graph mode knows no strict=
                self.parameters, self.moment1, self.moment2, gradients, self.decays, self.rate_factors):
            m = beta1 * moment1 + (1 - beta1) * gradient
            v = beta2 * moment2 + (1 - beta2) * (gradient * gradient)
            ops.assign(moment1, m)
            ops.assign(moment2, v)
            own_rate = rate * factor
            ops.assign_sub(value, own_rate * decay * value
                           + own_rate / correction * m / (ops.sqrt(v) / root + self.epsilon))
        return self.assignadd(self.global_step, self.global_step_increase_tensor)
