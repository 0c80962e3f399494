"""Network of a run, loss, dropout with a state, and the log lines."""
from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from conftest import EPOCH_LINE, STEP_LINE, config_for
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn, ops

from src.model_utils.config import get_config
from src.models import EMA_PREFIX, CrossEntropyWithLabelSmooth, ResumableDropout, define_average, define_net
from src.training.monitor import Monitor


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
    average = define_average(config, network)
    assert average is not None
    copies, values = weights_of(average), weights_of(network)
    own = {name.removeprefix(EMA_PREFIX) for name in copies}
    assert all(name.startswith(EMA_PREFIX) for name in copies)
    assert own == {name for name in values if name.startswith(("backbone.", "head.classifier."))}
    for name in own:
        np.testing.assert_array_equal(copies[EMA_PREFIX + name], values[name])


def test_no_average_unless_asked_for() -> None:
    config = config_for("--width_mult", 0.35)
    assert define_average(config, define_net(config, 3)) is None


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


# ---- the log

def test_log_lines_keep_their_form_and_the_epochs_mean() -> None:
    lines: list[str] = []
    lr = np.linspace(0.1, 0.01, 10).astype(np.float32)
    monitor = Monitor(lr, config_for("--epoch_size", 2, "--log_steps", 2), steps_per_epoch=5, write=lines.append)
    for epoch in range(2):
        monitor.epoch_begin(epoch)
        for step in range(5):
            monitor.step_end(step, Tensor(float(step + epoch), ms.float32), Tensor(True))
        assert monitor.epoch_end() == pytest.approx(2 + epoch)  # the mean of all steps, not the last step's loss
    step_lines = [line for line in lines if line.startswith("epoch: ")]
    assert [STEP_LINE.fullmatch(line) is not None for line in step_lines] == [True] * 6
    assert step_lines[0].startswith("epoch: [  0/  2], step:[    1/    5], loss:[1.000/0.500], ")
    assert step_lines[-1].startswith("epoch: [  1/  2], step:[    4/    5], loss:[5.000/3.000], ")
    assert step_lines[-1].endswith("lr:[0.010]")
    epoch_lines = [line for line in lines if line.startswith("epoch time: ")]
    assert [EPOCH_LINE.fullmatch(line) is not None for line in epoch_lines] == [True] * 2
    assert epoch_lines[0].endswith("avg loss: 2.000")


def test_steps_that_were_left_out_are_counted_and_kept_out_of_the_mean() -> None:
    lines: list[str] = []
    monitor = Monitor(np.ones(3, np.float32), config_for("--epoch_size", 1), steps_per_epoch=3, write=lines.append)
    monitor.epoch_begin(0)
    for step, (loss, applied) in enumerate([(1.0, True), (np.inf, False), (3.0, True)]):
        monitor.step_end(step, Tensor(loss, ms.float32), Tensor(applied))
    assert monitor.bad_steps == 1
    assert monitor.epoch_end() == 2.0
    assert "1 steps of this epoch left out" in lines[-1]


@pytest.mark.parametrize(("options", "fetched"), [
    (("--platform", "Ascend", "--log_steps", 4), [4, 8, 9]),
    (("--platform", "Ascend", "--log_steps", 4, "--save_checkpoint_steps", 3), [3, 4, 6, 8, 9]),
    (("--platform", "Ascend", "--log_steps", 4, "--on_nan", "skip"), list(range(1, 10))),
    (("--platform", "CPU", "--log_steps", 4), list(range(1, 10))),
])
def test_an_accelerator_waits_only_where_the_values_are_needed(options: tuple, fetched: list[int]) -> None:
    config = get_config([*map(str, options)])
    monitor = Monitor(np.ones(9, np.float32), config, steps_per_epoch=9, write=lambda _: None)
    monitor.epoch_begin(0)
    found = []
    for step in range(9):
        monitor.step_end(step, Tensor(1.0, ms.float32), Tensor(True))
        found += [step + 1] * monitor.is_fetched
    assert found == fetched


def test_a_resumed_epoch_counts_the_losses_before_it() -> None:
    lines: list[str] = []
    monitor = Monitor(np.ones(4, np.float32), config_for("--epoch_size", 1), steps_per_epoch=4, write=lines.append)
    monitor.epoch_begin(0, [1.0, 2.0])
    for step in (2, 3):
        monitor.step_end(step, Tensor(float(step + 1), ms.float32), Tensor(True))
    assert monitor.epoch_end() == 2.5


def test_form_of_the_published_lines() -> None:
    assert STEP_LINE.fullmatch("epoch: [  0/200], step:[  624/  625], loss:[5.258/5.258], time:[140412.236], "
                               "lr:[0.100]")
    assert EPOCH_LINE.fullmatch("epoch time: 140522.500, per step time: 224.836, avg loss: 5.258")
