"""Calls a kernel past the framework, which takes half a millisecond to start an operator of hundreds of inputs."""
import ctypes
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from src.cpu_kernels.builder import load

IMAGES, LOGITS = 2, -1  # places among inputs and outputs, as in native/backbone_arguments.cc
MOST_RANKS = 4


class DirectInference:
    """`network_infer` of native/bindings.cc on the parameters of one network.

    As a compiled graph does, it reads them where the framework has them at the time of the call.
    """

    def __init__(self, library: Path, constants: Sequence[Tensor], parameters: Sequence[Parameter]) -> None:
        """The operator's inputs before the images, and those behind them; the last is the classifier's bias."""
        self.kernel = load(library).network_infer
        self.constants, self.parameters = tuple(constants), tuple(parameters)
        self.bytes = [parameter.nbytes for parameter in parameters]
        self.channels, self.classes = parameters[0].shape[1], parameters[-1].shape[0]
        shapes = [*(tensor.shape for tensor in constants), (0, 0, 0, 0), *(p.shape for p in parameters), (0, 0)]
        self.ranks = (ctypes.c_int * len(shapes))(*map(len, shapes))
        self.types = (ctypes.c_char_p * len(shapes))(b"int32", *[b"float32"] * (len(shapes) - 1))
        self.shapes = np.array([(*shape, *[0] * (MOST_RANKS - len(shape))) for shape in shapes], np.int64)
        self.row_offsets = np.arange(len(shapes), dtype=np.uintp) * self.shapes.strides[0]
        self.pointers = ctypes.c_void_p * len(shapes)

    def takes(self, images: object) -> bool:
        """Whether images and parameters have the types and sizes that they should have."""
        return (isinstance(images, Tensor) and images.dtype == ms.float32 and images.ndim == self.ranks[IMAGES]
                and images.shape[1] == self.channels
                and [parameter.nbytes for parameter in self.parameters] == self.bytes)

    def __call__(self, images: Tensor) -> Tensor:
        """N x 3 x H x W images to N x C logits.

        Raises:
            RuntimeError: the kernel has failed, for instance for want of memory.
        """
        pixels = images.asnumpy()  # waits for their computation, and has no gaps
        logits = np.empty((len(pixels), self.classes), np.float32)
        shapes = self.shapes.copy()  # other threads may call with other images
        shapes[IMAGES], shapes[LOGITS, :logits.ndim] = pixels.shape, logits.shape
        rows = self.row_offsets + shapes.ctypes.data
        arrays = self.pointers(*[constant.data_ptr() for constant in self.constants], pixels.ctypes.data,
                               *[parameter.data_ptr() for parameter in self.parameters], logits.ctypes.data)
        if self.kernel(len(shapes), arrays, self.ranks, ctypes.c_void_p(rows.ctypes.data), self.types, None, None) != 0:
            raise RuntimeError("the CPU kernels could not compute the logits; stderr says why")
        return Tensor.from_numpy(logits)
