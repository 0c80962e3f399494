"""Measures how long the parts of a run take on this machine, without a trace in the run."""
import dataclasses
import time
from collections.abc import Iterator
from itertools import chain, count, islice, repeat

from mindspore import Tensor, nn, ops

from src.compiled import compiled
from src.dataset import Data
from src.training.step import TrainStep

MEASURED = 6  # steps, or batches of an evaluation, besides the first one, which is compiled


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds of the parts of an epoch."""

    training: float  # with images of `size`
    size: int  # height and width in pixels
    rest: float  # evaluation and checkpoint

    def epoch(self, size: int) -> float:
        """Seconds of an epoch with images of a size: the work grows with the pixels."""
        return self.training * (size / self.size) ** 2 + self.rest

    def corrected(self, size: int, seconds: float) -> "Speed":
        """This speed after an epoch of that size took so many seconds."""
        factor = seconds / self.epoch(size)
        return dataclasses.replace(self, training=self.training * factor, rest=self.rest * factor)


def step_seconds(train_step: TrainStep, data: Data) -> float:
    """Mean seconds of a training step with its images. All parameters are as before afterwards.

    The graph that is compiled here is that of the training, so nothing is compiled twice.
    """
    before = [(parameter, parameter.asnumpy().copy()) for parameter in train_step.get_parameters()]
    batches = chain.from_iterable(map(data.epoch, count()))
    seconds = _mean_seconds(loss for loss, _ in train_step.over(batches))
    for parameter, value in before:
        ops.assign(parameter, Tensor(value))
    return seconds


def batch_seconds(network: nn.Cell, data: Data) -> float:
    """Mean seconds of a batch in an evaluation; 0 if this rank has no images."""
    if data.steps_per_epoch == 0:
        return 0.0
    training = network.training
    network.set_train(False)
    forward = compiled(network)
    batches = chain.from_iterable(map(data.epoch, repeat(0)))
    seconds = _mean_seconds(forward(inputs) for inputs, _ in batches)
    network.set_train(training)
    return seconds


def _mean_seconds(results: Iterator[Tensor]) -> float:
    next(results).asnumpy()
    begin = time.perf_counter()
    for result in islice(results, MEASURED):
        result.asnumpy()  # an accelerator computes until here
    return (time.perf_counter() - begin) / MEASURED
