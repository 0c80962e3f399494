"""MindSpore Hub calls this file to get the network: `mshub.load("mindspore/.../mobilenetv2_...", num_classes=1000)`.

The loader puts this folder on `sys.path`, loads this file by its path and calls `create_network` with the name in small
letters and the caller's further arguments: https://gitee.com/mindspore/hub/blob/master/mindspore_hub/load.py
"""
from pathlib import Path

from mindspore import nn

from src.checkpoint.pretrained import open_pretrained
from src.mobilenetV2 import MobileNetV2
from src.model_utils.config import get_config
from src.model_utils.keys import NETWORK_KEYS
from src.utils import class_count, load_weights

NAMES = ("mobilenetv2", "mobilenet_v2")


def create_network(name: str, *args: object, **kwargs: object) -> nn.Cell:
    """A network of stock MindSpore cells, for any platform.

    Args:
        name: "mobilenetv2".
        args: see `mobilenetv2`.
        kwargs: see `mobilenetv2`.

    Raises:
        NotImplementedError: there is no network of that name here.
        UserError: the checkpoint cannot be read, or is not of this network.
    """
    if name.lower() not in NAMES:
        raise NotImplementedError(f"{name} is not a network of this repository; there is mobilenetv2")
    return mobilenetv2(*args, **kwargs)  # type: ignore[arg-type]


def mobilenetv2(num_classes: int | None = None, include_top: bool = True, width_mult: float | None = None,
                dropout: float = 0.2, pretrain_ckpt: str | Path | None = None, filter_head: bool = False) -> nn.Cell:
    """MobileNetV2: N x 3 x H x W normalised images, H and W multiples of 32, to N x `num_classes` logits.

    Without the top, to N x C x H/32 x W/32 features; C is the cell's `out_channels`.

    Args:
        num_classes: number of classes; by default those of the checkpoint, or 1000.
        include_top: whether there is a classifier.
        width_mult: width multiplier, .35 to 1.4; by default that of the checkpoint, or 1.
        dropout: share of the pooled features set to zero in training.
        pretrain_ckpt: a checkpoint to load, or weights of another project (docs/weights.md); without it the weights
            are new.
        filter_head: load the backbone alone, as for other classes than the checkpoint was trained on.

    Raises:
        TypeError: an argument that is none of these.
        UserError: the checkpoint cannot be read, or is not of this network.
    """
    checkpoint = open_pretrained(pretrain_ckpt) if pretrain_ckpt else None
    config = get_config([])
    if checkpoint:
        config = config.adopt(checkpoint.config, *NETWORK_KEYS, where=checkpoint.path)
        num_classes = num_classes or class_count(checkpoint)
    network = MobileNetV2(num_classes or 1000, width_mult or config.width_mult, dropout, config.padding, config.bn_eps)
    if checkpoint:
        load_weights(network, checkpoint, filter_head=filter_head or not include_top)
    return network if include_top else network.backbone
