"""What each rank works on, and who may start one: without starting any."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.dataset import FeatureData, shard, training_order
from src.distributed.device import setup_device
from src.distributed.world import World
from src.errors import UserError
from src.lr_generator import run_lr
from tests.conftest import config_for

RANKS = st.integers(1, 9)


@given(images=st.integers(1, 200), rank_size=RANKS, batch_size=st.integers(1, 40))
def test_evaluation_shares_are_everything_once(images: int, rank_size: int, batch_size: int) -> None:
    features, labels = np.arange(images, dtype=np.float32).reshape(-1, 1, 1, 1), np.zeros(images, np.int32)
    data = [FeatureData(features, labels, batch_size, training=False, rank=rank, rank_size=rank_size)
            for rank in range(rank_size)]
    seen = [int(x) for one in data for inputs, answers in one.epoch()
            for x, label in zip(inputs.asnumpy().ravel(), answers.asnumpy(), strict=True) if label >= 0]
    assert sorted(seen) == list(range(images))
    assert sum(one.images for one in data) == images


@given(images=st.integers(1, 200), rank_size=RANKS, batch_size=st.integers(1, 40), epoch=st.integers(0, 3))
def test_training_shares_have_the_same_steps_and_no_image_twice(images: int, rank_size: int, batch_size: int,
                                                                  epoch: int) -> None:
    if images < rank_size:
        with pytest.raises(UserError, match=f"{images} training images are too few for {rank_size} processes"):
            shard(images, batch_size, True, 0, rank_size)
        return
    shards = {shard(images, batch_size, True, rank, rank_size)[1:] for rank in range(rank_size)}
    (batch, steps), = shards
    assert 1 <= batch <= batch_size
    assert steps >= 1
    orders = [training_order(images, 1, epoch, rank, rank_size) for rank in range(rank_size)]
    assert all(len(order) >= batch * steps for order in orders)
    assert sorted(np.concatenate(orders)) == list(range(images))


def test_ranks_together_follow_the_order_of_one() -> None:
    whole = training_order(12, 3, 0)
    assert np.array_equal(np.ravel([training_order(12, 3, 0, rank, 3) for rank in range(3)], "F"), whole)


def test_learning_rate_follows_the_global_batch() -> None:
    config = config_for("--epoch_size", 2)
    np.testing.assert_allclose(run_lr(config, 8 * 32, 10), 8 * run_lr(config, 32, 10), rtol=1e-6)


def test_distribute_needs_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "MS_ROLE", "RANK_ID", "RANK_TABLE_FILE":
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="started alone; start it with bash scripts/run_train.sh"):
        setup_device(config_for("--distribute", "True"))


@pytest.mark.parametrize("environment", [
    {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "4"}, {"RANK_ID": "0", "RANK_TABLE_FILE": "t.json", "RANK_SIZE": "4"}])
def test_one_of_several_must_be_told_so(monkeypatch: pytest.MonkeyPatch, environment: dict) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="one of 4 processes, but distribute is False; add --distribute True"):
        setup_device(config_for())


def test_only_rank_0_is_first() -> None:
    assert [World(rank, 3).is_main_process for rank in range(3)] == [True, False, False]
