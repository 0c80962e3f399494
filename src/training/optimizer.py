"""The optimizer of a run: which parameters, which weight decay, which learning rates."""
import numpy as np
from mindspore import Tensor, nn

from src.cpu_kernels import accelerate_optimizer
from src.model_utils.config import Config
from src.momentum import Momentum


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
    optimizer = Momentum(groups, Tensor(lr), config)
    accelerate_optimizer(optimizer, network)
    return optimizer
