"""MobileNetV2, Table 2 of the paper, in plain PyTorch; modules are named as the cells of src/mobilenetV2.py."""
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

# Expansion t, output channels c, repetitions n, stride s of the first repetition. Once more, for src/mobilenetV2.py
# needs MindSpore, which PyTorch's environment does not have.
INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# What MindSpore calls the parameters of a batch normalisation, and what PyTorch does.
NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


class ConvBN(nn.Module):
    """Convolution without bias, batch normalisation and, by default, ReLU6."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1,
                 activation: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups,
                              bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU6(inplace=True) if activation else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x C x H x W to N x out_channels x H/stride x W/stride."""
        return self.activation(self.bn(self.conv(x)))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection, and the shortcut where shapes allow it."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        hidden = in_channels * expand_ratio
        self.expand = ConvBN(in_channels, hidden) if expand_ratio != 1 else nn.Identity()
        self.depthwise = ConvBN(hidden, hidden, 3, stride, groups=hidden)
        self.project = ConvBN(hidden, out_channels, activation=False)
        self.use_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x C x H x W to N x out_channels x H/stride x W/stride."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.use_shortcut else y


class MobileNetV2(nn.Module):
    """N x 3 x H x W images to N x `classes` logits, width 1.0.

    Parameters come in the order of computation.
    """

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        channels, blocks = 32, []
        stem = ConvBN(3, channels, 3, 2)
        for expand_ratio, out_channels, repetitions, first_stride in INVERTED_RESIDUALS:
            for number in range(repetitions):
                blocks.append(InvertedResidual(channels, out_channels, 1 if number else first_stride, expand_ratio))
                channels = out_channels
        parts = {"stem": stem, "blocks": nn.Sequential(*blocks), "last": ConvBN(channels, 1280)}
        self.backbone = nn.Sequential(OrderedDict(parts))
        self.head = nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), classifier=nn.Linear(1280, classes)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(self.backbone(images).mean((2, 3)))

    def load(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Take over the parameters of this project's network, all of them."""
        counters = {name: value for name, value in self.state_dict().items() if name.endswith("num_batches_tracked")}
        values = {}
        for name, value in parameters.items():
            layer, _, kind = name.rpartition(".")
            values[f"{layer}.{NAMES.get(kind, kind)}"] = torch.from_numpy(value)
        self.load_state_dict(values | counters)
