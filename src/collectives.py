"""What the ranks of a run tell each other. With one rank everything here leaves its arguments as they are.

MindSpore's collectives on CPU know sums of float32 but no integers and no barrier; what is here needs no more,
to be the same on every platform.
"""
from collections.abc import Iterable

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from src.device import World

DIGIT_BITS = 12  # the sum of 4096 ranks' digits still fits the 24 bits that a float32 holds exactly
DIGITS = 4


def sum_floats(values: np.ndarray, world: World) -> np.ndarray:
    """The sum over all ranks of arrays of one shape, as float32; the same on every rank, bit for bit."""
    if world.rank_size == 1:
        return values
    return ops.AllReduce()(Tensor(np.ascontiguousarray(values, np.float32))).asnumpy()


def sum_counts(counts: np.ndarray, world: World) -> np.ndarray:
    """The exact sum over all ranks of int64 arrays of one shape, of 0 to 2^48 - 1 each."""
    if world.rank_size == 1:
        return counts
    places = DIGIT_BITS * np.arange(DIGITS).reshape(-1, *[1] * counts.ndim)
    digits = counts[None] >> places & (1 << DIGIT_BITS) - 1
    return (sum_floats(digits, world).astype(np.int64) << places).sum(axis=0)


def average_parameters(parameters: Iterable[Parameter], world: World) -> None:
    """Set float32 parameters to their mean over the ranks: batch norm statistics, which each rank gathers alone."""
    chosen = list(parameters)
    if world.rank_size == 1 or not chosen:
        return
    mean = sum_floats(np.concatenate([parameter.asnumpy().ravel() for parameter in chosen]), world) / world.rank_size
    _set_values(chosen, mean)


def broadcast_parameters(parameters: Iterable[Parameter], world: World) -> None:
    """Give every rank the values that rank 0 has of the float32 parameters."""
    chosen = [parameter for parameter in parameters if parameter.dtype == ms.float32]
    if world.rank_size == 1 or not chosen:
        return
    values = Tensor(np.concatenate([parameter.asnumpy().ravel() for parameter in chosen]))
    _set_values(chosen, ops.Broadcast(0)((values,))[0].asnumpy())


def _set_values(parameters: list[Parameter], values: np.ndarray) -> None:
    ends = np.cumsum([parameter.size for parameter in parameters])
    for parameter, part in zip(parameters, np.split(values, ends[:-1]), strict=True):
        parameter.set_data(Tensor(part.reshape(parameter.shape).astype(np.float32)))
