"""Augmentation of whole batches in training: multi-scale, random erasing, mixup, cutmix.

It is written in numpy. MindSpore's MixUpBatch does not draw from a beta distribution, and its RandomErasing has one
generator for all worker threads, so that no run could be repeated. All random numbers here follow from (seed, epoch,
step, rank). Each kind of augmentation has its own generator, so switching one off does not change the others.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mindspore.dataset import BatchInfo, vision

from src.data.transforms import Augmentation

SIZE_STEP = 32  # pixels: the network's last feature map is 32 times smaller than the image
ERASE_SCALE = (0.02, 0.33)  # of an image's area
ERASE_RATIO = (0.3, 3.3)  # height to width
ERASING_TRIES = 10
ALL_RANKS = -1

# The numbers of the generators.
SIZE, ERASING, MIXUP, CUTMIX, CHOICE = range(5)


@dataclass(frozen=True)
class BatchAugmentation:
    """Called by MindSpore's `batch` with the images of a batch, in a thread beside the training.

    Shrinks the batch to the size of the step, erases, then mixes images. Labels stay as they are unless images are
    mixed: then they become N x `classes` float32 targets.
    """

    augmentation: Augmentation
    classes: int
    seed: int
    epoch: int
    rank: int
    first_step: int = 0  # of the batches that MindSpore counts from 0

    def __call__(self, images: Sequence[np.ndarray], labels: Sequence[np.ndarray],
                 info: BatchInfo) -> tuple[np.ndarray, np.ndarray]:
        """The augmented batch of the step that `info` names: N x 3 x size x size float32, and labels or targets."""
        step, augmentation = self.first_step + info.get_batch_num(), self.augmentation
        batch, targets = np.stack(images), np.stack(labels)
        if augmentation.multi_scale_max:
            sizes = range(augmentation.multi_scale_min, augmentation.multi_scale_max + 1, SIZE_STEP)
            batch = shrink(batch, int(self._generator(SIZE, step, ALL_RANKS).choice(sizes)))
        if augmentation.random_erasing:
            erase(batch, augmentation.random_erasing, self._generator(ERASING, step, self.rank))
        if augmentation.mixup_alpha or augmentation.cutmix_alpha:
            batch, targets = self._mix(batch, np.eye(self.classes, dtype=np.float32)[targets], step)
        return batch, targets

    def _mix(self, images: np.ndarray, targets: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Mixup or cutmix; one of them at random if both are configured."""
        mixup_alpha, cutmix_alpha = self.augmentation.mixup_alpha, self.augmentation.cutmix_alpha
        use_mixup = self._generator(CHOICE, step, self.rank).random() < 0.5
        if mixup_alpha and (use_mixup or not cutmix_alpha):
            return mixup(images, targets, mixup_alpha, self._generator(MIXUP, step, self.rank))
        return cutmix(images, targets, cutmix_alpha, self._generator(CUTMIX, step, self.rank))

    def _generator(self, kind: int, step: int, rank: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, step, rank - ALL_RANKS, kind))


def mixup(images: np.ndarray, targets: np.ndarray, alpha: float,
          generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Blend each image and its target (N x C) with another one: lambda x own + (1 - lambda) x other.

    The batch has one lambda, drawn from Beta(alpha, alpha). Zhang et al., "mixup: Beyond Empirical Risk Minimization",
    section 2, https://arxiv.org/abs/1710.09412. The images are changed in place.
    """
    lam = np.float32(generator.beta(alpha, alpha))
    others = generator.permutation(len(images))
    return blend(images, others, lam), blend(targets, others, lam)


def cutmix(images: np.ndarray, targets: np.ndarray, alpha: float,
           generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paste a box of another image into each image, and blend the targets (N x C) by the area that is left.

    The batch has one box. Its area is 1 - lambda of the image, with lambda from Beta(alpha, alpha). Its centre is
    anywhere in the image, and the part outside of the image is cut off. The images are changed in place. Yun et al.,
    "CutMix", section 3.1 and appendix A, https://arxiv.org/abs/1905.04899.
    """
    height, width = images.shape[2:]
    side = math.sqrt(1 - generator.beta(alpha, alpha))
    others = generator.permutation(len(images))
    (top, bottom), (left, right) = (_cut(length, side, generator.random()) for length in (height, width))
    images[:, :, top:bottom, left:right] = images[others, :, top:bottom, left:right]
    lam = np.float32(1 - (bottom - top) * (right - left) / (height * width))
    return images, blend(targets, others, lam)


def _cut(length: int, ratio: float, centre: float) -> tuple[int, int]:
    """First pixel and last pixel + 1 of a piece of `ratio * length` pixels around a centre of 0 to 1."""
    middle, half = int(centre * length), int(ratio * length / 2)
    return max(middle - half, 0), min(middle + half, length)


def blend(rows: np.ndarray, others: np.ndarray, lam: np.float32) -> np.ndarray:
    """lambda x row + (1 - lambda) x the row that `others` names, in place: a new batch takes longer."""
    rest = rows[others]
    rest *= 1 - lam
    rows *= lam
    rows += rest
    return rows


def erase(images: np.ndarray, probability: float, generator: np.random.Generator) -> None:
    """Set a rectangle of some of N x 3 x H x W normalised images to 0, the mean colour, in place.

    Area and proportions are drawn until the rectangle fits, `ERASING_TRIES` times. Proportions are drawn from a
    logarithmic scale, so that tall and wide ones are equally likely. Zhong et al., "Random Erasing Data Augmentation",
    algorithm 1, https://arxiv.org/abs/1708.04896.
    """
    height, width = images.shape[2:]
    for number in np.flatnonzero(generator.random(len(images)) < probability):
        for _ in range(ERASING_TRIES):
            area = generator.uniform(*ERASE_SCALE) * height * width
            ratio = math.exp(generator.uniform(*np.log(ERASE_RATIO)))
            rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if rows <= height and columns <= width:
                top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
                images[number, :, top:top + rows, left:left + columns] = 0
                break


def shrink(images: np.ndarray, size: int) -> np.ndarray:
    """N x C x S x S float32 images at a size of at most S: each pixel is the mean of the area that it covers."""
    if images.shape[-1] == size:
        return images
    resize = vision.Resize((size, size), vision.Inter.AREA)
    return np.stack([[resize(plane) for plane in image] for image in images])
