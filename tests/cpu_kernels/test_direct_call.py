"""An accelerated network called by itself, past the framework, against the same network in a graph."""
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from test_cpu_kernels import fill

from src.cpu_kernels import accelerate
from src.cpu_kernels.direct_call import DirectInference
from src.mobilenetV2 import MobileNetV2

CLASSES = 5


class Outer(nn.Cell):
    """Whatever is within a cell is compiled by the framework."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__()
        self.network = network

    def construct(self, images: Tensor) -> Tensor:
        return self.network(images)


class Loss(nn.Cell):
    """Something to train with."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__()
        self.network = network

    def construct(self, images: Tensor) -> Tensor:
        return self.network(images).square().mean()


@pytest.fixture
def network() -> MobileNetV2:
    """Accelerated, in evaluation."""
    network = MobileNetV2(CLASSES, 0.35)
    fill(network)
    accelerate(network, "on")
    return network.set_train(False)


@pytest.fixture
def direct_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the images of each direct call."""
    calls, call = [], DirectInference.__call__

    def recorded(self: DirectInference, images: Tensor) -> Tensor:
        calls.append(images.shape)
        return call(self, images)

    monkeypatch.setattr(DirectInference, "__call__", recorded)
    return calls


@pytest.fixture
def pynative() -> Iterator[None]:
    """The framework's other mode."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)


def images_of(*shape: int) -> np.ndarray:
    """Random pixels."""
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def in_a_graph(network: nn.Cell, images: np.ndarray) -> np.ndarray:
    """What the framework computes."""
    return Outer(network).set_train(False)(Tensor(images)).asnumpy()


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 32, 48)])
def test_the_logits_are_those_of_the_graph(network: MobileNetV2, direct_calls: list, shape: tuple[int, ...]) -> None:
    images = images_of(*shape)
    expected = in_a_graph(network, images)
    assert direct_calls == []
    np.testing.assert_array_equal(network(Tensor(images)).asnumpy(), expected, strict=True)
    assert direct_calls == [shape]


def test_images_that_are_a_view_of_others(network: MobileNetV2, direct_calls: list) -> None:
    images = images_of(2, 3, 48, 32)
    turned = Tensor(images).transpose(0, 1, 3, 2)
    assert not turned.is_contiguous()
    expected = in_a_graph(network, np.ascontiguousarray(images.transpose(0, 1, 3, 2)))
    np.testing.assert_array_equal(network(turned).asnumpy(), expected)
    assert direct_calls == [(2, 3, 32, 48)]


def test_images_that_are_still_being_computed(network: MobileNetV2, direct_calls: list) -> None:
    images = images_of(4, 3, 64, 64)
    lazy = Tensor(images)
    for _ in range(40):
        lazy = ops.relu(lazy) + 0.5
    logits = network(lazy).asnumpy()
    np.testing.assert_array_equal(logits, in_a_graph(network, lazy.asnumpy()))
    assert len(direct_calls) == 1


def test_each_change_of_a_parameter_is_seen(network: MobileNetV2, direct_calls: list) -> None:
    """By training in a graph, by an assignment, by new data."""
    images = Tensor(images_of(1, 3, 32, 32))
    loss = Loss(network)
    optimizer = nn.Momentum(network.trainable_params(), 0.01, 0.9)
    step = nn.TrainOneStepCell(loss, optimizer)
    bias = network.head.classifier.bias
    seen = [network(images).asnumpy()]
    for change in (lambda: step.set_train()(images), lambda: step.set_train()(images),
                   lambda: ops.assign(bias, Tensor(np.arange(CLASSES, dtype=np.float32))),
                   lambda: bias.set_data(Tensor(np.ones(CLASSES, np.float32))),
                   lambda: ms.load_param_into_net(network, {
                       bias.name: ms.Parameter(Tensor(np.zeros(CLASSES, np.float32)), name=bias.name)})):
        change()
        network.set_train(False)
        logits = network(images).asnumpy()
        assert all(np.abs(logits - before).max() > 1e-4 for before in seen)
        np.testing.assert_array_equal(logits, in_a_graph(network, images.asnumpy()))
        seen.append(logits)
    assert len(direct_calls) == len(seen)


def test_several_threads_at_once(network: MobileNetV2) -> None:
    batches = [images_of(count, 3, 32, 32) for count in (1, 2, 3, 4)] * 8
    expected = {len(batch): network(Tensor(batch)).asnumpy() for batch in batches[:4]}
    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(lambda batch: network(Tensor(batch)).asnumpy(), batches):
            np.testing.assert_array_equal(logits, expected[len(logits)], strict=True)


def test_what_it_does_not_take_is_left_to_the_framework(network: MobileNetV2, direct_calls: list) -> None:
    for wrong in (images_of(1, 4, 32, 32), images_of(3, 32, 32), images_of(1, 3, 32, 32).astype(np.float64)):
        with pytest.raises((ValueError, TypeError, RuntimeError)):
            network(Tensor(wrong)).asnumpy()
    network.set_train(True)
    network(Tensor(images_of(2, 3, 32, 32)))
    assert direct_calls == []


def test_a_parameter_of_another_type_is_left_to_the_framework(network: MobileNetV2) -> None:
    images = Tensor(images_of(1, 3, 32, 32))
    assert network.direct_inference.takes(images)
    network.head.classifier.bias.set_dtype(ms.float16)
    assert not network.direct_inference.takes(images)


@pytest.mark.usefixtures("pynative")
def test_pynative_mode_runs_the_operator(network: MobileNetV2, direct_calls: list) -> None:
    """It records what gradients need."""
    assert network(Tensor(images_of(1, 3, 32, 32))).shape == (1, CLASSES)
    assert direct_calls == []


def test_a_failure_in_the_kernel_is_an_error(network: MobileNetV2, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="could not compute the logits"):
        network(Tensor(np.empty((0, 3, 32, 32), np.float32)))
    assert "CPU kernels: network_infer" in capfd.readouterr().err
