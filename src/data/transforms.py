"""From an encoded image to the input of the network, with MindSpore's own C++ operators.

Training: random resized crop, flip, colour jitter, normalise. src/data/mixing.py has the augmentation of whole batches.
Evaluation: resize, crop or pad as src/data/framing.py says, normalise. Evaluation, export and deployment share the
numbers there and in src/normalisation.py.
"""
from dataclasses import dataclass

import mindspore as ms
from mindspore.dataset import transforms, vision

from src.data.auto_augment import auto_augment
from src.data.framing import Framing
from src.errors import UserError
from src.model_utils.config import Config
from src.normalisation import IMAGENET_PIXELS, Normalisation


@dataclass(frozen=True)
class Augmentation:
    """The augmentation keys of a configuration. The defaults are those of ImageNet training."""

    crop_scale: float = 0.08  # smallest fraction of the image's area that a crop keeps
    flip: float = 0.5  # probability of a mirrored view
    color_jitter: float = 0.4  # brightness, contrast and saturation change by a factor of up to 1 +- this
    auto_augment: str = "none"  # autoaugment, randaugment or trivialaugment replace the colour jitter
    random_erasing: float = 0.0  # probability
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    multi_scale_min: int = 0  # pixels
    multi_scale_max: int = 0
    aug_repeats: int = 1  # views of an image in an epoch

    @classmethod
    def of(cls, config: Config) -> "Augmentation":
        """The augmentation of a configuration.

        Raises:
            UserError: a range of sizes is invalid; or the backbone is frozen, which sees no augmented images.
        """
        augmentation = cls(config.crop_scale, config.flip, config.color_jitter, config.auto_augment,
                           config.random_erasing, config.mixup_alpha, config.cutmix_alpha, config.multi_scale_min,
                           config.multi_scale_max, config.aug_repeats)
        low, high = augmentation.multi_scale_min, augmentation.multi_scale_max
        if low > high or (high > 0 and low == 0):
            raise UserError(f"multi_scale_min {low} and multi_scale_max {high} are no range of sizes: give both, "
                            "the smaller one first, or 0 for both")
        first, last = train_sizes(config)
        if first > last:
            raise UserError(f"train_image_size_start is {first}, but the images can only grow, to {last} pixels; lower "
                            "it, or raise --train_image_size")
        if config.freeze_layer == "backbone" and (keys := augmentation.beyond_views()):
            raise UserError("--freeze_layer backbone computes each image's features once, without augmentation: "
                            f"leave out {', '.join(keys)}, or train the whole network")
        return augmentation

    def beyond_views(self) -> list[str]:
        """The keys that are set and are more than crop, flip and colour jitter."""
        return [key for key in ("auto_augment", "random_erasing", "mixup_alpha", "cutmix_alpha", "multi_scale_max",
                                "aug_repeats") if getattr(self, key) != getattr(IMAGENET, key)]

    @property
    def changes_batches(self) -> bool:
        """Whether `BatchAugmentation` has something to do."""
        return bool(self.random_erasing or self.mixup_alpha or self.cutmix_alpha or self.multi_scale_max)

    def gives_pixels(self, platform: str) -> bool:
        """Whether training gets images as uint8 pixels, to be normalised by the device.

        They are a quarter of the bytes that go to a device. On a CPU nothing has to go anywhere, and the pipeline's
        threads normalise faster than MindSpore's operators do. Mixing is arithmetic on normalised images.
        """
        return platform != "CPU" and not self.changes_batches


IMAGENET = Augmentation()
CENTRE = Framing()


def train_sizes(config: Config) -> tuple[int, int]:
    """The smallest and the largest height and width of the images in training, in pixels.

    Training at a smaller size than evaluation: Touvron et al., "Fixing the train-test resolution discrepancy", section
    3, https://arxiv.org/abs/1906.06423.
    """
    if config.freeze_layer == "backbone":
        return config.image_size, config.image_size  # its features are those of evaluation
    if config.multi_scale_max:
        return config.multi_scale_min, config.multi_scale_max
    size = config.train_image_size or config.image_size
    return config.train_image_size_start or size, size


def train_transforms(image_size: int, augmentation: Augmentation = IMAGENET,
                     normalisation: Normalisation | None = IMAGENET_PIXELS) -> list:
    """Encoded image to a random 3 x `image_size` x `image_size` view of it: normalised float32, or pixels as uint8.

    In multi-scale training the view has the largest size; the batch is shrunk later.
    """
    image_size, jitter = augmentation.multi_scale_max or image_size, augmentation.color_jitter
    if augmentation.auto_augment == "none":
        colour = vision.RandomColorAdjust(brightness=jitter, contrast=jitter, saturation=jitter)
    else:
        colour = auto_augment(augmentation.auto_augment)
    return [
        vision.RandomCropDecodeResize(image_size, scale=(augmentation.crop_scale, 1.0), ratio=(3 / 4, 4 / 3)),
        vision.RandomHorizontalFlip(augmentation.flip),
        colour,
        *(_normalise(normalisation) if normalisation else [vision.HWC2CHW()]),
    ]


def eval_transforms(image_size: int, normalisation: Normalisation | None = IMAGENET_PIXELS,
                    framing: Framing = CENTRE) -> list:
    """Encoded image to the float32 square of a framing, 3 x `image_size` x `image_size`; with V views of it, to V x 3 x
    `image_size` x `image_size`. Normalised, or as pixels of 0 to 255.
    """
    return [vision.Decode(), *framing.transforms(image_size),
            *(_normalise(normalisation) if normalisation else [vision.HWC2CHW(), transforms.TypeCast(ms.float32)]),
            *framing.view_transforms(image_size)]


def _normalise(normalisation: Normalisation) -> list:
    return [vision.Normalize(normalisation.pixel_mean, normalisation.pixel_std), vision.HWC2CHW()]
