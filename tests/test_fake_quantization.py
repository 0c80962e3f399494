"""Quantisation-aware training: the weights are those of an int8 export, the gradients those without rounding."""
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import config_for, few_blocks
from mindspore import Tensor, nn, ops

import train
from src.checkpoint.file import read_checkpoint
from src.cpu_kernels.cells import library_in_use
from src.errors import UserError
from src.fake_quantization import fake_quantize
from src.mobilenetV2 import MobileNetV2
from src.models import define_ema, define_net
from src.quantization.arithmetic import dequantize_weight, quantize_weight, weight_scales
from src.utils import load_weights

SHAPES = [(16, 24, 1, 1), (16, 7, 1, 1), (16, 1, 3, 3), (8, 3, 3, 3), (5, 24)]
WEIGHTS = Tensor(np.random.default_rng(4).standard_normal((4, 3)).astype(np.float32))
IMAGES = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_rounded_as_an_export_rounds_them(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    scales = weight_scales(weight)
    expected = dequantize_weight(quantize_weight(weight, scales), scales)
    np.testing.assert_allclose(fake_quantize(Tensor(weight)).asnumpy(), expected, atol=1e-6)
    assert np.abs(expected - weight).max() > 1e-3


def test_a_factor_on_a_channel_changes_nothing_else() -> None:
    """So a batch norm may be folded before or after rounding."""
    weight = np.random.default_rng(1).standard_normal((16, 24, 1, 1)).astype(np.float32)
    factors = np.random.default_rng(2).uniform(-3, 3, (16, 1, 1, 1)).astype(np.float32)
    np.testing.assert_allclose(fake_quantize(Tensor(weight * factors)).asnumpy(),
                               fake_quantize(Tensor(weight)).asnumpy() * factors, atol=1e-5)


def test_weights_of_zero_stay_zero() -> None:
    assert not fake_quantize(Tensor(np.zeros((2, 4, 1, 1), np.float32))).asnumpy().any()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_passes_straight_through(shape: tuple[int, ...]) -> None:
    weight = Tensor(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    factor = Tensor(np.random.default_rng(3).standard_normal(shape).astype(np.float32))

    def weighted(values: Tensor) -> Tensor:
        return (fake_quantize(values) * factor).sum()

    gradient = ms.grad(weighted)(weight)
    np.testing.assert_array_equal(gradient.asnumpy(), factor.asnumpy())


def loss_and_gradients(network: nn.Cell) -> tuple[Tensor, tuple[Tensor, ...]]:
    def loss(images: Tensor) -> Tensor:
        return (network(images) * WEIGHTS).sum()

    network.set_train()
    return ops.value_and_grad(loss, None, network.trainable_params())(Tensor(IMAGES))


@pytest.mark.parametrize("kernels", ["on", "off"])
def test_a_network_computes_with_rounded_weights(kernels: str) -> None:
    """Its output and its gradients are those of a plain network that holds the rounded weights."""
    with few_blocks():
        aware = define_net(config_for("--width_mult", 0.35, "--dropout", 0, "--qat", True, "--cpu_kernels", kernels), 3)
        plain = MobileNetV2(3, 0.35, dropout=0)
    assert (library_in_use(aware) is None) == (kernels == "off")
    for parameter, own in zip(plain.get_parameters(), aware.get_parameters(), strict=True):
        assert parameter.name == own.name
        values = own.asnumpy()
        if values.ndim > 1:
            scales = weight_scales(values)
            values = dequantize_weight(quantize_weight(values, scales), scales)
        parameter.set_data(Tensor(values))
    (loss, gradients), (expected_loss, expected) = loss_and_gradients(aware), loss_and_gradients(plain)
    assert float(loss.asnumpy()) == pytest.approx(float(expected_loss.asnumpy()), rel=1e-3)
    largest = max(np.abs(gradient.asnumpy()).max() for gradient in expected)
    for own, other, parameter in zip(gradients, expected, plain.trainable_params(), strict=True):
        np.testing.assert_allclose(own.asnumpy(), other.asnumpy(), atol=1e-4 * largest, err_msg=parameter.name)


def test_the_moving_average_is_rounded_too() -> None:
    with few_blocks():
        config = config_for("--width_mult", 0.35, "--qat", True, "--ema_decay", 0.9)
        network = define_net(config, 3)
        ema = define_ema(config, network)
    for each in (network, ema):
        each.set_train(False)
    np.testing.assert_array_equal(ema(Tensor(IMAGES)).asnumpy(), network(Tensor(IMAGES)).asnumpy())


def test_a_run_saves_plain_float_weights(photos: Path, tmp_path: Path) -> None:
    options = ("--platform", "CPU", "--image_size", 32, "--width_mult", 0.35, "--batch_size", 8, "--epoch_size", 1,
               "--qat", True, "--dataset_path", photos, "--save_checkpoint_path", tmp_path)
    with few_blocks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *map(str, options)])
        train.main()
        plain = MobileNetV2(3, 0.35)
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    load_weights(plain, checkpoint)
    assert checkpoint.config["qat"] is True
    weight = checkpoint.network["backbone.last.conv.weight"].asnumpy()
    assert np.abs(fake_quantize(Tensor(weight)).asnumpy() - weight).max() > 1e-3 * np.abs(weight).max()


def test_a_frozen_backbone_is_refused() -> None:
    with pytest.raises(UserError, match="--qat True trains the weights of all layers"):
        train.load_pretrained(config_for("--qat", True, "--freeze_layer", "backbone"))
