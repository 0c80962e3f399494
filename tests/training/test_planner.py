"""How many epochs a run gets: by measured seconds, which the tests set."""
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from conftest import config_for, few_blocks
from mindspore import Parameter, Tensor, nn

from src.checkpoint.record import Plan, TrainingMetadata
from src.dataset import Batch
from src.distributed.world import World
from src.lr_generator import run_lr
from src.models import CrossEntropyWithLabelSmooth, define_ema, define_net
from src.training.optimizer import build_optimizer
from src.training.planner import Planner
from src.training.resume import Run
from src.training.speed import Speed, batch_seconds, step_seconds
from src.training.state import TrainingState
from src.training.step import TrainStep
from tests.conftest import training_metadata

STEPS = 10  # in an epoch


class Images:
    """A data source that notes what is planned for it."""

    images, batch_size = 40, 4

    def __init__(self, steps: int = STEPS) -> None:
        self.steps_per_epoch = steps
        self.replanned: tuple[int, int, int] | None = None
        self.begun: list[int] = []

    def epoch(self, epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        self.begun.append(epoch)
        random = np.random.default_rng(epoch)
        for _ in range(self.steps_per_epoch):
            yield Tensor(random.standard_normal((4, 3, 32, 32)), ms.float32), Tensor([0, 1, 0, 1], ms.int32)

    def replan(self, first_size: int, image_size: int, epochs: int) -> None:
        self.replanned = first_size, image_size, epochs


class Rates(nn.Cell):
    """Stands in for a training step: of it a plan changes the learning rates alone."""

    def __init__(self, lr: np.ndarray) -> None:
        super().__init__()
        self.learning_rate = Parameter(Tensor(lr), "learning_rate")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """A factory: a planner that has begun, with all that it works on. A step takes 2 s, an evaluation 5 s."""
    def begin(*options: object, plans: list[Plan] | None = None, seconds: float = 0.0, now: float = 30.0,
              test_images: int = 0, step: float = 2.0) -> SimpleNamespace:
        config = config_for("--batch_size", 4, "--lr_base_batch", 4, *options)
        found = SimpleNamespace(config=config, now=now, data=Images(), eval_data=Images(5), lr=run_lr(config, 4, STEPS),
                                state=TrainingState(plans=plans or [], seconds=seconds))
        monkeypatch.setattr("src.training.planner.process_seconds", lambda: found.now)
        monkeypatch.setattr("src.training.planner.step_seconds", lambda *_: step)
        monkeypatch.setattr("src.training.planner.batch_seconds", lambda *_: 1.0)
        found.step = Rates(found.lr)
        run = Run(config, ("a", "b"), "digest", 1, STEPS)
        found.state.step = STEPS * (plans[-1].first_epoch if plans else 0)
        found.planner = Planner(run, found.step, found.data, found.lr, found.eval_data, World())
        found.planner.begin(found.state, nn.Cell(), test_images)
        return found
    return begin


def epochs_take(found: SimpleNamespace, *seconds: float) -> list[tuple[int, int]]:
    """The plans after epochs of so many seconds."""
    for taken in seconds:
        found.now += taken
        found.state.step += STEPS
        found.planner.epoch_end(found.state)
    return [(plan.first_epoch, plan.epochs) for plan in found.state.plans]


# An epoch is 10 steps of 2 s, an evaluation of 5 s, and 1 s for a checkpoint: 26 s. Of 10 minutes 0.97 are planned
# with, so there are 582 s, less 30 s that are over, less 5 s for the report.

@pytest.mark.parametrize(("options", "epochs"), [
    (("--max_minutes", 10, "--epoch_size", 50), 21), (("--max_minutes", 10, "--epoch_size", 4), 4),
    (("--max_minutes", 0, "--epoch_size", 50), None), (("--max_minutes", 1.25, "--epoch_size", 1), 1)])
def test_as_many_epochs_as_fit(begun: Callable[..., SimpleNamespace], options: tuple[object, ...],
                               epochs: int | None) -> None:
    found = begun(*options)
    if epochs is None:
        assert (found.state.plans, found.data.replanned) == ([], None)
        return
    assert found.state.plans == [Plan(0, epochs, 224)]
    assert found.data.replanned == (224, 224, epochs)
    expected = run_lr(found.config, 4, STEPS, [(0, epochs)])
    np.testing.assert_array_equal(found.lr[:STEPS * epochs], expected)
    np.testing.assert_array_equal(found.step.learning_rate.asnumpy(), found.lr)


def test_the_test_images_have_their_time(begun: Callable[..., SimpleNamespace]) -> None:
    assert begun("--max_minutes", 10, "--epoch_size", 50, test_images=400).state.plans == [Plan(0, 17, 224)]


@pytest.mark.parametrize(("options", "plan", "told"), [
    # At 192 pixels an epoch is 20.7 s, at 160 16.2, at 128 12.5; there are 1.25 minutes less 35 s, 37.75 s.
    (("--max_minutes", 1.25), Plan(0, 3, 128), "epoch_size 3 of at most 9, 12.5 s an epoch with images of 128 pixels"),
    (("--max_minutes", 1.6), Plan(0, 3, 160), "epoch_size 3 of at most 9, 16.2 s an epoch with images of 160 pixels"),
    (("--max_minutes", 1.25, "--train_image_size", 224), Plan(0, 1, 224), "too short for 3 epochs"),
    (("--max_minutes", 1.25, "--freeze_layer", "backbone"), Plan(0, 1, 224), "too short for 3 epochs"),
    (("--max_minutes", 0.1), Plan(0, 1, 128), "expect little, or raise --max_minutes")])
def test_too_little_time_takes_smaller_images(begun: Callable[..., SimpleNamespace], options: tuple[object, ...],
                                              plan: Plan, told: str, capsys: pytest.CaptureFixture) -> None:
    assert begun("--epoch_size", 9, *options).state.plans == [plan]
    assert told in capsys.readouterr().out


def test_images_that_grow_take_less_time_at_first(begun: Callable[..., SimpleNamespace]) -> None:
    """The step of 2 s is one of the first size, 128 pixels: at 224 it takes 6.1 s."""
    found = begun("--max_minutes", 10, "--epoch_size", 50, "--train_image_size_start", 128)
    [plan] = found.state.plans
    sizes = [128 + 32 * round(3 * epoch / (plan.epochs - 1)) for epoch in range(plan.epochs)]
    assert 547 - 67 < sum(20 * (size / 128) ** 2 + 6 for size in sizes) <= 547
    assert found.data.replanned == (128, 224, plan.epochs)


def test_slower_epochs_make_the_run_shorter_and_faster_ones_longer(begun: Callable[..., SimpleNamespace],
                                                                   capsys: pytest.CaptureFixture) -> None:
    found = begun("--max_minutes", 10, "--epoch_size", 50)
    assert epochs_take(found, 26, 26) == [(0, 21)]
    before = found.lr.copy()
    assert epochs_take(found, 52) == [(0, 21), (3, 11)]  # 443 s are left
    assert "plan: epoch_size 11 instead of 21, because an epoch takes 52.0 s now" in capsys.readouterr().out
    np.testing.assert_array_equal(found.lr[:30], before[:30])
    assert found.lr[109] < 0.01 * found.lr.max()
    np.testing.assert_array_equal(found.step.learning_rate.asnumpy(), found.lr)
    assert epochs_take(found, 20) == [(0, 21), (3, 11), (4, 25)]  # 423 s
    assert found.data.replanned == (224, 224, 21)  # sizes stay


def test_a_little_more_than_planned_changes_nothing(begun: Callable[..., SimpleNamespace]) -> None:
    """There are 12 s of slack: 20 epochs are left, of 26.4 or of 27 s."""
    options = ("--max_minutes", 10, "--epoch_size", 50)
    assert epochs_take(begun(*options), 26.4) == [(0, 21)]
    assert epochs_take(begun(*options), 27) == [(0, 21), (1, 20)]


def test_the_last_epoch_is_finished_however_long_it_takes(begun: Callable[..., SimpleNamespace]) -> None:
    found = begun("--max_minutes", 10, "--epoch_size", 50)
    assert epochs_take(found, 1000) == [(0, 21), (1, 2)]
    assert epochs_take(found, 1000) == [(0, 21), (1, 2)]


def test_a_resumed_run_keeps_its_plans_and_its_clock(begun: Callable[..., SimpleNamespace]) -> None:
    found = begun("--max_minutes", 10, "--epoch_size", 50, plans=[Plan(0, 21, 224), Plan(3, 11, 224)], seconds=138.0)
    np.testing.assert_array_equal(found.lr[:110], run_lr(found.config, 4, STEPS, [(0, 21), (3, 11)]))
    assert epochs_take(found, 500) == [(0, 21), (3, 11)]  # part of it was before, or compilation
    assert epochs_take(found, 26)[-1] == (5, 6)  # 694 s are over


# ---- measuring

def test_the_work_of_an_epoch_grows_with_the_pixels() -> None:
    speed = Speed(training=20.0, size=128, rest=6.0)
    assert speed.epoch(128) == 26
    assert speed.epoch(256) == 86
    assert speed.corrected(256, 43).epoch(128) == 13


def test_measuring_leaves_no_trace_and_rates_reach_a_compiled_step(small_step: TrainStep) -> None:
    data = Images(3)
    before = {value.name: value.asnumpy().copy() for value in small_step.get_parameters()}
    assert step_seconds(small_step, data) > 0
    assert data.begun == [0, 1, 2]  # 7 steps
    for value in small_step.get_parameters():
        np.testing.assert_array_equal(value.asnumpy(), before[value.name], err_msg=value.name)
    rates = next(value for value in small_step.get_parameters() if value.name == "learning_rate")
    ms.ops.assign(rates, Tensor(np.zeros(20, np.float32)))
    next(small_step.over(data.epoch(0)))
    changed = {value.name for value in small_step.get_parameters()
               if not np.array_equal(value.asnumpy(), before[value.name])}
    assert "global_step" in changed
    assert "head.classifier.weight" not in changed


def test_measuring_an_evaluation_keeps_the_mode(small_step: TrainStep) -> None:
    assert batch_seconds(small_step.network, Images(2)) > 0
    assert small_step.network.training
    assert batch_seconds(small_step.network, Images(0)) == 0


@pytest.fixture
def small_step() -> TrainStep:
    config = config_for("--width_mult", 0.35, "--ema_decay", 0.9, "--dropout", 0.5)
    with few_blocks():
        network = define_net(config, 2)
        ema = define_ema(config, network)
    step = TrainStep(network, CrossEntropyWithLabelSmooth(0.1),
                     build_optimizer(network, np.full(20, 0.1, np.float32), config), config, ema)
    step.set_train()
    return step


# ---- in checkpoints

@pytest.mark.parametrize("plans", [[(1, 3)], [(0, 3), (0, 2)], [(0, 0)], [(0, 3), (3, 4)]])
def test_plans_that_cannot_be(plans: list[tuple[int, int]]) -> None:
    def metadata(epoch: int) -> TrainingMetadata:
        return training_metadata(epoch, plans=[Plan(first, epochs, 224) for first, epochs in plans])

    with pytest.raises(ValueError, match="plan"):
        metadata(0)
    if len({first for first, _ in plans}) == len(plans) and plans != [(0, 0)]:
        metadata(3)
