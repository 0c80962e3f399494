"""The learning rate: warm-up, cosine, end points, the linear rule."""
import numpy as np
import pytest
from conftest import config_for
from hypothesis import given
from hypothesis import strategies as st

from src.lr_generator import get_lr, run_lr


def test_it_begins_peaks_and_ends_where_it_was_told_to() -> None:
    lr = get_lr(0.01, 0.4, 0.002, warmup_epochs=4, total_epochs=20, steps_per_epoch=10)
    assert lr.dtype == np.float32
    assert len(lr) == 200
    assert lr[0] == pytest.approx(0.01)
    assert lr[40] == lr.max() == pytest.approx(0.4)
    assert lr[20] == pytest.approx((0.01 + 0.4) / 2)  # half way up
    assert lr[120] == pytest.approx((0.4 + 0.002) / 2)  # half way down
    assert 0.002 < lr[-1] < 0.0021  # the step after the last would have lr_end


def test_without_warmup_it_starts_at_the_top() -> None:
    assert get_lr(0, 0.1, 0, 0, 3, 5)[0] == pytest.approx(0.1)


def test_half_an_epoch_of_warmup() -> None:
    lr = get_lr(0, 1, 0, 0.5, 2, 10)
    np.testing.assert_allclose(lr[:6], [0, 0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)


def test_warmup_longer_than_the_run_only_rises() -> None:
    lr = get_lr(0, 1, 0, 10, 2, 5)
    assert len(lr) == 10
    assert (np.diff(lr) > 0).all()


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 30), st.integers(1, 20), st.integers(1, 20))
def test_one_rate_per_step_up_then_down(low: float, high: float, warmup: float, epochs: int, steps: int) -> None:
    bottom, top = sorted((low, high))
    lr = get_lr(bottom, top, bottom, warmup, epochs, steps)
    rising = min(epochs * steps, round(warmup * steps))
    assert len(lr) == epochs * steps
    assert (lr >= np.float32(bottom) * (1 - 1e-6)).all()
    assert (lr <= np.float32(top) * (1 + 1e-6)).all()
    assert (np.diff(lr[:rising]) >= 0).all()
    assert (np.diff(lr[rising:]) <= 0).all()


@pytest.mark.parametrize("global_batch", [16, 32, 512])
def test_scales_with_the_global_batch(global_batch: int) -> None:
    config = config_for("--lr_base_batch", 32, "--lr_max", 0.02, "--lr_init", 0.004, "--warmup_epochs", 1)
    lr = run_lr(config, global_batch, steps_per_epoch=10)
    assert lr[0] == pytest.approx(0.004 * global_batch / 32)
    assert lr[10] == pytest.approx(0.02 * global_batch / 32)


# ---- another number of epochs, decided while the run is under way

@pytest.mark.parametrize("epochs", [4, 5, 9, 30])
def test_a_change_stretches_or_shortens_the_rest_of_the_cosine(epochs: int) -> None:
    usual, changed = get_lr(0.1, 1, 0.01, 1, 9, 6), get_lr(0.1, 1, 0.01, 1, 9, 6, [(3, epochs)])
    assert len(changed) == 6 * epochs
    np.testing.assert_array_equal(changed[:18], usual[:18])
    reached = np.arccos((usual[18] - 0.01) / 0.99 * 2 - 1) / np.pi
    progress = np.linspace(reached, 1, 6 * (epochs - 3), endpoint=False)
    np.testing.assert_allclose(changed[18:], 0.01 + 0.99 * (1 + np.cos(np.pi * progress)) / 2, rtol=1e-4)
    if epochs == 9:
        np.testing.assert_allclose(changed, usual, rtol=1e-5)


def test_changes_follow_each_other_and_may_end_the_run() -> None:
    changed = get_lr(0, 1, 0, 1, 9, 6, [(2, 20), (4, 6)])
    assert len(changed) == 36
    np.testing.assert_array_equal(changed[:24], get_lr(0, 1, 0, 1, 9, 6, [(2, 20)])[:24])
    assert (np.diff(changed[6:]) < 0).all()
    assert changed[-1] < 0.05
    np.testing.assert_array_equal(get_lr(0, 1, 0, 1, 9, 6, [(4, 4)]), get_lr(0, 1, 0, 1, 9, 6)[:24])


@given(st.floats(0, 5), st.integers(1, 9), st.lists(st.integers(1, 9), max_size=3))
def test_a_change_within_the_warm_up_gives_one_rate_per_step(warmup: float, first: int, more: list[int]) -> None:
    changes, over, total = [], 0, first
    for epochs in more:
        if over + 1 < total:
            over, total = over + 1, over + 1 + epochs
            changes.append((over, total))
    lr = get_lr(0, 1, 0, warmup, first, 4, changes)
    assert len(lr) == 4 * total
    assert ((lr >= 0) & (lr <= 1)).all()


def test_a_plan_from_the_beginning_has_a_warm_up_of_a_tenth_at_most() -> None:
    config = config_for("--epoch_size", 20, "--warmup_epochs", 2, "--lr_max", 0.1, "--lr_base_batch", 32)
    np.testing.assert_array_equal(run_lr(config, 64, 10, [(0, 5)]), get_lr(0, 0.2, 0, 0.5, 5, 10))
    np.testing.assert_array_equal(run_lr(config, 64, 10, [(3, 5)]), get_lr(0, 0.2, 0, 2, 20, 10, [(3, 5)]))
