"""Scores of a network on a data source, every image exactly once, on any number of ranks."""

import numpy as np
from mindspore import nn
from tqdm import tqdm

from src.dataset import PADDING, Data
from src.distributed.collectives import gather_rows, sum_counts, sum_floats
from src.distributed.world import World
from src.metrics import JUDGED, MISTAKE, MISTAKE_COLUMNS, MOST_MISTAKES, Score, count, judge, surest


def evaluate(network: nn.Cell, data: Data, world: World) -> Score:
    """Score a network, each rank on its own images; every rank gets the score of them all.

    The network is left in the mode (training or not) in which it was. Padding that fills up the last batch is left out
    of every count.
    """
    training = network.training
    network.set_train(False)
    judged, classes = [np.empty(0, JUDGED)], 0
    for inputs, batch_labels in tqdm(data.epoch(0), total=data.steps_per_epoch, desc="eval", leave=False,
                                     disable=None if world.is_first else True):
        real = batch_labels.asnumpy() != PADDING
        logits = network(inputs).asnumpy()[real].astype(np.float32)
        judged.append(judge(logits, batch_labels.asnumpy()[real]))
        classes = logits.shape[1]
    network.set_train(training)
    images = np.concatenate(judged)
    if len(images) != data.images:
        raise AssertionError(f"{len(images)} images were scored of {data.images}")
    # A rank has every `rank_size`-th image of the folder.
    positions = world.rank + world.rank_size * np.arange(len(images))
    return _sum_scores(count(images, classes, positions), world)


def _sum_scores(score: Score, world: World) -> Score:
    """One score from each rank's, some of which may have had no images."""
    if world.rank_size == 1:
        return score
    own = (score.correct1, score.correct5, score.images, len(score.confusion), score.images > 0)
    correct1, correct5, images, classes, scorers = sum_counts(np.array(own, np.int64), world)
    confusion = score.confusion if score.images else np.zeros((classes // scorers,) * 2, np.int64)
    loss = sum_floats(np.array([score.loss * score.images]), world)[0]
    return Score(int(correct1), int(correct5), int(images), float(loss / images), sum_counts(confusion, world),
                 _gather_mistakes(score.mistakes, world))


def _gather_mistakes(mistakes: np.ndarray, world: World) -> np.ndarray:
    """The worst of all ranks' mistakes. Float32 carries the numbers of an image exactly up to 2^24."""
    rows = np.zeros((MOST_MISTAKES, len(MISTAKE_COLUMNS)), np.float32)  # a probability of 0: no mistake here
    for column, name in enumerate(MISTAKE_COLUMNS):
        rows[:len(mistakes), column] = mistakes[name]
    rows = gather_rows(rows.ravel(), world).reshape(-1, len(MISTAKE_COLUMNS))
    rows = rows[rows[:, -1] > 0]
    gathered = np.empty(len(rows), MISTAKE)
    for column, name in enumerate(MISTAKE_COLUMNS):
        gathered[name] = rows[:, column]
    return surest(gathered)
