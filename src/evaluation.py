"""Scores of a network on a data source, every image exactly once."""
from dataclasses import dataclass

import numpy as np
from mindspore import nn
from tqdm import tqdm

from src.collectives import sum_counts, sum_floats
from src.dataset import PADDING, Data
from src.device import World


@dataclass(frozen=True)
class Score:
    """What an evaluation counted. `confusion[i, j]`: images of class i that were taken for class j."""

    correct1: int
    correct5: int
    images: int
    loss: float  # mean cross entropy
    confusion: np.ndarray

    @property
    def top1(self) -> float:
        """Share of the images whose class has the largest logit."""
        return self.correct1 / self.images

    @property
    def top5(self) -> float:
        """Share of the images whose class is among the five largest logits."""
        return self.correct5 / self.images

    def __str__(self) -> str:
        return str({"acc": self.top1, "top5": self.top5, "images": self.images})


def evaluate(network: nn.Cell, data: Data, world: World) -> Score:
    """Score a network, each rank on its own pictures; every rank gets the score of them all.

    The network is left in the mode (training or not) in which it was. Padding that fills up the last batch is left out
    of every count.
    """
    training = network.training
    network.set_train(False)
    rows, labels = [], []
    for inputs, batch_labels in tqdm(data.epoch(0), total=data.steps_per_epoch, desc="eval", leave=False,
                                     disable=None if world.is_first else True):
        real = batch_labels.asnumpy() != PADDING
        rows.append(network(inputs).asnumpy()[real].astype(np.float32))
        labels.append(batch_labels.asnumpy()[real])
    network.set_train(training)
    score = count(np.concatenate(rows), np.concatenate(labels)) if rows else None
    scored = score.images if score else 0
    if scored != data.images:
        raise AssertionError(f"{scored} images were scored of {data.images}")
    return _sum_scores(score, world)


def count(logits: np.ndarray, labels: np.ndarray) -> Score:
    """Score N x C logits against N labels. Among equal logits the lower class comes first; a NaN is never right."""
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    right = (order == labels[:, None]) & np.isfinite(logits).all(axis=1, keepdims=True)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    confusion = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    return Score(
        correct1=int(right[:, 0].sum()),
        correct5=int(right.any(axis=1).sum()),
        images=len(labels),
        loss=float((log_sum - shifted[np.arange(len(labels)), labels]).mean()),
        confusion=confusion,
    )


def _sum_scores(score: Score | None, world: World) -> Score:
    """One score from each rank's; None from a rank that had no pictures."""
    if score is not None and world.rank_size == 1:
        return score
    own = (score.correct1, score.correct5, score.images, len(score.confusion), 1) if score else (0,) * 5
    correct1, correct5, images, classes, scorers = sum_counts(np.array(own, np.int64), world)
    confusion = score.confusion if score else np.zeros((classes // scorers,) * 2, np.int64)
    loss = sum_floats(np.array([score.loss * score.images if score else 0.0]), world)[0]
    return Score(int(correct1), int(correct5), int(images), float(loss / images), sum_counts(confusion, world))
