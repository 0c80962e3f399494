"""Normalises images in the graph of a step, so that a batch goes to the device as one byte a value instead of four."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.data.transforms import MEAN, STD

# Of pixels of 0 to 255, rounded once, as in the pipeline's operator.
PIXEL_MEAN, PIXEL_STD = (np.array([255 * value for value in values], np.float32).reshape(1, 3, 1, 1)
                         for values in (MEAN, STD))


class Normalise(nn.Cell):
    """N x 3 x H x W uint8 pixels to float32 (pixel - mean) / standard deviation: the bits of the pipeline's operator.

    Inputs of another type are normalised already, or are features, and stay as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = Tensor(PIXEL_MEAN), Tensor(PIXEL_STD)

    def construct(self, inputs: Tensor) -> Tensor:
        return (inputs.astype(ms.float32) - self.mean) / self.std if inputs.dtype == ms.uint8 else inputs
