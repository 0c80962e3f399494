"""The accelerated cells against the stock cells that they replace."""
import functools
from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from conftest import config_for
from mindspore import Tensor, nn, ops

from src.cpu_kernels import accelerate, accelerate_optimizer, ema_update
from src.cpu_kernels.cells import Shape
from src.cpu_kernels.optimizer import AcceleratedEmaUpdate, AcceleratedMomentum
from src.fake_quantization import make_quantization_aware
from src.mobilenetV2 import PADDINGS, SAME, ConvBN, InvertedResidual, MobileNetV2, MobileNetV2Backbone, MobileNetV2Head
from src.model_utils.config import Config
from src.momentum import Momentum
from src.training.optimizer import build_optimizer

FORWARD, GRADIENT, STATISTICS = 1e-5, 1e-4, 1e-5


def fill(network: nn.Cell, seed: int = 0) -> None:
    """Weights that keep activations in ReLU6's range, and statistics that are not the initial ones."""
    random = np.random.default_rng(seed)
    for parameter in network.get_parameters():
        value = random.standard_normal(parameter.shape)
        if parameter.ndim == 4:
            value *= 1 / np.sqrt(np.prod(parameter.shape[1:]))
        elif parameter.name.endswith("variance"):
            value = np.abs(value) + 0.3
        elif parameter.name.endswith("gamma"):
            value = 1 + 0.2 * value
        parameter.set_data(Tensor(value.astype(np.float32)))


def pair(make: Callable[[], nn.Cell], train: bool) -> tuple[nn.Cell, nn.Cell]:
    """The stock cell and an equal one, accelerated."""
    cells = make(), make()
    for cell in cells:
        fill(cell)
        cell.set_train(train)
    assert accelerate(cells[1], "on").startswith("CPU kernels: on")
    return cells


def results(cell: nn.Cell, x: np.ndarray) -> dict[str, np.ndarray]:
    """Output, moving statistics after one forward pass, and all gradients of a weighted sum of the output."""
    found = {"output": cell(Tensor(x)).asnumpy()}
    weights = Tensor(np.random.default_rng(5).standard_normal(found["output"].shape).astype(np.float32))
    found |= {p.name: p.asnumpy().copy() for p in cell.get_parameters() if not p.requires_grad}

    def loss(x: Tensor) -> Tensor:
        return (cell(x) * weights).sum()

    parameters = cell.trainable_params()
    of_input, of_parameters = ms.grad(loss, 0, parameters)(Tensor(x))
    found["input gradient"] = of_input.asnumpy()
    return found | {f"{p.name} gradient": g.asnumpy() for p, g in zip(parameters, of_parameters, strict=True)}


def assert_equal(stock: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> None:
    assert stock.keys() == ours.keys()
    for name, expected in stock.items():
        limit = FORWARD if name == "output" else GRADIENT if name.endswith("gradient") else STATISTICS
        assert ours[name].shape == expected.shape
        # A gradient through batch normalisation may be a difference of equals: what is left of 1 then is rounding.
        rounding = 5e-6 if name.endswith("gradient") else 1e-7
        assert np.abs(ours[name] - expected).max() <= limit * np.abs(expected).max() + rounding, name


SAME_CONV = functools.partial(ConvBN, padding=SAME, bn_eps=1e-3)
CELLS = {
    "1x1": (lambda: ConvBN(24, 40), (3, 24, 9, 11)),
    "1x1, one channel, one pixel an image": (lambda: ConvBN(1, 1, activation=False), (3, 1, 1, 1)),
    "1x1, odd channels, one image": (lambda: ConvBN(5, 71), (1, 5, 3, 50)),
    "1x1, more than a tile": (lambda: ConvBN(40, 24, activation=False), (2, 40, 19, 31)),
    "depthwise": (lambda: ConvBN(48, 48, 3, 1, 48), (2, 48, 7, 10)),
    "depthwise, one channel": (lambda: ConvBN(1, 1, 3, 1, 1), (2, 1, 5, 4)),
    "depthwise, one pixel an image": (lambda: ConvBN(17, 17, 3, 1, 17), (4, 17, 1, 1)),
    "depthwise, stride 2, odd sides": (lambda: ConvBN(17, 17, 3, 2, 17), (2, 17, 9, 5)),
    "depthwise, stride 2, even and odd": (lambda: ConvBN(33, 33, 3, 2, 33), (2, 33, 6, 7)),
    "depthwise, stride 2, SAME, even sides": (lambda: ConvBN(17, 17, 3, 2, 17, padding=SAME), (2, 17, 6, 8)),
    "depthwise, stride 2, SAME, even and odd": (lambda: ConvBN(33, 33, 3, 2, 33, padding=SAME), (2, 33, 10, 7)),
    "depthwise, stride 2, SAME, odd and even": (lambda: ConvBN(16, 16, 3, 2, 16, padding=SAME), (2, 16, 7, 2)),
    "full": (lambda: ConvBN(3, 24, 3, 1), (2, 3, 5, 8)),
    "full, stride 2": (lambda: ConvBN(3, 8, 3, 2), (2, 3, 9, 6)),
    "full, stride 2, SAME": (lambda: ConvBN(3, 8, 3, 2, padding=SAME), (2, 3, 8, 7)),
    "block with shortcut": (lambda: InvertedResidual(8, 8, 1, 6), (2, 8, 6, 5)),
    "block with stride": (lambda: InvertedResidual(8, 24, 2, 6), (3, 8, 7, 5)),
    "block with stride, SAME": (lambda: InvertedResidual(8, 24, 2, 6, SAME_CONV), (3, 8, 8, 6)),
    "block with stride, SAME, row tiles": (lambda: InvertedResidual(8, 8, 2, 6, SAME_CONV), (1, 8, 64, 34)),
    "block without expansion": (lambda: InvertedResidual(16, 16, 1, 1), (2, 16, 4, 6)),
    "block with rows longer than a tile": (lambda: InvertedResidual(8, 8, 1, 6), (1, 8, 5, 250)),
    "block with stride, many small images": (lambda: InvertedResidual(8, 8, 2, 6), (40, 8, 5, 7)),
    "several cells": (lambda: nn.SequentialCell(ConvBN(3, 8, 3, 2), nn.ReLU(), InvertedResidual(8, 8, 1, 6)),
                      (2, 3, 9, 8)),
}


@pytest.mark.parametrize("name", CELLS)
def test_training_like_stock_cells(name: str) -> None:
    make, shape = CELLS[name]
    stock, ours = pair(make, train=True)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    assert_equal(results(stock, x), results(ours, x))


@pytest.mark.parametrize("name", CELLS)
def test_evaluation_like_stock_cells(name: str) -> None:
    make, shape = CELLS[name]
    stock, ours = pair(make, train=False)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    assert_equal(results(stock, x), results(ours, x))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("train", [True, False])
def test_network_pools_like_its_head(train: bool, padding: str) -> None:
    """The kernels pool in a whole network; the framework does behind a backbone."""
    networks = [MobileNetV2(3, 0.35, dropout=0.0, padding=padding) for _ in range(2)]
    for network in networks:
        fill(network)
        network.set_train(train)
    accelerate(networks[0].backbone, "on")
    accelerate(networks[1], "on")
    x = np.random.default_rng(1).standard_normal((4, 3, 64, 96)).astype(np.float32)
    assert_equal(*(results(network, x) for network in networks))


@pytest.mark.parametrize("qat", [False, True])
def test_a_whole_network_scores_and_has_gradients_as_the_stock_one(qat: bool) -> None:
    """In evaluation the classifier, whose number of classes fills no tile here, is part of the operator."""
    def make() -> MobileNetV2:
        network = MobileNetV2(11, 0.35)
        if qat:
            make_quantization_aware(network)
        return network

    stock, ours = pair(make, train=False)
    x = np.random.default_rng(1).standard_normal((3, 3, 64, 32)).astype(np.float32)
    assert_equal(results(stock, x), results(ours, x))


def test_a_head_of_another_kind_stays() -> None:
    class TwiceTheLogits(MobileNetV2Head):
        def construct(self, features: Tensor) -> Tensor:
            return 2 * self.classifier(ops.mean(features, (2, 3)))

    def make() -> MobileNetV2:
        network = MobileNetV2(3, 0.35)
        network.head = TwiceTheLogits(network.backbone.out_channels, 3)
        return network

    stock, ours = pair(make, train=False)
    x = np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32)
    assert_equal({"output": stock(Tensor(x)).asnumpy()}, {"output": ours(Tensor(x)).asnumpy()})


@pytest.mark.parametrize("width_mult", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
def test_every_width(width_mult: float) -> None:
    """Also: images that are not square, and more of them than one task takes."""
    stock, ours = pair(lambda: MobileNetV2Backbone(width_mult), train=False)
    x = Tensor(np.random.default_rng(2).standard_normal((9, 3, 32, 64)).astype(np.float32))
    expected, found = stock(x[:2]).asnumpy(), ours(x).asnumpy()
    assert np.abs(found[:2] - expected).max() <= FORWARD * np.abs(expected).max()


def test_variance_far_from_zero() -> None:
    """A mean a thousand times the deviation must not cost the variance its digits."""
    x = 1000 + np.random.default_rng(3).standard_normal((4, 3, 16, 16))
    cell = ConvBN(3, 3, activation=False)
    cell.conv.weight.set_data(Tensor(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)))
    cell.set_train()
    accelerate(cell, "on")
    x = x.astype(np.float32)
    cell(Tensor(x))
    expected = 0.9 + 0.1 * x.astype(np.float64).var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(cell.bn.moving_variance.asnumpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["1x1", "depthwise", "full", "block with shortcut"])
def test_nan_and_infinity_stay_where_they_are(name: str, value: float, train: bool) -> None:
    make, shape = CELLS[name]
    stock, ours = pair(make, train)
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    x[0, 0, 1, 1] = value
    expected, found = stock(Tensor(x)).asnumpy(), ours(Tensor(x)).asnumpy()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", [(0, 0, 1, 1), (0, 0, 0, 0)], ids=["within", "first"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["1x1", "depthwise", "full", "block with shortcut"])
def test_moving_statistics_meet_nan_and_infinity_as_the_stock_ones(name: str, value: float, place: Shape) -> None:
    make, shape = CELLS[name]
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    x[place] = value
    stock, ours = pair(make, train=True)
    for _ in range(2):  # the second time the moving mean is infinite, too
        for cell in (stock, ours):
            cell(Tensor(x))
        for expected, found in zip(stock.get_parameters(), ours.get_parameters(), strict=True):
            np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), rtol=1e-4, atol=1e-4, err_msg=found.name)


class SmallNetwork(nn.Cell):
    """All kinds of cells, few of them. In the whole network, freshly initialised, a change of one input by 1e-6 moves
    the stock loss by more than 1e-3 within three steps; test_torch_reference.py trains it from calmer values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.SequentialCell(ConvBN(3, 8, 3, 2), InvertedResidual(8, 8, 1, 6),
                                          InvertedResidual(8, 16, 2, 6), ConvBN(16, 32))
        self.head = MobileNetV2Head(32, 4, dropout=0.0)

    def construct(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Step(nn.Cell):
    """Forward, backward, update."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network, self.loss = network, nn.CrossEntropyLoss()
        self.optimizer = nn.Momentum(network.trainable_params(), 0.01, 0.9, weight_decay=4e-5)
        self.gradients = ops.value_and_grad(self.forward, None, self.optimizer.parameters)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.loss(self.network(images), labels)

    def construct(self, images: Tensor, labels: Tensor) -> Tensor:
        loss, gradients = self.gradients(images, labels)
        return ops.depend(loss, self.optimizer(gradients))


def train(kernels: str, steps: int) -> tuple[list[float], nn.Cell]:
    ms.set_seed(0)
    network = SmallNetwork()
    accelerate(network, kernels)
    step = Step(network)
    step.set_train()
    random = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        labels = random.integers(0, 4, 16)
        images = 0.3 * random.standard_normal((16, 3, 32, 32)) + labels.reshape(-1, 1, 1, 1) / 2
        losses.append(float(step(Tensor(images, ms.float32), Tensor(labels, ms.int32))))
    return losses, network


def test_twenty_steps_stay_with_the_stock_loss() -> None:
    stock, ours = train("off", 20)[0], train("on", 20)[0]
    np.testing.assert_allclose(ours, stock, rtol=1e-3)


def test_runs_are_bit_identical_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, network = train("on", 3)
    again = train("on", 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = train("on", 3)
    for other_losses, other in (again, alone):
        assert other_losses == losses
        for a, b in zip(network.get_parameters(), other.get_parameters(), strict=True):
            np.testing.assert_array_equal(a.asnumpy(), b.asnumpy(), strict=True)


def test_same_object_parameters_and_modes() -> None:
    """In place, the same names in the same order, and `set_train` works on an accelerated network as on a stock one."""
    network = MobileNetV2(num_classes=3, width_mult=0.35)
    parameters = dict(network.parameters_and_names())
    order, backbone = [id(p) for p in network.trainable_params()], network.backbone
    accelerate(network, "on")
    assert network.backbone is backbone
    assert [id(p) for p in network.trainable_params()] == order
    assert {name: id(p) for name, p in network.parameters_and_names()} == {n: id(p) for n, p in parameters.items()}
    assert all(name == p.name for name, p in network.parameters_and_names())
    x = Tensor(np.random.default_rng(6).standard_normal((2, 3, 32, 32)).astype(np.float32))
    moving_mean = network.backbone.stem.bn.moving_mean
    network.set_train(False)
    network(x)
    assert not moving_mean.asnumpy().any()
    network.set_train(True)
    network(x)
    after_training = moving_mean.asnumpy().copy()
    assert after_training.any()
    network.set_train(False)
    network(x)
    np.testing.assert_array_equal(moving_mean.asnumpy(), after_training)


def test_evaluation_sees_each_change_of_a_parameter() -> None:
    """Folded weights are kept from one call to the next, but only while all parameters stay as they are."""
    stock, ours = pair(lambda: InvertedResidual(8, 24, 2, 6), train=False)
    x = Tensor(np.random.default_rng(1).standard_normal((1, 8, 7, 5)).astype(np.float32))
    first = ours(x).asnumpy()
    for parameter in [p for _, p in ours.parameters_and_names()]:
        changed, before = dict(stock.parameters_and_names())[parameter.name], parameter.asnumpy().copy()
        value = 1.5 * before + 0.1
        for each in (parameter, changed):
            ops.assign(each, Tensor(value))
        found, expected = ours(x).asnumpy(), stock(x).asnumpy()
        assert np.abs(found - first).max() > 1e-4, parameter.name
        assert np.abs(found - expected).max() <= FORWARD * np.abs(expected).max(), parameter.name
        for each in (parameter, changed):
            ops.assign(each, Tensor(before))
    np.testing.assert_array_equal(ours(x).asnumpy(), first)


def test_an_image_scores_alike_alone_and_among_others() -> None:
    """One image is cut into other tasks than many."""
    network = MobileNetV2(5, 0.35)
    fill(network)
    network.set_train(False)
    accelerate(network, "on")
    x = np.random.default_rng(2).standard_normal((20, 3, 64, 64)).astype(np.float32)
    together = network(Tensor(x)).asnumpy()
    np.testing.assert_array_equal(network(Tensor(x[7:8])).asnumpy(), together[7:8], strict=True)


class AveragedStep(Step):
    """As a training step is: the update in a branch, and the new values read behind it."""

    def __init__(self, network: nn.Cell, fast_update: bool, config: Config) -> None:
        if fast_update:
            accelerate(network, "on")
        super().__init__(network)
        self.optimizer = build_optimizer(network, np.array([0.05, 0.04, 0.03, 0.02], np.float32), config)
        self.ema_update = ema_update(network)
        if not fast_update:
            accelerate(network, "on")
        assert isinstance(self.optimizer, AcceleratedMomentum) == fast_update
        assert isinstance(self.ema_update, AcceleratedEmaUpdate) == fast_update
        self.values = self.optimizer.parameters
        self.means = self.values.clone("mean")

    def construct(self, images: Tensor, labels: Tensor) -> Tensor:
        loss, gradients = self.gradients(images, labels)
        if ops.isfinite(loss):
            loss = ops.depend(loss, self.optimizer(gradients))
            one_minus_decay = Tensor([0.5], ms.float32)
            loss = ops.depend(loss, self.ema_update(one_minus_decay, self.means, self.values))
        return loss


@pytest.mark.parametrize("options", [(), ("--grad_clip_norm", 0.5),
                                     ("--nesterov", "True", "--grad_clip_norm", 0.5, "--norm_bias_decay", "False")],
                         ids=str)
def test_one_pass_update_like_the_stock_one(options: tuple[object, ...]) -> None:
    random = np.random.default_rng(0)
    images = Tensor(random.standard_normal((8, 3, 16, 16)).astype(np.float32))
    labels = Tensor(random.integers(0, 4, 8).astype(np.int32))
    steps = []
    for fast_update in (False, True):
        ms.set_seed(0)
        step = AveragedStep(SmallNetwork(), fast_update, config_for("--weight_decay", 0.1, *options))
        step.set_train()
        for _ in range(3):
            step(images, labels)
        steps.append(step)
    stock, ours = steps
    names = [p.name for p in stock.optimizer.get_parameters()]
    assert [p.name for p in ours.optimizer.get_parameters()] == names
    for a, b in zip(stock.get_parameters(), ours.get_parameters(), strict=True):
        np.testing.assert_allclose(b.asnumpy(), a.asnumpy(), rtol=1e-4, atol=1e-5, err_msg=a.name)


class HeavyMomentum(Momentum):
    """A rule of its own."""

    def construct(self, gradients: tuple) -> Tensor:
        return super().construct(tuple([2 * gradient for gradient in gradients]))


def test_optimizers_that_the_pass_does_not_know_stay() -> None:
    network = SmallNetwork()
    optimizer = nn.Momentum(network.trainable_params(), 0.1, 0.9)
    accelerate_optimizer(optimizer, network)
    assert type(optimizer) is nn.Momentum  # the network is not accelerated
    accelerate(network, "on")
    parameters = network.trainable_params()
    others = [nn.SGD(parameters, 0.1), nn.Momentum(parameters, 0.1, 0.9, loss_scale=8.0),
              nn.Momentum(parameters, 0.1, 0.9, use_nesterov=True),
              HeavyMomentum([{"params": parameters}], Tensor(0.1), config_for())]
    for other in others:
        kind = type(other)
        accelerate_optimizer(other, network)
        assert type(other) is kind
    accelerate_optimizer(optimizer, network)
    assert type(optimizer) is AcceleratedMomentum
