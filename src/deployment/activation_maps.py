"""Class activation maps: where in an image a network sees a class.

Zhou, Khosla, Lapedriza, Oliva, Torralba: "Learning Deep Features for Discriminative Localization", CVPR 2016,
https://arxiv.org/abs/1512.04150. The head of MobileNetV2 is what the paper needs, global average pooling and one dense
layer, so the maps are exact: no gradient and no approximation is in them.
"""
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mindspore import Tensor
from PIL import Image

from src.compiled import compiled
from src.data.framing import Framing
from src.deployment.model_file import ModelFile, Network
from src.deployment.prediction import ImageStream, Prediction, decoding_workers
from src.errors import UserError
from src.files import atomic_write
from src.mobilenetV2 import MobileNetV2
from src.model_utils.config import Config
from src.names import escape_name
from src.normalisation import NORMALISATIONS, Normalisation, per_channel

FOLDER = "explained"
STRONGEST = 0.7  # how much of the colour covers the image where the map is highest
STEM_LETTERS = 40  # of the image's name, in the name of its picture
JPEG_QUALITY = 90


def class_activation_maps(features: np.ndarray, weight: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The contribution of each place of a feature map to the logit of a class: section 2 of the paper.

    The mean of a map, plus the class's bias, is the logit.

    Args:
        features: N x C x h x w, before the pooling.
        weight: K x C, of the dense layer.
        classes: N indices below K, one for each image.

    Returns:
        N x h x w.
    """
    return np.einsum("nchw,nc->nhw", features, weight[classes])


def draw_overlay(pixels: np.ndarray, activation: np.ndarray) -> Image.Image:
    """An image with its map over it. The higher the map, the brighter and denser its colour; the lowest has none.

    Args:
        pixels: H x W x 3 uint8.
        activation: h x w, of any scale.
    """
    from matplotlib import colormaps
    height, width = pixels.shape[:2]
    rise = activation - activation.min()
    scaled = (rise / max(float(rise.max()), np.finfo(np.float32).tiny)).astype(np.float32)
    strength = np.asarray(Image.fromarray(scaled).resize((width, height), Image.Resampling.BILINEAR))
    colour = 255 * colormaps["inferno"](strength)[..., :3]
    share = STRONGEST * strength[..., None]
    return Image.fromarray((pixels * (1 - share) + colour * share).round().astype(np.uint8))


def with_feature_maps(model: ModelFile, network: Network) -> MobileNetV2:
    """The network of a model, if it gives feature maps.

    Raises:
        UserError: it is an exported file, which gives logits alone.
    """
    if not isinstance(network, MobileNetV2):
        raise UserError(f"{model.path}: --explain True needs the feature maps, which an exported file does not give; "
                        "name the checkpoint that it was exported from")
    return network


def explain(network: MobileNetV2, config: Config, paths: Sequence[Path],
            classes: np.ndarray) -> Iterator[tuple[int, Image.Image]]:
    """Draw where in images the network sees a class. Images that cannot be read are left out.

    Args:
        network: in evaluation mode.
        config: its input. Of several views (`tta`) the first one is drawn.
        paths: N images.
        classes: N indices of the classes to look for.

    Yields:
        The position in `paths`, and the square that the network sees with its map over it.
    """
    normalisation = NORMALISATIONS[config.normalisation]
    batch_size = min(config.batch_size, len(paths))
    workers = decoding_workers(config.num_workers, config.onnx_threads)
    weight, forward = network.head.classifier.weight.asnumpy(), compiled(network.backbone)
    stream = ImageStream(paths, config.image_size, batch_size, workers, normalisation, Framing.of(config))
    for positions, images in stream:
        filled = np.pad(images, ((0, batch_size - len(images)), (0, 0), (0, 0), (0, 0)))  # one shape: one compilation
        features = forward(Tensor(filled)).asnumpy()[:len(images)].astype(np.float32)
        maps = class_activation_maps(features, weight, classes[positions])
        for position, pixels, activation in zip(positions.tolist(), _pixels(images, normalisation), maps, strict=True):
            yield position, draw_overlay(pixels, activation)


def write_explanations(network: MobileNetV2, config: Config, predictions: Sequence[Prediction], folder: Path) -> int:
    """Write a picture for each image that was classified, of what speaks for its likeliest class.

    The names are the number of the image among all, from 1, and its own name. Returns how many were written.

    Raises:
        UserError: a file cannot be written.
    """
    good = [(number, prediction) for number, prediction in enumerate(predictions, 1) if not prediction.fault]
    classes = np.array([prediction.index for _, prediction in good])
    written = 0
    for position, picture in explain(network, config, [prediction.path for _, prediction in good], classes):
        number, prediction = good[position]
        name = f"{number:05d}-{escape_name(prediction.path.stem)[:STEM_LETTERS]}.jpg"
        with atomic_write(folder / name) as temporary:
            picture.save(temporary, "JPEG", quality=JPEG_QUALITY)
        written += 1
    return written


def _pixels(images: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """N x H x W x 3 uint8 pixels of N x 3 x H x W normalised images."""
    pixels = images * per_channel(normalisation.pixel_std) + per_channel(normalisation.pixel_mean)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
