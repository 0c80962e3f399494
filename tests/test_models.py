"""Network of a run, loss, and dropout with a state."""
from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from conftest import config_for
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn, ops

from src.models import EMA_PREFIX, CrossEntropyWithLabelSmooth, ResumableDropout, define_ema, define_net


def weights_of(network: nn.Cell) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}


# ---- the network of a run

def test_same_seed_same_weights() -> None:
    first = weights_of(define_net(config_for("--width_mult", 0.35, "--seed", 5), 3))
    again = weights_of(define_net(config_for("--width_mult", 0.35, "--seed", 5), 3))
    other = weights_of(define_net(config_for("--width_mult", 0.35, "--seed", 6), 3))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert not np.array_equal(first["head.classifier.weight"], other["head.classifier.weight"])


def test_options_reach_the_network() -> None:
    network = define_net(config_for("--width_mult", 0.5, "--dropout", 0.4), 7)
    assert network.head.classifier.weight.shape == (7, 1280)
    assert network.backbone.stem.conv.weight.shape[0] == 16
    assert network.head.dropout.p == 0.4


def test_average_starts_as_a_copy_under_names_of_its_own() -> None:
    config = config_for("--width_mult", 0.35, "--ema_decay", 0.9)
    network = define_net(config, 3)
    ema = define_ema(config, network)
    assert ema is not None
    copies, values = weights_of(ema), weights_of(network)
    own = {name.removeprefix(EMA_PREFIX) for name in copies}
    assert all(name.startswith(EMA_PREFIX) for name in copies)
    assert own == {name for name in values if name.startswith(("backbone.", "head.classifier."))}
    for name in own:
        np.testing.assert_array_equal(copies[EMA_PREFIX + name], values[name])


def test_no_average_unless_asked_for() -> None:
    config = config_for("--width_mult", 0.35)
    assert define_ema(config, define_net(config, 3)) is None


# ---- loss

LOSSES = {smooth: CrossEntropyWithLabelSmooth(smooth) for smooth in (0.0, 0.1, 0.5)}


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(LOSSES)), st.integers(0, 2 ** 31))
def test_label_smoothing_is_the_formula(smooth: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = (5 * random.standard_normal((6, 4))).astype(np.float32)
    labels = random.integers(0, 4, 6).astype(np.int32)
    target = np.eye(4)[labels] * (1 - smooth) + smooth / 4
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = LOSSES[smooth](Tensor(logits), Tensor(labels))
    assert float(loss.asnumpy()) == pytest.approx(-(target * log_softmax).sum(axis=1).mean(), rel=1e-4, abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(sorted(LOSSES)), st.integers(0, 2 ** 31))
def test_shares_of_classes_are_smoothed_as_labels_are(smooth: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = (5 * random.standard_normal((6, 4))).astype(np.float32)
    shares = random.dirichlet(np.ones(4), 6).astype(np.float32)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -((shares * (1 - smooth) + smooth / 4) * log_softmax).sum(axis=1).mean()
    assert float(LOSSES[smooth](Tensor(logits), Tensor(shares)).asnumpy()) == pytest.approx(expected, rel=1e-4)
    labels = random.integers(0, 4, 6).astype(np.int32)
    of_labels, of_shares = (float(LOSSES[smooth](Tensor(logits), Tensor(targets)).asnumpy())
                            for targets in (labels, np.eye(4, dtype=np.float32)[labels]))
    assert of_shares == pytest.approx(of_labels, rel=1e-5, abs=1e-6)


def test_loss_of_half_precision_logits_is_computed_in_float32() -> None:
    logits = Tensor(np.array([[20.0, 0.0], [0.0, 20.0]]), ms.float16)
    loss = CrossEntropyWithLabelSmooth(0.0)(logits, Tensor([1, 1], ms.int32))
    assert loss.dtype == ms.float32
    assert float(loss.asnumpy()) == pytest.approx(10.0, rel=1e-3)


# ---- dropout

@pytest.fixture
def dropout() -> Callable[..., ResumableDropout]:
    def make(p: float = 0.2, seed: int = 3) -> ResumableDropout:
        cell = ResumableDropout(p, seed)
        cell.set_train()
        return cell
    return make


ONES = Tensor(np.ones((64, 1280), np.float32))


@pytest.mark.parametrize("p", [0.1, 0.2, 0.8])
def test_dropout_drops_its_share_and_scales_the_rest(p: float, dropout: Callable[..., ResumableDropout]) -> None:
    out = dropout(p)(ONES).asnumpy()
    dropped = out == 0
    deviation = np.sqrt(p * (1 - p) / out.size)
    assert abs(dropped.mean() - p) < 5 * deviation
    np.testing.assert_allclose(out[~dropped], 1 / (1 - p), rtol=1e-6)
    # No row and no column of the mask stands out: both would betray a poor generator.
    assert np.abs(dropped.mean(axis=1) - p).max() < 5 * np.sqrt(p * (1 - p) / 1280)
    assert np.abs(dropped.mean(axis=0) - p).max() < 6 * np.sqrt(p * (1 - p) / 64)


def test_dropout_draws_anew_each_call_and_repeats_from_its_state(dropout: Callable[..., ResumableDropout]) -> None:
    cell = dropout()
    first, second, third = (cell(ONES).asnumpy() for _ in range(3))
    agreement = ((first == 0) == (second == 0)).mean()
    assert agreement == pytest.approx(0.2 ** 2 + 0.8 ** 2, abs=0.02)  # as two independent draws agree
    resumed = dropout()
    resumed.calls.set_data(Tensor(2, ms.int32))
    np.testing.assert_array_equal(resumed(ONES).asnumpy(), third)
    assert not np.array_equal(dropout(seed=4)(ONES).asnumpy(), first)


def test_dropout_leaves_evaluation_alone(dropout: Callable[..., ResumableDropout]) -> None:
    cell = dropout()
    cell.set_train(False)
    np.testing.assert_array_equal(cell(ONES).asnumpy(), ONES.asnumpy())
    assert int(cell.calls.asnumpy()) == 0


def test_gradient_passes_where_the_value_did(dropout: Callable[..., ResumableDropout]) -> None:
    x = Tensor(np.random.default_rng(0).uniform(1, 2, (8, 16)).astype(np.float32))
    cell = dropout(0.5)
    value, gradient = ops.value_and_grad(cell)(x)
    gradient = gradient.asnumpy()
    assert set(np.unique(gradient)) == {0.0, 2.0}
    np.testing.assert_allclose(value.asnumpy(), gradient * x.asnumpy(), rtol=1e-6)
