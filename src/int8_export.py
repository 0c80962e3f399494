"""From a float ONNX file to an eight-bit one, with both side by side."""
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from src.data.framing import Framing
from src.data.image_check import scan_checked
from src.data.sources import eval_source
from src.dataset import IGNORE_INDEX, ImageData
from src.deployment.calibration_images import load_calibration_images
from src.deployment.conversion import convert
from src.deployment.description import description_path
from src.deployment.exporter import ExportOptions
from src.deployment.formats import ENDINGS
from src.deployment.runtime import load_exported
from src.distributed.world import ALONE
from src.model_utils.config import Config
from src.normalisation import Normalisation
from src.quantization.int8 import check_enough, quantize_file
from src.reports.int8_comparison import compare, describe_comparison
from src.utils import check_classes


def export_int8(source: Path, path: Path, classes: tuple[str, ...] | None, options: ExportOptions,
                config: Config) -> tuple[str, int]:
    """Write the eight-bit form of an ONNX file, as ONNX or TFLite, calibrated on the images of `calibration`.

    Args:
        source: the float file.
        path: the file to write.
        classes: the names of its classes.
        options: of the float file.
        config: `calibration` and what belongs to it; the images of `dataset_path`, if it is given, are scored.

    Returns:
        A table that compares both files, on the images of `dataset_path`, else on those of the calibration; and the
        number of these.

    Raises:
        UserError: there are too few images, or they are of other classes.
    """
    normalisation = None if options.normalise else options.normalisation
    calibration = load_calibration_images(config, classes, normalisation)
    labelled = _labelled_images(config, classes, normalisation) if config.dataset_path else None
    if path.suffix == ENDINGS["TFLITE"]:
        check_enough(calibration.images)
        with convert("TFLITE", source.read_bytes(), calibration.images[:1], options.softmax,
                     calibration.images) as converted:
            converted.move_to(path)
    else:
        quantize_file(source, calibration.images, path)
    description_path(path).unlink(missing_ok=True)  # it describes an older file
    networks = load_exported(source, config), load_exported(path, config)
    batches = _batches(labelled) if labelled else [(calibration.images, calibration.labels)]
    where = config.dataset_path or f"{config.calibration}, on which the ranges were measured"
    threads = config.onnx_threads or len(os.sched_getaffinity(0))
    table = describe_comparison(compare(networks, batches), networks, (source, path), calibration.images, where,
                                threads)
    return table, len(calibration.images)


def _labelled_images(config: Config, classes: tuple[str, ...] | None, normalisation: Normalisation | None) -> ImageData:
    folder = scan_checked(eval_source(config.dataset_path), config, ALONE, training=False)
    check_classes(classes, folder.classes, folder.root)
    return ImageData(folder, config.image_size, config.batch_size, training=False, num_workers=config.num_workers,
                     normalisation=normalisation, framing=Framing.of(config))


def _batches(data: ImageData) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The images and labels of an epoch, without the copies that fill the last batch."""
    for images, labels in data.epoch():
        real = labels.asnumpy() != IGNORE_INDEX
        yield images.asnumpy()[real], labels.asnumpy()[real]
