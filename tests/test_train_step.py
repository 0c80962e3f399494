"""One optimisation step against numpy: SGD with momentum, weight decay, overflow, moving average."""
import numpy as np
import pytest
from conftest import config_for
from mindspore import Tensor, nn

from src.mobilenetV2 import MobileNetV2, MobileNetV2Head
from src.models import EMA_PREFIX, CrossEntropyWithLabelSmooth
from src.training.train_step import TrainStep, build_optimizer, training_state

SMOOTH, DECAY, MOMENTUM = 0.1, 0.01, 0.9
LR = np.array([0.5, 0.25, 0.125, 0.1, 0.1], np.float32)


class Classifier(nn.Cell):
    """A head without dropout under the names of a whole network: small enough to follow with numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.head = MobileNetV2Head(5, 3, dropout=0.0)

    def construct(self, features: Tensor) -> Tensor:
        return self.head(features)


def make_step(*options: object, average: nn.Cell | None = None) -> tuple[Classifier, TrainStep]:
    config = config_for("--weight_decay", DECAY, "--momentum", MOMENTUM, *options)
    network = Classifier()
    optimizer = build_optimizer(network, LR, config)
    step = TrainStep(network, CrossEntropyWithLabelSmooth(SMOOTH), optimizer, config, average)
    step.set_train()
    return network, step


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return (random.standard_normal((4, 5, 1, 1)).astype(np.float32), random.integers(0, 3, 4).astype(np.int32))


def numpy_gradients(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, labels: np.ndarray) -> tuple:
    logits = x[:, :, 0, 0] @ weight.T + bias
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = np.eye(3)[labels] * (1 - SMOOTH) + SMOOTH / 3
    error = (softmax - target) / len(labels)
    loss = -(target * np.log(softmax)).sum(axis=1).mean()
    return loss, error.T @ x[:, :, 0, 0], error.sum(axis=0)


def values(network: Classifier) -> tuple[np.ndarray, np.ndarray]:
    classifier = network.head.classifier
    return classifier.weight.asnumpy().copy(), classifier.bias.asnumpy().copy()


@pytest.mark.parametrize("bias_decay", [0.0, DECAY])
def test_steps_are_momentum_sgd_with_decay(bias_decay: float) -> None:
    network, step = make_step("--norm_bias_decay", bias_decay > 0)
    weight, bias = values(network)
    weight_speed = bias_speed = 0.0
    for n in range(3):
        x, labels = batch(n)
        loss, weight_gradient, bias_gradient = numpy_gradients(weight, bias, x, labels)
        weight_speed = MOMENTUM * weight_speed + weight_gradient + DECAY * weight
        bias_speed = MOMENTUM * bias_speed + bias_gradient + bias_decay * bias
        weight, bias = weight - LR[n] * weight_speed, bias - LR[n] * bias_speed
        found, applied = step(Tensor(x), Tensor(labels))
        assert bool(applied.asnumpy())
        assert float(found.asnumpy()) == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(values(network)[0], weight, atol=1e-5)
        np.testing.assert_allclose(values(network)[1], bias, atol=1e-5)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_step_that_overflows_changes_nothing(bad: float) -> None:
    average = Classifier()
    average.update_parameters_name(EMA_PREFIX)
    network, step = make_step("--ema_decay", 0.5, average=average)
    step(*map(Tensor, batch(0)))
    before = {name: value.asnumpy().copy() for name, value in step.parameters_dict().items()}
    x, labels = batch(1)
    x[0, 0] = bad
    _, applied = step(Tensor(x), Tensor(labels))
    assert not bool(applied.asnumpy())
    for name, value in step.parameters_dict().items():
        np.testing.assert_array_equal(value.asnumpy(), before[name], err_msg=name)
    _, applied = step(*map(Tensor, batch(2)))  # and training goes on
    assert bool(applied.asnumpy())
    assert not np.array_equal(values(network)[0], before["head.classifier.weight"])


def test_moving_average_follows_the_weights() -> None:
    average = Classifier()
    average.update_parameters_name(EMA_PREFIX)
    network, step = make_step("--ema_decay", 0.75, average=average)
    expected = average.head.classifier.weight.asnumpy().copy()
    for n in range(4):
        step(*map(Tensor, batch(n)))
        expected = 0.75 * expected + 0.25 * values(network)[0]
    np.testing.assert_allclose(average.head.classifier.weight.asnumpy(), expected, atol=1e-6)
    assert not np.allclose(expected, values(network)[0], atol=1e-3)


def test_weight_decay_groups_of_a_whole_network() -> None:
    network, options = MobileNetV2(3, 0.35), ("--weight_decay", DECAY)
    everything = build_optimizer(network, LR, config_for(*options, "--norm_bias_decay", "True"))
    assert {float(decay) for decay in everything.weight_decay} == {float(np.float32(DECAY))}
    optimizer = build_optimizer(network, LR, config_for(*options, "--norm_bias_decay", "False"))
    decayed = {p.name for p, decay in zip(optimizer.parameters, optimizer.weight_decay, strict=True) if decay > 0}
    kinds = {name.rpartition(".")[2] for name in decayed}
    assert kinds == {"weight"}
    assert len(decayed) == 53  # 52 convolutions and the classifier
    assert sum(p.name.endswith((".gamma", ".beta", ".bias")) for p in optimizer.parameters) == 2 * 52 + 1


def test_state_is_what_resuming_needs_and_no_weights() -> None:
    network, step = make_step()
    step(*map(Tensor, batch(0)))
    state = training_state(step)
    assert not any(name in state for name in network.parameters_dict())
    assert sum(name.startswith("moments.") for name in state) == 2
    assert int(np.max(state["global_step"].asnumpy())) == 1


def test_state_under_an_average_holds_the_trained_weights() -> None:
    average = Classifier()
    average.update_parameters_name(EMA_PREFIX)
    network, step = make_step("--ema_decay", 0.5, average=average)
    state = training_state(step)
    assert set(network.parameters_dict()) <= set(state)
    assert not any(name.startswith(EMA_PREFIX) for name in state)
