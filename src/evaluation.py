"""Evaluates a network on a data source: every image exactly once, on any number of ranks."""

import numpy as np
from mindspore import nn
from tqdm import tqdm

from src.dataset import IGNORE_INDEX, Data
from src.distributed.collectives import all_gather, all_reduce, sum_counts
from src.distributed.world import World
from src.metrics import JUDGED, MISTAKE, MISTAKE_COLUMNS, MOST_MISTAKES, EvalResult, count, judge, most_confident


def evaluate(network: nn.Cell, data: Data, world: World) -> EvalResult:
    """Evaluate a network, each rank on its own images. Every rank gets the result over all images.

    The network keeps its mode (training or not). The copies that fill the last batch do not count.
    """
    training = network.training
    network.set_train(False)
    judged, classes = [np.empty(0, JUDGED)], 0
    for inputs, batch_labels in tqdm(data.epoch(0), total=data.steps_per_epoch, desc="eval", leave=False,
                                     disable=None if world.is_main_process else True):
        real = batch_labels.asnumpy() != IGNORE_INDEX
        logits = network(inputs).asnumpy()[real].astype(np.float32)
        judged.append(judge(logits, batch_labels.asnumpy()[real]))
        classes = logits.shape[1]
    network.set_train(training)
    images = np.concatenate(judged)
    if len(images) != data.images:
        raise AssertionError(f"{len(images)} images were scored of {data.images}")
    # A rank has every `rank_size`-th image of the folder.
    positions = world.rank + world.rank_size * np.arange(len(images))
    return _sum_results(count(images, classes, positions), world)


def _sum_results(result: EvalResult, world: World) -> EvalResult:
    """One result from the results of all ranks. Some ranks may have had no images."""
    if world.rank_size == 1:
        return result
    own = (result.correct1, result.correct5, result.images, len(result.confusion), result.images > 0)
    correct1, correct5, images, classes, scorers = sum_counts(np.array(own, np.int64), world)
    confusion = result.confusion if result.images else np.zeros((classes // scorers,) * 2, np.int64)
    loss = all_reduce(np.array([result.loss * result.images]), world)[0]
    return EvalResult(int(correct1), int(correct5), int(images), float(loss / images), sum_counts(confusion, world),
                 _gather_mistakes(result.mistakes, world))


def _gather_mistakes(mistakes: np.ndarray, world: World) -> np.ndarray:
    """The most confident mistakes of all ranks. They go as float32, which is exact for positions up to 2^24."""
    rows = np.zeros((MOST_MISTAKES, len(MISTAKE_COLUMNS)), np.float32)  # probability 0 marks an empty row
    for column, name in enumerate(MISTAKE_COLUMNS):
        rows[:len(mistakes), column] = mistakes[name]
    rows = all_gather(rows.ravel(), world).reshape(-1, len(MISTAKE_COLUMNS))
    rows = rows[rows[:, -1] > 0]
    gathered = np.empty(len(rows), MISTAKE)
    for column, name in enumerate(MISTAKE_COLUMNS):
        gathered[name] = rows[:, column]
    return most_confident(gathered)
