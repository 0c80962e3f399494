"""The work that all frameworks are to do: a new network, images, and what this project computes from them.

    python tools/peers/prepare.py --folder work --batch_size 32,8,1 --image_size 224 --mode train,eval

Logits are those of the stock cells of src/mobilenetV2.py. Losses are those of train.py's step.
"""
import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mindspore import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.distributed.device import setup_device
from src.errors import run_command
from src.model_utils.config import get_config
from src.models import define_net
from src.utils import load_weights, network_parameters
from tools.benchmark import CLASSES, training
from tools.peers.work import IMAGES, LABELS, LOGITS, PARAMETERS, PROVEN_IMAGES, SETTINGS

CHECKPOINT = "network.ckpt"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the folder that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where to write")
    parser.add_argument("--batch_size", required=True, help="numbers of images, with commas between")
    parser.add_argument("--image_size", type=int, required=True, help="pixels a side")
    parser.add_argument("--mode", required=True, help="train, eval, latency, with commas between")
    options = parser.parse_args(argv)
    batch_sizes = [int(size) for size in options.batch_size.split(",")]
    # Without dropout, which no two frameworks draw alike.
    config = get_config(["--platform", "CPU", "--image_size", str(options.image_size), "--dropout", "0"])
    setup_device(config)
    random = np.random.default_rng(0)
    shape = (max(batch_sizes), 3, options.image_size, options.image_size)
    images = random.standard_normal(shape).astype(np.float32)
    labels = random.integers(0, CLASSES, len(images)).astype(np.int32)
    np.save(options.folder / IMAGES, images)
    np.save(options.folder / LABELS, labels)

    # ---- the network, and what it says
    stock = define_net(config.replace({"cpu_kernels": "off"}), CLASSES)
    parameters = network_parameters(stock)
    metadata = CheckpointMetadata({"image_size": config.image_size, "width_mult": config.width_mult})
    write_checkpoint(options.folder / CHECKPOINT, parameters, {}, metadata)
    np.savez(options.folder / PARAMETERS, **{name: value.asnumpy() for name, value in parameters.items()})
    logits = stock.set_train(False)(Tensor(images[:PROVEN_IMAGES]))
    np.save(options.folder / LOGITS, logits.asnumpy())

    # ---- its first losses in training
    losses = {}
    for size in batch_sizes if "train" in options.mode.split(",") else ():
        network = define_net(config, CLASSES)
        load_weights(network, read_checkpoint(options.folder / CHECKPOINT))
        run = training(network, config, Tensor(images[:size]), Tensor(labels[:size]))
        losses[size] = [run(), run()]
    settings = {"label_smooth": config.label_smooth, "learning_rate": config.lr_max, "momentum": config.momentum,
                "weight_decay": config.weight_decay, "classes": CLASSES, "losses": losses,
                "trainable_parameters": sum(parameter.size for parameter in stock.trainable_params())}
    (options.folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
