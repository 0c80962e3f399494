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
