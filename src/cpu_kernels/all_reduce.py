"""Sums over the ranks of one machine through shared memory: MindSpore's own go through sockets, ten times slower."""
import ctypes
import os
import secrets
from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.cpu_kernels.cells import Shape, library_in_use
from src.distributed.collectives import broadcast_counts, sum_counts
from src.distributed.world import World

Arrays = tuple[Tensor, ...]

MARK_OFFSET = 4088  # the end of the first page of the memory, which has no numbers to sum


class AllReduce(nn.Cell):
    """Sums arrays over all ranks, on any platform and any number of machines."""

    def __init__(self) -> None:
        super().__init__()
        # As nn.DistributedGradReducer does, but without a cast and a product for each gradient, which cost more
        # on CPU than the all-reduce itself. Ascend and GPU reduce all those of one fusion number at once.
        self.all_reduce = ops.AllReduce().add_prim_attr("fusion", 1)

    def construct(self, arrays: Arrays) -> Arrays:
        return tuple([self.all_reduce(array) for array in arrays])


class ShmAllReduce(nn.Cell):
    """Sums float32 arrays of at least one dimension over the ranks of one machine, through shared memory."""

    def __init__(self, library: str, handle: int) -> None:
        super().__init__()
        self.handle = Tensor([handle], ms.int32)
        self.sum = ops.Custom(f"{library}:shm_all_reduce", _shapes_of_arrays, _types_of_arrays, "aot")

    def construct(self, arrays: Arrays) -> Arrays:
        return self.sum(self.handle, *arrays)


def rank_sum(network: nn.Cell, parameters: Sequence[Parameter], world: World) -> Callable[[Arrays], Arrays]:
    """The function that sums gradients and the loss over the ranks. All ranks must call this together.

    It uses shared memory if all ranks run on one machine with an accelerated network.
    """
    library = library_in_use(network)
    floats = sum(parameter.size for parameter in parameters) + 1
    handle = _join(library, floats, world)
    return AllReduce() if library is None or handle is None else ShmAllReduce(library, handle)


def _join(library: str | None, floats: int, world: World) -> int | None:
    """The number of this process's new all-reduce in the library; None if one rank or more cannot take part.

    The memory is a file without a name, which rank 0 makes and the others open through its process: nothing is left
    behind, however the run ends.
    """
    native = ctypes.CDLL(library) if library else None
    message, file = np.zeros(3, np.int64), -1
    if world.is_main_process and native:
        file = native.shm_all_reduce_file(ctypes.c_int64(world.rank_size), ctypes.c_int64(floats))
    if file >= 0:
        message = np.array([os.getpid(), file, secrets.randbits(47)])
        os.pwrite(file, _mark(message), MARK_OFFSET)
    message = broadcast_counts(message, world)
    if not world.is_main_process and native and message.any():
        file = _open(message)
    handle = -1
    if native and file >= 0:
        handle = native.shm_all_reduce_join(file, *map(ctypes.c_int64, (world.rank, world.rank_size, floats)))
    all_take_part = sum_counts(np.array([handle >= 0], np.int64), world)[0] == world.rank_size
    if file >= 0:
        os.close(file)
    return handle if all_take_part else None


def _open(message: np.ndarray) -> int:
    """Open the memory of rank 0 and check its mark; -1 if it is not on this machine."""
    try:
        file = os.open(f"/proc/{message[0]}/fd/{message[1]}", os.O_RDWR)
    except OSError:
        return -1
    if os.pread(file, 8, MARK_OFFSET) == _mark(message):
        return file
    os.close(file)
    return -1


def _mark(message: np.ndarray) -> bytes:
    return int(message[2]).to_bytes(8, "little")


def _shapes_of_arrays(_: Shape, *arrays: Shape) -> list[Shape]:
    return list(arrays)


def _types_of_arrays(_: ms.dtype, *arrays: ms.dtype) -> list[ms.dtype]:
    return list(arrays)
