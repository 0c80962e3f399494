"""The exponential moving average (EMA) of the weights: the pairs of parameters, and the decay.

src/models.py makes the averaged network, src/cpu_kernels/optimizer.py the update.
"""
import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from src.models import EMA_PREFIX


def ema_and_weights(ema: nn.Cell, network: nn.Cell) -> tuple[ParameterTuple, ParameterTuple]:
    """The parameters of the averaged network and, in the same order, the trained parameters that they average."""
    weights = network.parameters_dict()
    means = ParameterTuple(ema.get_parameters())
    return means, ParameterTuple(weights[mean.name.removeprefix(EMA_PREFIX)] for mean in means)


def one_minus_decay(ema_decay: float, steps: Parameter) -> Tensor:
    """1 - min(ema_decay, (1 + n) / (10 + n)) after n steps: the weight of the new value in the average.

    As in TensorFlow's ExponentialMovingAverage: the decay grows with the steps, so the first weights soon count little.
    """
    return ops.maximum(1 - ema_decay, 9 / (10 + steps.astype(ms.float32)))
