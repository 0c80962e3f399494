"""The network is the paper's: parameters, multiply-adds, shapes and initial weights."""
import math
from collections.abc import Iterator

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.mobilenetV2 import (
    INVERTED_RESIDUALS,
    ConvBN,
    InvertedResidual,
    MobileNetV2,
    MobileNetV2Backbone,
    MobileNetV2Head,
    make_divisible,
)

# Of the architecture with 1000 classes: width, parameters in millions, multiply-adds at 224x224 in millions.
BY_WIDTH = [(0.35, 1.677, 59), (0.5, 1.969, 97), (0.75, 2.636, 209), (1.0, 3.505, 301), (1.3, 5.387, 509),
            (1.4, 6.109, 582)]
BY_SIZE = [(192, 221), (160, 154), (128, 99), (96, 56)]


@pytest.fixture
def eager() -> Iterator[None]:
    """Cell by cell, so that hooks see each one."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def multiply_adds(network: nn.Cell, size: int) -> int:
    """Counted while one image passes through the cells."""
    counts = []

    def count(cell: nn.Cell, inputs: tuple, output: Tensor) -> None:
        weight = cell.weight
        per_output = math.prod(weight.shape[1:])  # inputs that one output element is summed over
        counts.append(output.size * per_output)

    hooks = [cell.register_forward_hook(count) for _, cell in network.cells_and_names()
             if isinstance(cell, nn.Conv2d | nn.Dense)]
    network.set_train(False)
    network(Tensor(np.zeros((1, 3, size, size), np.float32)))
    for hook in hooks:
        hook.remove()
    assert len(counts) == len(hooks)
    return sum(counts)


@pytest.mark.parametrize(("width", "millions", "mmacs"), BY_WIDTH)
@pytest.mark.usefixtures("eager")
def test_parameters_and_multiply_adds_by_width(width: float, millions: float, mmacs: int) -> None:
    network = MobileNetV2(1000, width)
    assert sum(p.size for p in network.trainable_params()) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert round(multiply_adds(network, 224) / 1e6) == mmacs


@pytest.mark.usefixtures("eager")
def test_multiply_adds_by_size_are_the_published_ones() -> None:
    network = MobileNetV2(1000)
    assert [round(multiply_adds(network, size) / 1e6) for size, _ in BY_SIZE] == [mmacs for _, mmacs in BY_SIZE]


def test_exact_parameters_at_width_1() -> None:
    network = MobileNetV2(1000)
    assert sum(p.size for p in network.trainable_params()) == 3_504_872
    assert sum(p.size for p in network.get_parameters()) == 3_538_984  # with the batch norm statistics


def test_blocks_are_table_2() -> None:
    backbone = MobileNetV2Backbone()
    blocks = list(backbone.blocks)
    assert len(blocks) == 17
    expected = [(c, s if i == 0 else 1, t) for t, c, n, s in INVERTED_RESIDUALS for i in range(n)]
    for block, (channels, stride, expansion) in zip(blocks, expected, strict=True):
        hidden = block.depthwise.conv.in_channels
        assert block.project.conv.out_channels == channels
        assert block.depthwise.conv.stride == (stride, stride)
        assert block.depthwise.conv.group == hidden == block.depthwise.conv.out_channels
        assert (block.expand is None) == (expansion == 1)
        assert hidden == expansion * (block.expand.conv.in_channels if block.expand else hidden)
        assert block.project.activation is None  # linear bottleneck
        assert isinstance(block.depthwise.activation, nn.ReLU6)
    assert sum(block.use_shortcut for block in blocks) == 10
    assert (backbone.stem.conv.out_channels, backbone.stem.conv.stride) == (32, (2, 2))


@pytest.mark.parametrize(("channels", "rounded"), [(1, 8), (11.2, 16), (32, 32), (33.6, 32), (35.5, 32), (35.9, 40),
                                                   (42, 40), (44.8, 48), (22.4, 24), (12, 16), (1792, 1792)])
def test_channels_are_rounded_to_a_multiple_of_8(channels: float, rounded: int) -> None:
    assert make_divisible(channels) == rounded
    assert make_divisible(channels) >= 0.9 * channels


@pytest.mark.parametrize(("width", "last"), [(0.35, 1280), (1.0, 1280), (1.4, 1792)])
def test_last_layer_never_shrinks(width: float, last: int) -> None:
    assert MobileNetV2Backbone(width).out_channels == last


def test_shapes_for_sizes_that_are_multiples_of_32() -> None:
    backbone, head = MobileNetV2Backbone(0.35), MobileNetV2Head(1280, 7)
    backbone.set_train(False)
    head.set_train(False)
    for height, width in ((32, 32), (64, 96)):
        features = backbone(Tensor(np.zeros((2, 3, height, width), np.float32)))
        assert features.shape == (2, 1280, height // 32, width // 32)
        assert head(features).shape == (2, 7)


def test_head_takes_pooled_features_just_as_well() -> None:
    head = MobileNetV2Head(16, 3)
    head.set_train(False)
    features = np.random.default_rng(0).standard_normal((4, 16, 3, 3), dtype=np.float32)
    pooled = features.mean(axis=(2, 3), keepdims=True)
    logits = head(Tensor(features)).asnumpy()
    np.testing.assert_allclose(head(Tensor(pooled)).asnumpy(), logits, atol=1e-6)
    weight, bias = head.classifier.weight.asnumpy(), head.classifier.bias.asnumpy()
    np.testing.assert_allclose(logits, pooled[:, :, 0, 0] @ weight.T + bias, atol=1e-6)


def test_inverted_residual_adds_its_input_where_shapes_allow() -> None:
    block = InvertedResidual(8, 8, stride=1, expand_ratio=6)
    block.set_train(False)
    x = Tensor(np.random.default_rng(0).standard_normal((1, 8, 4, 4), dtype=np.float32))
    with_shortcut = block(x).asnumpy()
    inner = block.project(block.depthwise(block.expand(x))).asnumpy()
    np.testing.assert_allclose(with_shortcut, x.asnumpy() + inner, atol=1e-5)
    assert not InvertedResidual(8, 8, stride=2, expand_ratio=6).use_shortcut
    assert not InvertedResidual(8, 16, stride=1, expand_ratio=6).use_shortcut


@pytest.mark.parametrize(("kernel", "group", "out", "std"), [(1, 1, 256, math.sqrt(2 / 256)),
                                                             (3, 256, 256, math.sqrt(2 / 9)),
                                                             (3, 1, 256, math.sqrt(2 / (9 * 256)))])
def test_convolutions_start_with_he_fan_out_within_the_group(kernel: int, group: int, out: int, std: float) -> None:
    weight = ConvBN(256, out, kernel, group=group).conv.weight.asnumpy()
    assert weight.std() == pytest.approx(std, rel=0.1)


def test_dropout_is_the_papers_by_default() -> None:
    assert MobileNetV2().head.dropout.p == 0.2
