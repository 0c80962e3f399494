"""The images that an eight-bit network is calibrated on."""
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.data.framing import Framing
from src.dataset import IGNORE_INDEX
from src.deployment.prediction import ImageStream, list_images
from src.errors import UserError
from src.log import logger
from src.model_utils.config import Config
from src.names import escape_name
from src.normalisation import Normalisation


@dataclass(frozen=True)
class CalibrationImages:
    """Images as the network's input, N x 3 x H x W float32, and their N labels; `IGNORE_INDEX` where there is none."""

    images: np.ndarray
    labels: np.ndarray


def load_calibration_images(config: Config, classes: Sequence[str] | None,
                            normalisation: Normalisation | None) -> CalibrationImages:
    """Read `calibration_images` images of `calibration`, chosen by `seed`, as an evaluation reads them.

    Without a normalisation they are pixels of 0 to 255.

    An image in a folder with the name of one of `classes` has that label. One that cannot be read is named and left
    out.

    Raises:
        UserError: none is named, or there are none.
    """
    if not config.calibration:
        raise UserError("--quantize int8 measures the network on images: give --calibration with a folder of them, or "
                        "a text file that lists some")
    paths = list_images(config.calibration)
    if len(paths) > config.calibration_images:
        paths = sorted(random.Random(config.seed).sample(paths, config.calibration_images))  # noqa: S311
    images = np.empty((len(paths), 3, config.image_size, config.image_size), np.float32)
    stream = ImageStream(paths, config.image_size, min(config.batch_size, len(paths)), config.num_workers,
                         normalisation, Framing.of(config))
    for positions, batch in stream:
        images[positions] = batch
    for position, fault in sorted(stream.faults.items()):
        logger.warning(f"{escape_name(paths[position])}: {fault}")
    good = np.array([position not in stream.faults for position in range(len(paths))])
    return CalibrationImages(images[good], _labels(paths, Path(config.calibration), classes or ())[good])


def _labels(paths: Sequence[Path], root: Path, classes: Sequence[str]) -> np.ndarray:
    index = {name: position for position, name in enumerate(classes)}
    folders = [path.relative_to(root).parts[0] if path.is_relative_to(root) and path != root else "" for path in paths]
    return np.array([index.get(name, IGNORE_INDEX) for name in folders], np.int32)
