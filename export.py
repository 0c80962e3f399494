"""Export a checkpoint for deployment, load the file again and compare.

    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format MINDIR --file_name mobilenetv2
    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format ONNX --export_batch_size 0
    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format ONNX --quantize int8 \
        --calibration photos/
    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format TFLITE
    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format MODELARTS --file_name service
    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format WEB --file_name page

TFLITE, NCNN, COREML and LITE need a converter, which tools/install_converter.py installs. WEB is a folder that
classifies in a browser: docs/serving.md.

Beside mobilenetv2.mindir it writes mobilenetv2.mindir.json: classes, preprocessing, digest. Image size and width are
those of the checkpoint, unless options set them.
"""
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from src.checkpoint.pretrained import open_pretrained
from src.data.framing import Framing
from src.deployment.conversion import CONVERTERS, convert, require_converter
from src.deployment.engines import RUNTIMES, is_installed
from src.deployment.exporter import (
    ExportOptions,
    deployable,
    describe,
    export,
    onnx_content,
    random_images,
    write_description,
)
from src.deployment.formats import ENDINGS, output_name
from src.deployment.modelarts_package import FORMAT as MODELARTS
from src.deployment.modelarts_package import complete_package, model_in_package
from src.deployment.runtime import load_exported
from src.distributed.device import setup_device
from src.errors import UserError, run_command
from src.int8_export import export_int8
from src.model_utils.config import Config
from src.model_utils.keys import NETWORK_KEYS
from src.modelarts.job import local_or_modelarts
from src.normalisation import NORMALISATIONS
from src.serving.web_folder import DESCRIPTION, MODEL, describe_web, runtime_package, web_folder

TOLERANCE = 1e-4  # relative to the largest output; for rounding in ONNX Runtime


@local_or_modelarts
def main(config: Config) -> None:
    """Export as the command line says."""
    setup_device(config)

    ending = ENDINGS[config.file_format]
    is_package = config.file_format == MODELARTS
    path = model_in_package(config) if is_package else Path(config.file_name.removesuffix(ending) + ending)

    # ---- the checkpoint
    if not config.pretrain_ckpt:
        raise UserError("no checkpoint named: give --ckpt_file CHECKPOINT")
    if config.file_format == "AIR" and config.platform != "Ascend":
        raise UserError(f"AIR files can be written on Ascend only, not on {config.platform}; use --file_format MINDIR, "
                        "which MindSpore Lite runs on Ascend 310 too")
    quantized = config.quantize == "int8"
    if quantized and config.file_format not in {"ONNX", "TFLITE"}:
        raise UserError(f"--quantize int8 writes ONNX and TFLITE files, not {config.file_format}: add --file_format "
                        "ONNX")
    if quantized and config.file_format == "TFLITE" and not is_installed("ai_edge_litert"):
        raise UserError(f"--quantize int8 compares what it writes with the float file: {RUNTIMES} to run TFLITE")
    if config.file_format in CONVERTERS:
        require_converter(config.file_format, config.export_batch_size, path)
    is_web = config.file_format == "WEB"
    package = runtime_package(config) if is_web else Path()
    checkpoint = open_pretrained(config.pretrain_ckpt)
    config = config.adopt(checkpoint.config, "image_size", *NETWORK_KEYS, where=checkpoint.path)
    options = ExportOptions(config.image_size, config.export_batch_size,
                            config.export_normalise or is_web or is_package,
                            config.export_softmax, NORMALISATIONS[config.normalisation], Framing.with_views(config),
                            checkpoint.confidence, activation_map=is_web)
    network = deployable(checkpoint, config, options)

    # ---- its output for a random image, to compare with
    images = random_images(options)
    expected = network(Tensor(images)).asnumpy()

    # ---- write, and verify: let a runtime compute the same
    training = checkpoint.training
    metadata: dict[str, Any] = {"checkpoint": Path(config.pretrain_ckpt).name,
                                "epoch": training.epoch if training else None,
                                "width_mult": config.width_mult, "quantization": None}
    written = (f"{path}: {config.file_format}, {config.image_size}x{config.image_size} pixels, batches of "
               f"{options.batch_size or 'any size'}, {expected.shape[1]} {output_name(options.softmax)}")
    if quantized:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / path.with_suffix(ENDINGS["ONNX"]).name
            export(network, options, source, checkpoint.classes)
            verdict = f"its float form {verify(source, images, expected, config)}"
            table, calibrated_on = export_int8(source, path, checkpoint.classes, options, config)
        verdict += f"\n{table}"
        metadata["quantization"] = {"type": "int8", "calibration_images": calibrated_on}
    elif config.file_format in CONVERTERS:
        onnx = onnx_content(network, options, checkpoint.classes)
        with convert(config.file_format, onnx, images, options.softmax) as converted:
            if converted.scores is not None and not agree(converted.scores, expected):
                raise UserError(f"{path}: would not compute what the checkpoint does; not written")
            verdict = f"not verified: {converted.remark}" if converted.scores is None else \
                describe_difference(converted.scores, expected)
            converted.move_to(path)
    elif is_web:
        with web_folder(path, package) as folder:
            export(network, options, folder / MODEL, checkpoint.classes)
            verdict = verify(folder / MODEL, images, expected, config)
            about = describe(folder / MODEL, options, checkpoint.classes, expected.shape[1], metadata)
            (folder / DESCRIPTION).write_text(describe_web(about), encoding="utf-8")
    else:
        export(network, options, path, checkpoint.classes)
        verdict = verify(path, images, expected, config)
    print(written)
    print(verdict)

    # ---- how to use it
    if not is_web:  # whose folder has it inside
        write_description(describe(path, options, checkpoint.classes, expected.shape[1], metadata), path)
    if is_package:
        complete_package(path, checkpoint, config.image_size)


def verify(path: Path, images: np.ndarray, expected: np.ndarray, config: Config) -> str:
    """Load a file back, and compare its output for `images` with the expected one; returns a line about it.

    Raises:
        UserError: it is another output; the file is removed then.
    """
    if config.file_format == "AIR":
        return "not verified: MindSpore does not load AIR files"
    if config.file_format in {"ONNX", "WEB", MODELARTS} and not is_installed("onnxruntime"):
        return "not verified: ONNX Runtime is not installed; pip install onnxruntime"
    scores = load_exported(path, config).run(images)
    if not agree(scores, expected):
        path.unlink()
        raise UserError(f"{path}: would not compute what the checkpoint does; removed")
    return describe_difference(scores, expected)


def agree(scores: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two outputs, N x C, differ by rounding alone."""
    return bool(np.abs(scores - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max()))


def describe_difference(scores: np.ndarray, expected: np.ndarray) -> str:
    """The line for an output that agrees."""
    difference = np.abs(scores - expected).max()
    top1 = "equal" if np.array_equal(scores.argmax(axis=1), expected.argmax(axis=1)) else "different"
    return f"verified: loaded back, it differs from the checkpoint by {difference:.3g} on a random image, top-1 {top1}"


if __name__ == "__main__":
    run_command(main)
