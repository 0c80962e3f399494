"""What training does to whole batches of images: another size, erasing, mixup, cutmix.

In numpy: MindSpore's MixUpBatch draws from no beta distribution, and its RandomErasing draws from one generator for all
worker threads, so that no run could be repeated. Everything drawn here follows from (seed, epoch, step, rank), with a
generator for each kind of augmentation: switching one off leaves what the others draw as it was.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mindspore.dataset import BatchInfo, vision

from src.data.transforms import Augmentation

SIZE_STEP = 32  # pixels: the network's smallest map is that many times smaller than the image
ERASED_SHARE = (0.02, 0.33)  # of an image's area
ERASED_RATIO = (0.3, 3.3)  # height to width
ERASING_TRIES = 10
ALL_RANKS = -1

# A generator each.
SIZE, ERASING, MIXUP, CUTMIX, CHOICE = range(5)


@dataclass(frozen=True)
class BatchAugmentation:
    """Called by MindSpore's `batch` with the images of a batch, in a thread beside the training.

    Shrinks the batch to the size of the step, erases, then mixes images. Labels stay as they are unless images are
    mixed: then they are N x `classes` float32 shares.
    """

    augmentation: Augmentation
    classes: int
    seed: int
    epoch: int
    rank: int

    def __call__(self, images: Sequence[np.ndarray], labels: Sequence[np.ndarray],
                 info: BatchInfo) -> tuple[np.ndarray, np.ndarray]:
        """The batch of the step that `info` tells: N x 3 x size x size float32, and labels or shares."""
        step, augmentation = info.get_batch_num(), self.augmentation
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
        """One of the two, at random, where both are asked for."""
        mixup_alpha, cutmix_alpha = self.augmentation.mixup_alpha, self.augmentation.cutmix_alpha
        heads = self._generator(CHOICE, step, self.rank).random() < 0.5
        if mixup_alpha and (heads or not cutmix_alpha):
            return mixup(images, targets, mixup_alpha, self._generator(MIXUP, step, self.rank))
        return cutmix(images, targets, cutmix_alpha, self._generator(CUTMIX, step, self.rank))

    def _generator(self, kind: int, step: int, rank: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, step, rank - ALL_RANKS, kind))


def mixup(images: np.ndarray, targets: np.ndarray, alpha: float,
          generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each image and its target, N x C, blended with another's: share x own + (1 - share) x the other's.

    The share is one for the batch, from Beta(alpha, alpha). Zhang et al., "mixup: Beyond Empirical Risk Minimization",
    section 2, https://arxiv.org/abs/1710.09412. The images are changed in place.
    """
    share = np.float32(generator.beta(alpha, alpha))
    others = generator.permutation(len(images))
    return blend(images, others, share), blend(targets, others, share)


def cutmix(images: np.ndarray, targets: np.ndarray, alpha: float,
           generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each image with a box of another's pixels pasted in, and targets, N x C, blended by the area that stayed.

    The box is one for the batch: its area is a share of 1 - Beta(alpha, alpha), its centre anywhere, and what lies
    outside of the image is cut off. Yun et al., "CutMix", section 3.1 and appendix A,
    https://arxiv.org/abs/1905.04899. The images are changed in place.
    """
    height, width = images.shape[2:]
    side = math.sqrt(1 - generator.beta(alpha, alpha))
    others = generator.permutation(len(images))
    (top, bottom), (left, right) = (_cut(length, side, generator.random()) for length in (height, width))
    images[:, :, top:bottom, left:right] = images[others, :, top:bottom, left:right]
    share = np.float32(1 - (bottom - top) * (right - left) / (height * width))
    return images, blend(targets, others, share)


def _cut(length: int, share: float, centre: float) -> tuple[int, int]:
    """First and last + 1 of the pixels, of `length`, of a piece of that share around a centre of 0 to 1."""
    middle, half = int(centre * length), int(share * length / 2)
    return max(middle - half, 0), min(middle + half, length)


def blend(rows: np.ndarray, others: np.ndarray, share: np.float32) -> np.ndarray:
    """`share` of each row and the rest of the one that `others` gives for it, in place: a new batch takes longer."""
    rest = rows[others]
    rest *= 1 - share
    rows *= share
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
            area = generator.uniform(*ERASED_SHARE) * height * width
            ratio = math.exp(generator.uniform(*np.log(ERASED_RATIO)))
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
