"""Normalises images in the graph of a step, so that a batch goes to the device as one byte a value instead of four."""
import mindspore as ms
from mindspore import Tensor, nn

from src.normalisation import Normalisation, per_channel


class Normalise(nn.Cell):
    """N x 3 x H x W uint8 pixels to float32 (pixel - mean) / standard deviation: the bits of the pipeline's operator.

    Inputs of another type are normalised already, or are features, and stay as they are.
    """

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        self.mean, self.std = (Tensor(per_channel(values)) for values in (
            normalisation.pixel_mean, normalisation.pixel_std))

    def construct(self, inputs: Tensor) -> Tensor:
        return (inputs.astype(ms.float32) - self.mean) / self.std if inputs.dtype == ms.uint8 else inputs
