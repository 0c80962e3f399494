"""MobileNetV2, as in Table 2 of the paper, in stock MindSpore cells.

Sandler, Howard, Zhu, Zhmoginov, Chen: "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018, https://arxiv.org/abs/1801.04381.

Shapes are NCHW. N images of 3xHxW, H and W multiples of 32, give a feature map of N x C x H/32 x W/32.
"""
import functools
import math
from collections.abc import Callable

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

# Table 2: expansion t, output channels c, repetitions n, stride s of the first repetition.
INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280

# Zeros around an image of an even side, before a 3x3 convolution of stride 2: SYMMETRIC has a row before and one behind
# it, as the networks of PyTorch; SAME has one row behind it, as those of TensorFlow. Elsewhere the two are the same.
SYMMETRIC, SAME = "symmetric", "same"
PADDINGS = (SYMMETRIC, SAME)
BN_EPS = 1e-5  # TensorFlow's networks have 1e-3


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, never more than 10 % below it (as in the authors' TF-slim)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class ConvBN(nn.Cell):
    """Convolution (no bias, padding that keeps H and W at stride 1), batch normalisation and, by default, ReLU6."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, group: int = 1,
                 activation: bool = True, padding: str = SYMMETRIC, bn_eps: float = BN_EPS) -> None:
        super().__init__()
        fan_out = kernel_size ** 2 * out_channels // group
        pad_mode, border = ("same", 0) if padding == SAME else ("pad", kernel_size // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, pad_mode=pad_mode, padding=border,
                              group=group, has_bias=False, weight_init=Normal(math.sqrt(2 / fan_out)))
        self.bn = nn.BatchNorm2d(out_channels, eps=bn_eps)
        self.activation = nn.ReLU6() if activation else None

    def construct(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.activation is None else self.activation(x)


class InvertedResidual(nn.Cell):
    """Section 3.3: 1x1 expansion, 3x3 depthwise, linear 1x1 projection, and the shortcut where shapes allow it."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand_ratio: int,
                 conv_bn: Callable[..., ConvBN] = ConvBN) -> None:
        super().__init__()
        hidden = in_channels * expand_ratio
        self.expand = conv_bn(in_channels, hidden) if expand_ratio != 1 else None
        self.depthwise = conv_bn(hidden, hidden, kernel_size=3, stride=stride, group=hidden)
        self.project = conv_bn(hidden, out_channels, activation=False)
        self.use_shortcut = stride == 1 and in_channels == out_channels

    def construct(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.use_shortcut else y


class MobileNetV2Backbone(nn.Cell):
    """Everything before the pooling: N x 3 x H x W images to N x `out_channels` x H/32 x W/32 features.

    `width_mult` scales the channels of every layer; below 1 it leaves the last layer at 1280 (section 5 of the paper).
    `padding` is one of PADDINGS, `bn_eps` what a batch normalisation adds to the variance.
    """

    def __init__(self, width_mult: float = 1.0, padding: str = SYMMETRIC, bn_eps: float = BN_EPS) -> None:
        super().__init__()
        self.padding, self.bn_eps = padding, bn_eps
        conv_bn = functools.partial(ConvBN, padding=padding, bn_eps=bn_eps)
        channels = make_divisible(STEM_CHANNELS * width_mult)
        self.stem = conv_bn(3, channels, kernel_size=3, stride=2)
        blocks = []
        for expand_ratio, c, repetitions, first_stride in INVERTED_RESIDUALS:
            out_channels = make_divisible(c * width_mult)
            for i in range(repetitions):
                stride = first_stride if i == 0 else 1
                blocks.append(InvertedResidual(channels, out_channels, stride, expand_ratio, conv_bn))
                channels = out_channels
        self.blocks = nn.SequentialCell(blocks)
        self.out_channels = make_divisible(LAST_CHANNELS * max(1.0, width_mult))
        self.last = conv_bn(channels, self.out_channels)

    def construct(self, images: Tensor) -> Tensor:
        return self.last(self.blocks(self.stem(images)))


class MobileNetV2Head(nn.Cell):
    """Global average pooling, dropout and the classifier: N x C x h x w features to N x `num_classes` logits.

    Pooling a map of 1x1 changes nothing, so the head takes features that are pooled already just as well.
    """

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        self.classifier = nn.Dense(in_channels, num_classes, weight_init=Normal(0.01), bias_init="zeros")

    def construct(self, features: Tensor) -> Tensor:
        return self.classifier(self.dropout(ops.mean(features, (2, 3))))


class MobileNetV2(nn.Cell):
    """N x 3 x H x W normalised RGB images to N x `num_classes` logits.

    Args:
        num_classes: number of classes.
        width_mult: the paper's width multiplier, .35 to 1.4.
        dropout: share of the pooled features that training sets to zero.
        padding: one of PADDINGS.
        bn_eps: what a batch normalisation adds to the variance.
    """

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0, dropout: float = 0.2,
                 padding: str = SYMMETRIC, bn_eps: float = BN_EPS) -> None:
        super().__init__()
        self.backbone = MobileNetV2Backbone(width_mult, padding, bn_eps)
        self.head = MobileNetV2Head(self.backbone.out_channels, num_classes, dropout)

    def construct(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))
