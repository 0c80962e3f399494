"""Network of a run, loss, and dropout with a state."""
from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from conftest import config_for
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn, ops

from src.models import (
    EMA_PREFIX,
    CrossEntropyWithLabelSmooth,
    ResumableDropout,
    balanced_class_weights,
    define_ema,
    define_loss,
    define_net,
)


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


# ---- uneven classes

COUNTS = (60, 20, 6, 1)
RARE = np.repeat(np.arange(4, dtype=np.int32), COUNTS)


def test_balanced_weights_are_those_of_scikit_learn_and_their_mean_over_the_images_is_1() -> None:
    from sklearn.utils.class_weight import compute_class_weight
    weights = balanced_class_weights(RARE, 4)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=RARE)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights[RARE].mean() == pytest.approx(1)
    np.testing.assert_allclose(weights * COUNTS, len(RARE) / 4, rtol=1e-6)  # all classes together weigh the same
    assert balanced_class_weights(np.array([0, 0, 0, 2]), 4).tolist() == [np.float32(2 / 3), 0, 2, 0]


WEIGHTED = {values: define_loss(config_for("--label_smooth", values[0], "--class_weights", values[1], "--focal_gamma",
                                           values[2]), RARE, 4)
            for values in ((0.1, "balanced", 0.0), (0.1, "none", 2.0), (0.0, "balanced", 0.5), (0.1, "balanced", 2.0))}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(WEIGHTED)), st.booleans(), st.integers(0, 2 ** 31))
def test_weights_and_focal_factor_are_the_formula(values: tuple[float, str, float], mixed: bool, seed: int) -> None:
    smooth, choice, gamma = values
    random = np.random.default_rng(seed)
    logits = (3 * random.standard_normal((6, 4))).astype(np.float32)
    labels = random.integers(0, 4, 6).astype(np.int32)
    shares = random.dirichlet(np.ones(4), 6).astype(np.float32) if mixed else np.eye(4, dtype=np.float32)[labels]
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses = -(((1 - smooth) * shares + smooth / 4) * np.log(softmax)).sum(axis=1)
    weights = len(RARE) / (4 * np.array(COUNTS)) if choice == "balanced" else np.ones(4)
    expected = (shares @ weights * (1 - (shares * softmax).sum(axis=1)) ** gamma * losses).mean()
    found = WEIGHTED[values](Tensor(logits), Tensor(shares if mixed else labels))
    assert float(found.asnumpy()) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_without_smoothing_and_weights_it_is_the_focal_loss_of_lin_et_al() -> None:
    loss = define_loss(config_for("--label_smooth", 0, "--focal_gamma", 2), RARE, 2)
    for probability in (0.1, 0.5, 0.9, 0.968):
        logits = Tensor([[np.log(probability), np.log(1 - probability)]], ms.float32)
        expected = (1 - probability) ** 2 * -np.log(probability)
        assert float(loss(logits, Tensor([0], ms.int32)).asnumpy()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_gradient_of_the_focal_loss_is_finite_where_nothing_is_missing(gamma: float) -> None:
    loss = CrossEntropyWithLabelSmooth(0.1, None, gamma)
    gradient = ops.grad(loss)(Tensor([[80.0, 0.0], [0.0, 80.0]], ms.float32), Tensor([0, 0], ms.int32))
    assert np.isfinite(gradient.asnumpy()).all()
    assert gradient.asnumpy()[1].tolist() == pytest.approx([-0.475, 0.475], abs=0.01)  # half of 0.95, of two images


def test_without_the_options_the_loss_has_the_same_bits() -> None:
    logits = Tensor(np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32))
    labels = Tensor([0, 1, 2, 3, 0, 0], ms.int32)
    plain, ones = CrossEntropyWithLabelSmooth(0.1), CrossEntropyWithLabelSmooth(0.1, np.ones(4, np.float32))
    assert define_loss(config_for(), RARE, 4)(logits, labels).asnumpy() == plain(logits, labels).asnumpy()
    assert float(ones(logits, labels).asnumpy()) == pytest.approx(float(plain(logits, labels).asnumpy()), rel=1e-6)


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
