"""`device_prefetch`: the next batch is sent while a step computes, and a run keeps its bits. No test has a card."""
import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from conftest import FEW_BLOCKS, Images, assert_same_run, config_for
from mindspore import Tensor, nn

import train
from src.checkpoint.file import Checkpoint, read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.data.image_folder import ImageFolder
from src.dataset import Batch, FeatureData
from src.distributed.world import ALONE
from src.model_utils.config import get_config
from src.models import define_net
from src.training import device_feed
from src.training.device_feed import DeviceFeed
from src.training.monitor import Monitor
from src.training.speed import batch_seconds
from src.training.step import TrainStep
from src.utils import network_parameters

STEPS = 3  # of an epoch

Calls = list[str]


# ---- a run has the same bits

class KilledError(Exception):
    """Ends a run within an epoch."""


@pytest.fixture
def nothing_runs_by_operators(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In PyNative mode a cell that is called runs operator by operator, with other bits on some devices."""
    call = nn.Cell.__call__

    def compiled_only(cell: nn.Cell, *args: Any) -> Any:  # noqa: ANN401 - as the call
        assert ms.get_context("mode") == ms.GRAPH_MODE, f"{type(cell).__name__} is not compiled"
        return call(cell, *args)

    monkeypatch.setattr(nn.Cell, "__call__", compiled_only)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


Run = Callable[..., Checkpoint]


@pytest.fixture
def run(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Trains 2 epochs with options, in a folder; returns the last checkpoint. `other.ckpt` has trained weights."""
    monkeypatch.setattr("src.mobilenetV2.INVERTED_RESIDUALS", FEW_BLOCKS[:2])
    photos, other = images({"train/ape": 7, "train/zebra": 5, "val/ape": 2, "val/zebra": 2}), tmp_path / "other.ckpt"
    write_checkpoint(other, network_parameters(define_net(config_for("--width_mult", 0.35), 2)), {},
                     CheckpointMetadata(classes=("ape", "zebra")))

    def train_in(folder: str, options: str) -> Checkpoint:
        words = ("--platform CPU --image_size 32 --width_mult 0.35 --batch_size 4 --epoch_size 2 --warmup_epochs 0 "
                 f"--save_checkpoint_steps 2 {options}").format(other=other).split()
        monkeypatch.setattr(sys, "argv", ["train.py", *words, "--dataset_path", str(photos),
                                          "--save_checkpoint_path", str(tmp_path / folder)])
        train.main()
        return read_checkpoint(tmp_path / folder / "last.ckpt")
    return train_in


@pytest.mark.parametrize("options", ["--cpu_kernels off --report False",
                                     "--freeze_layer backbone --pretrain_ckpt {other} --cpu_kernels off"])
@pytest.mark.usefixtures("nothing_runs_by_operators")
def test_a_run_has_the_bits_of_graph_mode(options: str, run: Run) -> None:
    expected = run("graph", options)
    assert ms.get_context("mode") == ms.GRAPH_MODE
    found = run("ahead", f"{options} --device_prefetch True")
    assert ms.get_context("mode") == ms.PYNATIVE_MODE
    assert found.training.step == 2 * STEPS
    assert_same_run(found, expected)


@pytest.mark.usefixtures("nothing_runs_by_operators")
def test_a_run_that_was_killed_and_resumed_has_them_too(run: Run, tmp_path: Path) -> None:
    """With all that calls a network: a teacher, a classifier fitted first, statistics measured anew, a report."""
    options = ("--cpu_kernels on --ema_decay 0.5 --mixup_alpha 0.4 --precise_bn True --linear_probe True "
               "--pretrain_ckpt {other} --kd_teacher {other}")
    expected = run("graph", options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "step_end", killed_at_the_last_step(Monitor.step_end))
        with pytest.raises(KilledError):
            run("killed", f"{options} --device_prefetch True")
    shutil.copytree(tmp_path / "killed", tmp_path / "ahead")  # this process has the first folder still
    assert read_checkpoint(tmp_path / "ahead" / "last.ckpt").training.step == STEPS - 1
    found = run("ahead", f"{options} --device_prefetch True")
    assert found.training.step == 2 * STEPS
    assert_same_run(found, expected)


def killed_at_the_last_step(step_end: Any) -> Any:  # noqa: ANN401 - functions of `Monitor`
    def killed(monitor: Monitor, step: int, loss: Tensor, applied: Tensor) -> int:
        if step == STEPS - 1:
            raise KilledError
        return step_end(monitor, step, loss, applied)
    return killed


@pytest.mark.usefixtures("nothing_runs_by_operators")
def test_an_evaluation_that_is_measured_is_compiled_too() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    data = FeatureData(np.ones((4, 5), np.float32), np.zeros(4, np.int32), 2, training=False)
    assert batch_seconds(nn.Dense(5, 3), data) > 0


# ---- the order of calls on a card

class Stream:
    """Stands for a stream of a card: notes what waits for what. An event is the number of steps before it."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls, self._name = calls, name

    def record_event(self) -> int:
        return sum(call.startswith("start") for call in self._calls)

    def wait_event(self, steps: int) -> None:
        self._calls.append(f"{self._name} wait for {steps} steps")

    def wait_stream(self, other: "Stream") -> None:
        self._calls.append(f"{self._name} wait for {other._name}")


class Card:
    """Stands for a training step on a card, which returns before it is done: notes when its result is awaited."""

    grad_accum_steps, clear_overflow = 1, None

    def __init__(self, calls: Calls) -> None:
        self.calls, self.device_feed = calls, DeviceFeed("Ascend")

    def __call__(self, inputs: Any, *_: object) -> str:  # noqa: ANN401 - of what a batch is made
        self.calls.append(f"start {inputs}")
        return f"await {inputs}"


class Host:
    """Stands for inputs or labels in the host's memory."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls, self._name = calls, name

    def to(self, device: str, *, non_blocking: bool) -> str:
        assert (device, non_blocking) == ("Ascend", True)
        self._calls.append(f"send {self._name}")
        return self._name


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What happens on a card, in order."""
    found: Calls = []
    steps, copies = Stream(found, "steps"), Stream(found, "copies")
    monkeypatch.setattr(device_feed.runtime, "Stream", lambda: copies)
    monkeypatch.setattr(device_feed.runtime, "current_stream", lambda: steps)

    @contextlib.contextmanager
    def stream_context(stream: Stream) -> Iterator[None]:
        assert stream is copies
        found.append("copies begin")
        yield
        found.append("copies end")

    monkeypatch.setattr(device_feed.runtime, "StreamCtx", stream_context)
    return found


def host_batches(calls: Calls, count: int) -> Iterator[tuple[Host, Host]]:
    for number in range(count):
        calls.append(f"fetch {number}")
        yield Host(calls, f"{number}"), Host(calls, f"labels {number}")
    calls.append("the epoch has no more batches")


def sent(number: int, steps: int) -> Calls:
    """The calls that send a batch, on a stream of their own, after so many steps."""
    return [f"fetch {number}", f"copies wait for {steps} steps", "copies begin", f"send {number}",
            f"send labels {number}", "copies end"]


def test_a_batch_is_sent_before_the_result_of_the_step_before_it_is_awaited(calls: Calls) -> None:
    """A copy waits for all steps but the one that computes meanwhile; a step waits for its own batch alone."""
    card = Card(calls)
    for result in TrainStep.over(card, host_batches(calls, 4), steps=3):  # type: ignore[arg-type]
        calls.append(str(result))
    assert calls == [*sent(0, 0), "steps wait for copies", "start 0", *sent(1, 0), "await 0",
                     "steps wait for copies", "start 1", *sent(2, 1), "await 1",
                     "steps wait for copies", "start 2", "await 2"]  # the last step of an epoch waits for no batch


def test_each_batch_of_a_step_is_sent_during_the_one_before(calls: Calls) -> None:
    card = Card(calls)
    card.grad_accum_steps = 2
    results = list(TrainStep.over(card, host_batches(calls, 5), steps=2))  # type: ignore[arg-type]
    assert results == ["await 1", "await 3"]
    assert [call for call in calls if call.startswith(("send 0", "send 1", "send 2", "send 3", "send 4", "start"))] == [
        "send 0", "start 0", "send 1", "start 1", "send 2", "start 2", "send 3", "start 3"]


def test_a_new_epoch_begins_with_its_own_first_batch(calls: Calls) -> None:
    card = Card(calls)
    next(TrainStep.over(card, host_batches(calls, 3)))  # type: ignore[arg-type]
    calls.clear()
    assert next(TrainStep.over(card, host_batches(calls, 3))) == "await 0"  # type: ignore[arg-type]
    assert calls[:2] == ["fetch 0", "copies wait for 0 steps"]


def test_pixels_go_to_the_card_as_uint8_and_labels_with_them(calls: Calls, images: Images,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def to(tensor: Tensor, device: str, *, non_blocking: bool) -> Tensor:
        found.append((device, non_blocking, tensor.dtype, tensor.shape))
        return tensor

    monkeypatch.setattr(Tensor, "to", to)
    folder = ImageFolder.scan(images({"ape": 3, "zebra": 3}))
    config = get_config(["--platform", "Ascend", "--image_size", "32", "--batch_size", "3"])
    data = train.data_source(config, ALONE, folder, None, training=True)  # type: ignore[arg-type] # not frozen
    batches: list[Batch] = list(DeviceFeed("Ascend").begin(data.epoch(0)))
    assert len(batches) == 2
    assert found == 2 * [("Ascend", True, ms.uint8, (3, 3, 32, 32)), ("Ascend", True, ms.int32, (3,))]
