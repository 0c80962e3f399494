"""The optimizer of a run: which parameters, which weight decay, which learning rates."""
from collections.abc import Sequence

import numpy as np
from mindspore import Tensor, nn

from src.adamw import AdamW
from src.cpu_kernels import accelerate_optimizer
from src.model_utils.config import Config
from src.momentum import Momentum

OPTIMIZERS = {"momentum": Momentum, "adamw": AdamW}
STEM, BLOCKS, LAST = "backbone.stem.", "backbone.blocks.", "backbone.last."


def build_optimizer(network: nn.Cell, lr: np.ndarray, config: Config) -> nn.Optimizer:
    """SGD with momentum or AdamW over the trainable parameters, a learning rate per step.

    Without `norm_bias_decay`, weight decay leaves out batch norm and biases: all that has one dimension.
    """
    parameters = network.trainable_params()
    decay = config.weight_decay
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": decay if config.norm_bias_decay else 0.0},
        {"order_params": parameters},
    ]
    factors = [config.layer_decay ** distance for distance in head_distances([p.name for p in parameters])]
    optimizer = OPTIMIZERS[config.optimizer](groups, Tensor(lr), config, factors)
    accelerate_optimizer(optimizer, network)
    return optimizer


def head_distances(names: Sequence[str]) -> list[int]:
    """How many layers each parameter of a network is before the head.

    The head has 0, the last convolution 1, the last inverted residual 2, and so on back to the stem. A parameter's rate
    is multiplied by `layer_decay` to the power of this: layer-wise learning rate decay as of Bao et al., "BEiT",
    https://arxiv.org/abs/2106.08254.

    Args:
        names: of all parameters to train.
    """
    blocks = 1 + max((_block(name) for name in names if name.startswith(BLOCKS)), default=-1)
    return [blocks + 2 if name.startswith(STEM) else
            blocks + 1 - _block(name) if name.startswith(BLOCKS) else
            1 if name.startswith(LAST) else 0 for name in names]


def _block(name: str) -> int:
    """The number of the inverted residual that a parameter belongs to."""
    return int(name.removeprefix(BLOCKS).partition(".")[0])
