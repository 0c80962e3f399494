"""How pixels are normalised for the network, as training, evaluation, export and deployment share it."""
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Normalisation:
    """Pixels become (pixel - mean) / std: RGB, for pixels of 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def pixel_mean(self) -> list[float]:
        """For pixels of 0 to 255."""
        return [255 * value for value in self.mean]

    @property
    def pixel_std(self) -> list[float]:
        """For pixels of 0 to 255."""
        return [255 * value for value in self.std]


def per_channel(values: list[float]) -> np.ndarray:
    """1 x 3 x 1 x 1 float32, to compute with N x 3 x H x W images."""
    return np.array(values, np.float32).reshape(1, 3, 1, 1)


# By the key `normalisation`, with the names of timm's data/constants.py.
IMAGENET_PIXELS = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of the images of ImageNet
NORMALISATIONS = {"imagenet": IMAGENET_PIXELS,
                  "inception": Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}  # -1 to 1
