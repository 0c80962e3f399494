"""How an image of any shape becomes the square that the network sees in evaluation, and which views of it count.

Evaluation, export and deployment share this definition. The 310 program has it in ascend310_infer/src/framing.cc.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mindspore.dataset import vision

from src.errors import UserError
from src.model_utils.config import Config
from src.normalisation import IMAGENET_PIXELS

INTERPOLATIONS = {"bilinear": vision.Inter.BILINEAR, "bicubic": vision.Inter.BICUBIC}
CROP_MODES = ("center", "pad", "squash")
VIEWS = {"none": 1, "flip": 2, "five_crop": 5}  # of an image, by the key `tta`
PAD_COLOUR = tuple(round(value) for value in IMAGENET_PIXELS.pixel_mean)  # about 0 when it is normalised
IMAGES, IMAGES_OF_VIEWS = 4, 5  # axes of a batch


@dataclass(frozen=True)
class Framing:
    """The keys of the same names. The defaults are those of ImageNet evaluation.

    Raises:
        ValueError: a word or a number that is none of theirs.
    """

    crop_mode: str = "center"
    crop_pct: float = 0.875  # share of the shorter side that the crop keeps; for center alone
    interpolation: str = "bilinear"
    tta: str = "none"

    def __post_init__(self) -> None:
        for name, value, known in (("crop_mode", self.crop_mode, CROP_MODES),
                                   ("interpolation", self.interpolation, INTERPOLATIONS), ("tta", self.tta, VIEWS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError("crop_pct must be more than 0, and at most 1")

    @classmethod
    def of(cls, config: Config) -> "Framing":
        """The framing of a configuration, with one view of an image."""
        return cls(config.crop_mode, config.crop_pct, config.interpolation)

    @classmethod
    def with_views(cls, config: Config) -> "Framing":
        """The same, with the views that `tta` adds.

        Raises:
            UserError: there is nothing to take five crops of.
        """
        if config.tta == "five_crop" and config.crop_mode != "center":
            raise UserError(f"--tta five_crop takes crops, but --crop_mode {config.crop_mode} shows the whole image: "
                            "use --tta flip, or --crop_mode center")
        return cls(config.crop_mode, config.crop_pct, config.interpolation, config.tta)

    @property
    def views(self) -> int:
        """How many views of an image count."""
        return VIEWS[self.tta]

    def shorter_side(self, image_size: int) -> int:
        """The shorter side, in pixels, before the crop of crop_mode center."""
        return round(image_size / self.crop_pct)

    def transforms(self, image_size: int) -> list:
        """From decoded pixels, H x W x 3 uint8, to the square, or for five crops to all that they are taken of."""
        interpolation = INTERPOLATIONS[self.interpolation]
        if self.crop_mode == "pad":
            return [_Letterbox(image_size, interpolation)]
        if self.crop_mode == "squash":
            return [vision.Resize((image_size, image_size), interpolation)]
        resize = vision.Resize(self.shorter_side(image_size), interpolation)
        return [resize] if self.tta == "five_crop" else [resize, vision.CenterCrop(image_size)]

    def view_transforms(self, image_size: int) -> list:
        """From an image of `transforms`, 3 x H x W, to its views: V x 3 x size x size, or 3 x size x size for one."""
        if self.tta == "flip":
            return [_with_mirror_image]
        return [_FiveCrops(image_size)] if self.tta == "five_crop" else []


def mean_over_views(compute: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """The logits of images, N x C: for each the mean over its views.

    It is the logits' mean and not that of the probabilities, because a file that gives probabilities and one that gives
    logits have the same result then: the logarithms of probabilities differ from logits by a number for each view.

    Args:
        compute: from N x 3 x H x W images to N x C logits.
        images: N x 3 x H x W, or with several views N x V x 3 x H x W.
    """
    if images.ndim == IMAGES:
        return compute(images)
    return np.mean([compute(np.ascontiguousarray(images[:, view])) for view in range(images.shape[1])], axis=0)


class _Letterbox:
    """The whole image, its longer side of `size` pixels, in the middle of a square of `PAD_COLOUR`."""

    def __init__(self, size: int, interpolation: vision.Inter) -> None:
        self._size, self._interpolation = size, interpolation

    def __call__(self, image: np.ndarray) -> np.ndarray:
        longer = max(image.shape[:2])
        height, width = (max(1, int(side * self._size / longer + 0.5)) for side in image.shape[:2])
        top, left = (self._size - height) // 2, (self._size - width) // 2
        square = np.full((self._size, self._size, 3), PAD_COLOUR, np.uint8)
        square[top:top + height, left:left + width] = vision.Resize((height, width), self._interpolation)(image)
        return square


class _FiveCrops:
    """The middle and the four corners of an image, 3 x H x W to 5 x 3 x size x size: Krizhevsky et al., "ImageNet
    classification with deep convolutional neural networks", section 4.1, without the mirror images.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, image: np.ndarray) -> np.ndarray:
        bottom, right = (side - self._size for side in image.shape[1:])
        corners = ((bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right))
        return np.stack([image[:, top:top + self._size, left:left + self._size] for top, left in corners])


def _with_mirror_image(image: np.ndarray) -> np.ndarray:
    return np.stack([image, image[:, :, ::-1]])
