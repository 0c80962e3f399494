"""Communication between the ranks of a run. With one rank all functions return their arguments.

On CPU MindSpore's collectives can sum float32, but have no integers and no barrier. The functions here need only that
sum, so that they work in the same way on every platform.
"""
from collections.abc import Iterable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from src.distributed.world import World

DIGIT_BITS = 12  # the sum over 4096 ranks still fits the 24 bits that float32 holds exactly
DIGITS = 4


def all_reduce(values: np.ndarray, world: World) -> np.ndarray:
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
    return (all_reduce(digits, world).astype(np.int64) << places).sum(axis=0)


def average_parameters(parameters: Iterable[Parameter], world: World) -> None:
    """Set float32 parameters to their mean over the ranks; for batch norm statistics, which differ between ranks."""
    chosen = list(parameters)
    if world.rank_size == 1 or not chosen:
        return
    set_values(chosen, all_reduce(flatten(chosen), world) / world.rank_size)


def broadcast_parameters(parameters: Iterable[Parameter], world: World) -> None:
    """Give every rank the values of rank 0, for parameters of float32 or of counts."""
    chosen = list(parameters)
    floats = [parameter for parameter in chosen if parameter.dtype == ms.float32]
    if world.rank_size == 1 or not chosen:
        return
    if floats:
        set_values(floats, ops.Broadcast(0)((Tensor(flatten(floats)),))[0].asnumpy())
    for parameter in chosen:
        if parameter.dtype != ms.float32:
            counts = broadcast_counts(parameter.asnumpy().astype(np.int64), world)
            ops.assign(parameter, Tensor(counts.astype(parameter.asnumpy().dtype)))


def broadcast_counts(counts: np.ndarray, world: World) -> np.ndarray:
    """The int64 array of rank 0, with values of 0 to 2^48 - 1. The values of other ranks do not matter."""
    return sum_counts(counts if world.is_main_process else np.zeros_like(counts), world)


def all_gather(values: np.ndarray, world: World) -> np.ndarray:
    """R x n float32: each rank's n values, in the order of the ranks, on every rank."""
    rows = np.zeros((world.rank_size, len(values)), np.float32)
    rows[world.rank] = values
    return all_reduce(rows, world)


def any_over_ranks(condition: bool, world: World) -> bool:
    """Whether a condition holds on at least one rank."""
    return bool(all_reduce(np.array([condition], np.float32), world)[0])


def flatten(parameters: Sequence[Parameter]) -> np.ndarray:
    """The values of float32 parameters in one array, one parameter after the other."""
    return np.concatenate([np.empty(0, np.float32), *(parameter.asnumpy().ravel() for parameter in parameters)])


def set_values(parameters: Sequence[Parameter], values: np.ndarray) -> None:
    """Set float32 parameters from an array that `flatten` made. The reverse of `flatten`."""
    ends = np.cumsum([parameter.size for parameter in parameters])
    for parameter, part in zip(parameters, np.split(values, ends[:-1]), strict=True):
        # In place: `set_data` does not change all of a compiled step.
        ops.assign(parameter, Tensor(part.reshape(parameter.shape).astype(np.float32)))
