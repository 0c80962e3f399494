"""A loss that is not finite stops a run, costs a step, or takes it back to the last checkpoint: never the weights."""
from pathlib import Path

import numpy as np
import pytest
from conftest import Images, config_for
from mindspore import Tensor, ops

from src.checkpoint.file import read_checkpoint
from src.distributed.world import World
from src.errors import UserError
from src.models import CrossEntropyWithLabelSmooth, define_net
from src.training.checkpointer import Checkpointer
from src.training.monitor import Monitor
from src.training.nonfinite import OVERFLOWS, ROLLBACKS, NonFiniteGuard
from src.training.optimizer import build_optimizer
from src.training.resume import Run
from src.training.step import TrainStep, batch_norm_statistics
from src.training.timing import Timing

STEPS = 50
LABELS = Tensor(np.array([0, 1, 1, 0], np.int32))


def batch(value: float | None = None) -> Tensor:
    pixels = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    if value is not None:
        pixels[1, 2, 3, 4] = value
    return Tensor(pixels)


class Compiled:
    """A real network and its step, which is compiled once; whether kernels are on is the machine's."""

    def __init__(self) -> None:
        self.config = config_for("--width_mult", 0.35, "--lr_max", 0.01, "--dropout", 0)
        self.network = define_net(self.config, 2)
        self.lr = np.full(STEPS, 0.01, np.float32)
        optimizer = build_optimizer(self.network, self.lr, self.config)
        self.step = TrainStep(self.network, CrossEntropyWithLabelSmooth(0.1), optimizer, self.config)
        self.step.set_train()
        self.parameters = [*self.step.get_parameters()]
        self.start = [Tensor(parameter.asnumpy().copy()) for parameter in self.parameters]


class Training:
    """A run from the start, with a folder of its own."""

    def __init__(self, compiled: Compiled, folder: Path) -> None:
        for parameter, value in zip(compiled.parameters, compiled.start, strict=True):
            ops.assign(parameter, value)  # set_data does not reach a compiled optimizer
        self.config = compiled.config.replace({"save_checkpoint_path": str(folder)})
        self.network, self.step = compiled.network, compiled.step
        run = Run(self.config, ("a", "b"), "digest", 1, STEPS)
        self.checkpointer = Checkpointer(run, self.step, self.network, None, Timing(), World())
        self.state = self.checkpointer.restore()
        self.monitor = Monitor(self.state, compiled.lr, self.config, STEPS)
        self.monitor.epoch_begin(0)

    def values(self, statistics: bool) -> list[np.ndarray]:
        chosen = batch_norm_statistics(self.network) if statistics else self.network.trainable_params()
        return [parameter.asnumpy().copy() for parameter in chosen]

    def take(self, pixels: Tensor, guard: NonFiniteGuard) -> int:
        bad_steps = self.monitor.step_end(self.state.step, *self.step(pixels, LABELS))
        self.state.step += 1
        guard.check(bad_steps, f"step {self.state.step}")
        return bad_steps


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture
def training(compiled: Compiled, tmp_path: Path) -> Training:
    return Training(compiled, tmp_path / "checkpoint")


def guard_of(training: Training, choice: str) -> NonFiniteGuard:
    changes = {"amp_level": "O2"} if choice == "overflow" else {"on_nan": choice}
    return NonFiniteGuard(training.config.replace(changes), batch_norm_statistics(training.step),
                          training.checkpointer.roll_back)


def test_rollback_without_a_checkpoint_stops(training: Training) -> None:
    with pytest.raises(UserError, match="no checkpoint to go back to; lower --lr_max"):
        training.take(batch(np.nan), guard_of(training, "rollback"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_stop_names_the_place_and_keeps_the_weights(training: Training, value: float) -> None:
    guard = guard_of(training, "stop")
    training.take(batch(), guard)
    before = training.values(statistics=False)
    with pytest.raises(UserError, match=f"not finite at step {training.state.step + 1}; lower --lr_max"):
        training.take(batch(value), guard)
    for old, new in zip(before, training.values(statistics=False), strict=True):
        np.testing.assert_array_equal(old, new)


def test_skip_leaves_weights_and_statistics_as_they_were(training: Training) -> None:
    guard = guard_of(training, "skip")
    training.take(batch(), guard)
    before = training.values(statistics=False) + training.values(statistics=True)
    training.take(batch(np.nan), guard)
    after = training.values(statistics=False) + training.values(statistics=True)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    training.monitor.epoch_begin(1)
    training.take(batch(np.nan), guard)  # the first step of an epoch, as many as in the one before
    for old, new in zip(before, training.values(statistics=False) + training.values(statistics=True), strict=True):
        np.testing.assert_array_equal(old, new)
    training.take(batch(), guard)
    assert np.isfinite(training.state.losses[-1])


def test_rollback_goes_to_the_last_checkpoint_and_gives_up_in_the_end(training: Training) -> None:
    guard = guard_of(training, "rollback")
    training.take(batch(), guard)
    training.checkpointer.save(training.state)
    saved = read_checkpoint(training.checkpointer.folder / "last.ckpt").network
    training.take(batch(), guard)
    counted = int(training.step.optimizer.global_step.asnumpy()[0])
    for _ in range(ROLLBACKS):
        training.take(batch(np.nan), guard)
        for name, value in training.network.parameters_dict().items():
            if name in saved:
                np.testing.assert_array_equal(value.asnumpy(), saved[name].asnumpy())
    assert int(training.step.optimizer.global_step.asnumpy()[0]) >= counted  # the schedule goes on
    with pytest.raises(UserError, match=f"{ROLLBACKS} rollbacks to the last checkpoint did not help"):
        training.take(batch(np.nan), guard)


def test_with_a_new_checkpoint_rolling_back_is_tried_anew(training: Training) -> None:
    guard = guard_of(training, "rollback")
    for _ in range(2):
        training.take(batch(), guard)
        training.checkpointer.save(training.state)
        for _ in range(ROLLBACKS):
            training.take(batch(np.nan), guard)
    with pytest.raises(UserError, match="did not help"):
        training.take(batch(np.nan), guard)


def test_under_float16_it_is_an_overflow_and_skipped(training: Training) -> None:
    assert training.take(batch(np.nan), guard_of(training, "overflow")) == 1


@pytest.mark.parametrize("fetched", [1, 7])  # steps at a time
def test_nothing_but_overflows_end_the_run(fetched: int) -> None:
    guard = NonFiniteGuard(config_for("--amp_level", "O2"), [], lambda: None)

    def take(steps: int, good: int) -> None:
        for step in range(1, steps + 1):
            guard.check(steps - good if step == steps else 0, "step 8")

    for _ in range(2):
        for _ in range((OVERFLOWS - 2) // fetched):
            take(fetched, good=0)
        take(2, good=1)
    with pytest.raises(UserError, match=r"10\d steps in a row overflowed float16, the last at step 8; lower"):
        for _ in range(OVERFLOWS):
            take(fetched, good=0)


def test_a_learning_rate_that_explodes_ends_in_one_line(images: Images, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    import train
    data = images({"train/ape": 8, "train/zebra": 8})
    monkeypatch.setattr("sys.argv", ["train.py", "--platform", "CPU", "--dataset_path", str(data), "--image_size", "32",
                                     "--width_mult", "0.35", "--batch_size", "4", "--warmup_epochs", "0", "--lr_max",
                                     "1e30", "--save_checkpoint_path", str(tmp_path / "checkpoint")])
    with pytest.raises(UserError, match=r"not finite at step \d of epoch 0, learning rate 1\.\d+e\+29"):
        train.main()


def test_after_a_rollback_the_step_goes_on_from_the_checkpoint(training: Training) -> None:
    """The compiled step itself, momenta included; and what it counts reaches the next checkpoint."""
    guard = guard_of(training, "rollback")
    training.take(batch(), guard)
    training.checkpointer.save(training.state)
    ends, counts = [], []
    for _ in range(2):
        training.take(batch(), guard)
        ends.append(training.values(statistics=False) + training.values(statistics=True))
        training.take(batch(), guard)
        training.checkpointer.roll_back()
        counts.append(int(training.step.optimizer.global_step.asnumpy()[0]))
    for first, second in zip(*ends, strict=True):
        np.testing.assert_array_equal(first, second)
    assert counts[1] == counts[0] + 2


def test_a_rollback_takes_back_the_updates_that_adamw_has_counted(tmp_path: Path) -> None:
    """With its moments, whose bias depends on them. The schedule's count stays."""
    config = config_for("--optimizer", "adamw", "--save_checkpoint_path", tmp_path)
    network = define_net(config, 2)
    optimizer = build_optimizer(network.head, np.full(STEPS, 0.01, np.float32), config)
    step = TrainStep(network.head, CrossEntropyWithLabelSmooth(0.1), optimizer, config)
    checkpointer = Checkpointer(Run(config, ("a", "b"), "digest", 1, STEPS), step, network, None, Timing(), World())
    state = checkpointer.restore()
    features = Tensor(np.ones((4, network.backbone.out_channels, 1, 1), np.float32))
    for state.step in (1, 2):
        step(features, LABELS)
    checkpointer.save(state)
    moments = [moment.asnumpy().copy() for moment in optimizer.moment2]
    for _ in range(3):
        step(features, LABELS)
    checkpointer.roll_back()
    assert (optimizer.updates.asnumpy().tolist(), optimizer.global_step.asnumpy().tolist()) == ([2], [5])
    for moment, wanted in zip(optimizer.moment2, moments, strict=True):
        np.testing.assert_array_equal(moment.asnumpy(), wanted)


def test_infinity_in_the_moving_statistics_is_taken_out_and_told(training: Training,
                                                                  caplog: pytest.LogCaptureFixture) -> None:
    """A forward pass that overflows leaves it there, although its step is left out; later steps do not take it out."""
    guard = guard_of(training, "overflow")
    training.take(batch(), guard)
    guard.repair_statistics("step 0")
    good = training.values(statistics=True)
    assert training.take(batch(np.inf), guard) == 1
    training.take(batch(), guard)
    assert not all(np.isfinite(value).all() for value in training.values(statistics=True))
    assert caplog.messages == []
    guard.repair_statistics("step 2")
    for value, wanted in zip(training.values(statistics=True), good, strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert caplog.messages == ["batch norm's moving statistics were not finite at step 2: a forward pass overflowed. "
                               "They are set back to those of step 0"]
    training.take(batch(), guard)
    assert all(np.isfinite(value).all() for value in training.values(statistics=True))
