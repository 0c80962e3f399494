"""The arithmetic of training: the whole network's steps against PyTorch's, and the fast kernels' against stock cells'.

The conditions are those of tests/fixtures/make_torch_reference.py, which tells why: 8 classes, batches of 32 images
of 32x32, a rate that rises to .002 in ten steps, momentum, decay of all parameters, label smoothing; initial values
that keep most activations where ReLU6 is the identity.
"""
import functools
import re
from typing import NamedTuple

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT, config_for
from mindspore import Tensor

from src.cpu_kernels.compiler import KernelsUnavailable
from src.mobilenetV2 import MobileNetV2
from src.models import CrossEntropyWithLabelSmooth, define_net
from src.training.optimizer import build_optimizer
from src.training.step import TrainStep, batch_norm_statistics
from tests.fixtures import make_torch_reference as reference

LOSS, PARAMETER, GRADIENT = 1e-3, 1e-4, 1e-4
MOVED = 5e-4  # five times what parameters may differ by
WITHOUT_EFFECT = "project.bn.beta"  # batch norm follows these again, so that a constant makes no difference


class Trained(NamedTuple):
    """What a run of `reference.STEPS` steps left."""

    losses: np.ndarray
    names: list[str]
    start: list[np.ndarray]  # of the trainable parameters
    trained: list[np.ndarray]
    statistics: list[np.ndarray]  # moving means, then variances


def calm_network(cpu_kernels: str) -> MobileNetV2:
    try:
        network = define_net(config_for("--cpu_kernels", cpu_kernels, "--dropout", 0), reference.CLASSES)
    except KernelsUnavailable as reason:
        pytest.skip(str(reason))
    parameters = network.trainable_params()
    values = reference.initial_values([parameter.shape for parameter in parameters])
    for parameter, value in zip(parameters, values, strict=True):
        parameter.set_data(Tensor(value))
    return network


@functools.cache
def train(cpu_kernels: str) -> Trained:
    config = config_for("--cpu_kernels", cpu_kernels, "--momentum", reference.MOMENTUM, "--weight_decay",
                        reference.WEIGHT_DECAY, "--norm_bias_decay", "True")
    network = calm_network(cpu_kernels)
    parameters = network.trainable_params()
    start = [parameter.asnumpy().copy() for parameter in parameters]
    step = TrainStep(network, CrossEntropyWithLabelSmooth(reference.LABEL_SMOOTH),
                     build_optimizer(network, reference.LEARNING_RATES, config), config)
    step.set_train()
    losses = [float(step(Tensor(images), Tensor(labels))[0].asnumpy()) for images, labels in reference.batches()]
    statistics = sorted(batch_norm_statistics(network), key=lambda parameter: parameter.name.rpartition(".")[2])
    return Trained(np.array(losses), [p.name for p in parameters], start, [p.asnumpy().copy() for p in parameters],
                   [p.asnumpy().copy() for p in statistics])


@pytest.mark.parametrize("cpu_kernels", ["on", "off"])
def test_thirty_steps_are_pytorch_s(cpu_kernels: str) -> None:
    found, expected = train(cpu_kernels), np.load(ROOT / "tests" / "fixtures" / "torch_reference.npz")
    np.testing.assert_allclose(found.losses, expected["losses"], rtol=LOSS)
    for name, ours, theirs in zip(found.names, reference.sample(found.trained), expected["trained"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=PARAMETER, err_msg=name)
    for ours, theirs in zip(reference.sample(found.statistics), expected["statistics"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=PARAMETER, atol=PARAMETER)


def test_thirty_steps_move_the_parameters() -> None:
    """Else parameters that are hardly trained would agree, too."""
    run = train("off")
    for name, start, end in zip(run.names, run.start, run.trained, strict=True):
        if not name.endswith(WITHOUT_EFFECT):
            assert np.abs(end - start).max() > MOVED, name
    assert run.losses[-5:].mean() < 0.7 * run.losses[:5].mean()


def test_fast_kernels_stay_with_the_stock_loss() -> None:
    """The whole network, thirty steps; chosen: the calm conditions above, in which rounding does not grow."""
    np.testing.assert_allclose(train("on").losses, train("off").losses, rtol=LOSS)


def backbone_gradients(cpu_kernels: str) -> dict[str, np.ndarray]:
    """Of a weighted sum of the features of the first batch, by the images and by each parameter."""
    images, _ = next(reference.batches())
    backbone = calm_network(cpu_kernels).backbone
    backbone.set_train()
    weights = Tensor(np.random.default_rng(4).standard_normal((len(images), 1280, 1, 1)).astype(np.float32))

    def loss(images: Tensor) -> Tensor:
        return (backbone(images) * weights).sum()

    parameters = backbone.trainable_params()
    of_images, of_parameters = ms.grad(loss, 0, parameters)(Tensor(images))
    gradients = {p.name: gradient.asnumpy() for p, gradient in zip(parameters, of_parameters, strict=True)}
    return gradients | {"images": of_images.asnumpy()}


def test_gradients_of_the_whole_backbone_are_the_stock_ones() -> None:
    """Those of a layer within 1e-4 of the largest entry among them, at the calm initial values.

    Of the layer: rounding alone makes the gradient of a beta that is `WITHOUT_EFFECT`.
    """
    stock, ours = backbone_gradients("off"), backbone_gradients("on")
    layers: dict[str, list[str]] = {}
    for name in stock:
        layers.setdefault(re.sub(r"\.(conv|bn)\..*", "", name), []).append(name)
    for layer, names in layers.items():
        largest = max(np.abs(stock[name]).max() for name in names)
        for name in names:
            assert np.abs(ours[name] - stock[name]).max() <= GRADIENT * largest, (layer, name)
