"""Export a checkpoint for deployment, load the file again and compare.

    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format MINDIR --file_name mobilenetv2
    python export.py --platform CPU --ckpt_file checkpoint/best.ckpt --file_format ONNX --export_batch_size 0

Beside mobilenetv2.mindir it writes mobilenetv2.mindir.json: classes, preprocessing, digest. Image size and width are
those of the checkpoint, unless options set them.
"""
from pathlib import Path

import numpy as np
from mindspore import Tensor

from src.checkpoint.pretrained import open_pretrained
from src.deployment.exporter import (
    ENDINGS,
    ExportOptions,
    deployable,
    describe,
    export,
    random_images,
    write_description,
)
from src.deployment.runtime import load_exported, onnx_runtime_is_there
from src.distributed.device import setup_device
from src.errors import UserError, run_command
from src.model_utils.config import Config
from src.model_utils.keys import NETWORK_KEYS
from src.modelarts.job import local_or_modelarts
from src.normalisation import NORMALISATIONS

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
    checkpoint = open_pretrained(config.pretrain_ckpt)
    config = config.adopt(checkpoint.config, "image_size", *NETWORK_KEYS, where=checkpoint.path)
    options = ExportOptions(config.image_size, config.export_batch_size, config.export_normalise,
                            config.export_softmax, NORMALISATIONS[config.normalisation])
    network = deployable(checkpoint, config, options)

    # ---- its output for a random image, to compare with
    images = random_images(options)
    expected = network(Tensor(images)).asnumpy()

    # ---- write
    ending = ENDINGS[config.file_format]
    path = Path(config.file_name.removesuffix(ending) + ending)
    export(network, options, path)
    print(f"{path}: {config.file_format}, {config.image_size}x{config.image_size} pixels, batches of "
          f"{options.batch_size or 'any size'}, {expected.shape[1]} "
          f"{'probabilities' if options.softmax else 'logits'}")

    # ---- verify: load it back
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

    # ---- how to use it
    training = checkpoint.training
    metadata = {"checkpoint": Path(config.pretrain_ckpt).name, "epoch": training.epoch if training else None,
                "width_mult": config.width_mult}
    write_description(describe(path, options, checkpoint.classes, expected.shape[1], metadata), path)


if __name__ == "__main__":
    run_command(main)
