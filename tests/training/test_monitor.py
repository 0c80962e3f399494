"""The log lines of a training, and what they wait for."""
from collections.abc import Iterator

import mindspore as ms
import numpy as np
import pytest
from conftest import EPOCH_LINE, STEP_LINE, config_for
from mindspore import Tensor

from src.model_utils.config import get_config
from src.training.monitor import Monitor
from src.training.state import TrainingState
from src.training.step import TrainStep


def test_log_lines_keep_their_form_and_the_epochs_mean(capsys: pytest.CaptureFixture) -> None:
    state, lr = TrainingState(), np.linspace(0.1, 0.01, 10).astype(np.float32)
    monitor = Monitor(state, lr, config_for("--epoch_size", 2, "--log_steps", 2), steps_per_epoch=5)
    for epoch in range(2):
        monitor.epoch_begin(epoch)
        for step in range(5):
            monitor.step_end(step, Tensor(float(step + epoch), ms.float32), Tensor(True))
        assert monitor.epoch_end() == pytest.approx(2 + epoch)  # the mean of all steps, not the last step's loss
        state.losses = []
    lines = capsys.readouterr().out.splitlines()
    step_lines = [line for line in lines if line.startswith("epoch: ")]
    assert [STEP_LINE.fullmatch(line) is not None for line in step_lines] == [True] * 6
    assert step_lines[0].startswith("epoch: [  0/  2], step:[    1/    5], loss:[1.000/0.500], ")
    assert step_lines[-1].startswith("epoch: [  1/  2], step:[    4/    5], loss:[5.000/3.000], ")
    assert step_lines[-1].endswith("lr:[0.010]")
    epoch_lines = [line for line in lines if line.startswith("epoch time: ")]
    assert [EPOCH_LINE.fullmatch(line) is not None for line in epoch_lines] == [True] * 2
    assert epoch_lines[0].endswith("avg loss: 2.000")


def test_steps_that_were_left_out_are_counted_and_kept_out_of_the_mean(capsys: pytest.CaptureFixture) -> None:
    monitor = Monitor(TrainingState(), np.ones(3, np.float32), config_for("--epoch_size", 1), steps_per_epoch=3)
    monitor.epoch_begin(0)
    for step, (loss, applied) in enumerate([(1.0, True), (np.inf, False), (3.0, True)]):
        assert monitor.step_end(step, Tensor(loss, ms.float32), Tensor(applied)) == (not applied)
    assert monitor.epoch_end() == 2.0
    assert "1 steps of this epoch left out" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("options", "fetched"), [
    (("--platform", "Ascend", "--log_steps", 4), [4, 8, 9]),
    (("--platform", "Ascend", "--log_steps", 4, "--save_checkpoint_steps", 3), [3, 4, 6, 8, 9]),
    (("--platform", "Ascend", "--log_steps", 4, "--on_nan", "skip"), list(range(1, 10))),
    (("--platform", "CPU", "--log_steps", 4), list(range(1, 10))),
])
def test_an_accelerator_waits_only_where_the_values_are_needed(options: tuple, fetched: list[int]) -> None:
    config = get_config([*map(str, options)])
    monitor = Monitor(TrainingState(), np.ones(9, np.float32), config, steps_per_epoch=9)
    monitor.epoch_begin(0)
    found = []
    for step in range(9):
        monitor.step_end(step, Tensor(1.0, ms.float32), Tensor(True))
        found += [step + 1] * monitor.is_fetched
    assert found == fetched


class Recorder:
    """Stands for a compiled step on a card, which returns before it is done: notes when its values are awaited."""

    grad_accum_steps, clear_overflow, device_feed = 1, None, None

    def __init__(self) -> None:
        self.calls: list[str] = []

    def batches(self, count: int) -> Iterator[tuple[int, int]]:
        for number in range(count):
            self.calls.append(f"fetch {number}")
            yield number, number

    def __call__(self, inputs: int, *_: object) -> tuple["Value", "Value"]:
        self.calls.append(f"start {inputs}")
        return Value(self, inputs), Value(self, inputs)


class Value:
    def __init__(self, recorder: Recorder, step: int) -> None:
        self._recorder, self._step = recorder, step

    def asnumpy(self) -> np.ndarray:
        self._recorder.calls.append(f"await {self._step}")
        return np.ones(())


def test_the_next_batch_is_fetched_and_started_before_a_result_is_awaited() -> None:
    """The calls of an epoch, as in `train.py`: between two log lines an accelerator always has work."""
    card = Recorder()
    config = get_config(["--platform", "Ascend", "--log_steps", "3"])
    monitor = Monitor(TrainingState(), np.ones(6, np.float32), config, steps_per_epoch=6)
    monitor.epoch_begin(0)
    for step, (loss, applied) in enumerate(TrainStep.over(card, card.batches(6))):  # type: ignore[arg-type]
        monitor.step_end(step, loss, applied)
    steps = [[f"fetch {number}", f"start {number}"] for number in range(6)]
    waits = [[f"await {number}"] * 2 for number in range(6)]
    assert card.calls == sum([*steps[:3], *waits[:3], *steps[3:], *waits[3:]], [])


def test_a_resumed_epoch_counts_the_losses_before_it() -> None:
    state = TrainingState(step=2, losses=[1.0, 2.0])
    monitor = Monitor(state, np.ones(4, np.float32), config_for("--epoch_size", 1), steps_per_epoch=4)
    monitor.epoch_begin(0)
    for step in (2, 3):
        monitor.step_end(step, Tensor(float(step + 1), ms.float32), Tensor(True))
    assert monitor.epoch_end() == 2.5


def test_form_of_the_published_lines() -> None:
    assert STEP_LINE.fullmatch("epoch: [  0/200], step:[  624/  625], loss:[5.258/5.258], time:[140412.236], "
                               "lr:[0.100]")
    assert EPOCH_LINE.fullmatch("epoch time: 140522.500, per step time: 224.836, avg loss: 5.258")
