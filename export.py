"""Export a checkpoint for deployment, load the file again and compare.

    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format MINDIR --file_name mobilenetv2
    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format ONNX --export_batch_size 0
    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format ONNX --quantize int8 \
        --calibration photos/

Beside mobilenetv2.mindir it writes mobilenetv2.mindir.json: classes, preprocessing, digest. Image size and width are
those of the checkpoint, unless options set them.
"""
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from src.checkpoint.pretrained import open_pretrained
from src.data.image_check import scan_checked
from src.data.sources import eval_source
from src.dataset import IGNORE_INDEX, ImageData
from src.deployment.calibration_images import CalibrationImages, load_calibration_images
from src.deployment.description import description_path
from src.deployment.exporter import (
    ENDINGS,
    Deployable,
    ExportOptions,
    deployable,
    describe,
    export,
    random_images,
    write_description,
)
from src.deployment.runtime import load_exported, onnx_runtime_is_there
from src.distributed.device import setup_device
from src.distributed.world import ALONE
from src.errors import UserError, run_command
from src.model_utils.config import Config
from src.modelarts.job import local_or_modelarts
from src.quantization.int8 import check_packages, quantize_file
from src.reports.int8_comparison import compare, describe_comparison
from src.utils import check_classes

TOLERANCE = 1e-4  # relative to the largest output; for rounding in ONNX Runtime


@local_or_modelarts
def main(config: Config) -> None:
    """Export as the command line says."""
    setup_device(config)

    # ---- the checkpoint
    if not config.pretrain_ckpt:
        raise UserError("no checkpoint named: give --ckpt_file CHECKPOINT")
    if config.file_format == "AIR" and config.platform != "Ascend":
        raise UserError(f"AIR files can be written on Ascend only, not on {config.platform}; use --file_format MINDIR, "
                        "which MindSpore Lite runs on Ascend 310 too")
    quantized = config.quantize == "int8"
    if quantized and config.file_format != "ONNX":
        raise UserError(f"--quantize int8 writes ONNX files, not {config.file_format}: add --file_format ONNX")
    if quantized:
        check_packages()
    checkpoint = open_pretrained(config.pretrain_ckpt)
    config = config.adopt(checkpoint.config, "image_size", "width_mult", where=checkpoint.path)
    options = ExportOptions(config.image_size, config.export_batch_size, config.export_normalise,
                            config.export_softmax)
    network = deployable(checkpoint, config, options)

    # ---- its output for a random image, to compare with
    images = random_images(options)
    expected = network(Tensor(images)).asnumpy()

    # ---- write and verify: load it back
    ending = ENDINGS[config.file_format]
    path = Path(config.file_name.removesuffix(ending) + ending)
    print(f"{path}: {config.file_format}, {config.image_size}x{config.image_size} pixels, batches of "
          f"{options.batch_size or 'any size'}, {expected.shape[1]} "
          f"{'probabilities' if options.softmax else 'logits'}")
    made: dict[str, Any] = {}
    if quantized:
        calibration = load_calibration_images(config, checkpoint.classes, not options.normalise)
        labelled = labelled_images(config, checkpoint.classes, not options.normalise) if config.dataset_path else None
        made["quantization"] = {"type": "int8", "calibration_images": len(calibration.images)}
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / path.name
            export_verified(network, options, source, images, expected, config)
            quantize_file(source, calibration.images, path)
            description_path(path).unlink(missing_ok=True)  # it describes an older file
            print(compare_with_float(path, source, calibration, labelled, config))
    else:
        export_verified(network, options, path, images, expected, config)

    # ---- how to use it
    training = checkpoint.training
    metadata = {"checkpoint": Path(config.pretrain_ckpt).name, "epoch": training.epoch if training else None,
                "width_mult": config.width_mult, **made}
    write_description(describe(path, options, checkpoint.classes, expected.shape[1], metadata), path)


def export_verified(network: Deployable, options: ExportOptions, path: Path, images: np.ndarray, expected: np.ndarray,
                    config: Config) -> None:
    """Write a file, load it back, and compare its output for `images` with the expected one.

    Raises:
        UserError: it cannot be written, or has another output; it is removed then.
    """
    export(network, options, path)
    if config.file_format == "AIR":
        print("not verified: MindSpore does not load AIR files")
    elif config.file_format == "ONNX" and not onnx_runtime_is_there():
        print("not verified: ONNX Runtime is not installed; pip install onnxruntime")
    else:
        difference = float(np.abs(load_exported(path, config).run(images) - expected).max())
        print(f"verified: loaded back, it differs from the checkpoint by {difference:.3g} on a random image")
        if not difference <= TOLERANCE * max(1.0, np.abs(expected).max()):
            path.unlink()
            raise UserError(f"{path}: would not compute what the checkpoint does; removed")


def labelled_images(config: Config, classes: tuple[str, ...] | None, normalise: bool) -> ImageData:
    """The images of `dataset_path`, to score both networks on."""
    folder = scan_checked(eval_source(config.dataset_path), config, ALONE, training=False)
    check_classes(classes, folder.classes, folder.root)
    return ImageData(folder, config.image_size, config.batch_size, training=False, num_workers=config.num_workers,
                     normalise=normalise)


def compare_with_float(path: Path, source: Path, calibration: CalibrationImages, labelled: ImageData | None,
                       config: Config) -> str:
    """A table that compares an int8 file with its float `source`, on `labelled` or on the calibration images."""
    networks = load_exported(source, config), load_exported(path, config)
    where = config.dataset_path or f"{config.calibration}, on which the ranges were measured"
    comparison = compare(networks, arrays(labelled) if labelled else [(calibration.images, calibration.labels)])
    threads = config.onnx_threads or len(os.sched_getaffinity(0))
    return describe_comparison(comparison, networks, (source, path), calibration.images, where, threads)


def arrays(data: ImageData) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The images and labels of an epoch, without the copies that fill the last batch."""
    for images, labels in data.epoch():
        real = labels.asnumpy() != IGNORE_INDEX
        yield images.asnumpy()[real], labels.asnumpy()[real]


if __name__ == "__main__":
    run_command(main)
