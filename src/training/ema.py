"""The exponential moving average of the weights (EMA): which parameters follow which, and how fast.

The averaged network is made by src/models.py, the update itself by src/cpu_kernels/optimizer.py.
"""
import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from src.models import EMA_PREFIX


def means_and_values(average: nn.Cell, network: nn.Cell) -> tuple[ParameterTuple, ParameterTuple]:
    """The parameters of the averaged network, and in the same order those of the trained one that they follow."""
    trained = network.parameters_dict()
    means = ParameterTuple(average.get_parameters())
    return means, ParameterTuple(trained[mean.name.removeprefix(EMA_PREFIX)] for mean in means)


def average_share(ema_decay: float, steps: Parameter) -> Tensor:
    """How far a mean moves to its value: 1 - min(ema_decay, (1 + n) / (10 + n)) after n steps.

    As TensorFlow's ExponentialMovingAverage: a short run, too, soon forgets its first weights.
    """
    return ops.maximum(1 - ema_decay, 9 / (10 + steps.astype(ms.float32)))
