"""Scores of a network on a data source, every image exactly once."""
from dataclasses import dataclass, field

import numpy as np
from mindspore import nn
from tqdm import tqdm

from src.dataset import PADDING, Data
from src.distributed.collectives import gather_rows, sum_counts, sum_floats
from src.distributed.device import World

MOST_MISTAKES = 24  # wrong images that a score remembers: those that the network was surest of
# What is kept of each image; its logits, a thousand numbers on ImageNet, are not.
JUDGED = np.dtype([("label", np.int32), ("predicted", np.int32), ("probability", np.float32), ("loss", np.float32),
                   ("right1", np.bool_), ("right5", np.bool_)])
# An image that was taken for another class: its position in the folder, and the probability of the wrong class.
MISTAKE = np.dtype([("position", np.int64), ("label", np.int32), ("predicted", np.int32), ("probability", np.float32)])
MISTAKE_COLUMNS = ("position", "label", "predicted", "probability")


@dataclass(frozen=True)
class Score:
    """What an evaluation counted. `confusion[i, j]`: images of class i that were taken for class j."""

    correct1: int
    correct5: int
    images: int
    loss: float  # mean cross entropy
    confusion: np.ndarray
    mistakes: np.ndarray = field(default_factory=lambda: np.empty(0, MISTAKE))  # surest first, at most MOST_MISTAKES

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


def judge(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """N x C logits against N labels: N `JUDGED`. Among equal logits the lower class comes first; a NaN is never right.
    """
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    right = (order == labels[:, None]) & np.isfinite(logits).all(axis=1, keepdims=True)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    judged = np.empty(len(labels), JUDGED)
    judged["label"], judged["predicted"] = labels, order[:, 0]
    judged["probability"] = np.exp(-log_sum)
    judged["loss"] = log_sum - shifted[np.arange(len(labels)), labels]
    judged["right1"], judged["right5"] = right[:, 0], right.any(axis=1)
    return judged


def count(judged: np.ndarray, classes: int, positions: np.ndarray) -> Score:
    """Count N `JUDGED` images at these positions of their folder."""
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (judged["label"], judged["predicted"]), 1)
    wrong = judged["label"] != judged["predicted"]
    mistakes = np.empty(int(wrong.sum()), MISTAKE)
    mistakes["position"] = positions[wrong]
    for name in ("label", "predicted", "probability"):
        mistakes[name] = judged[name][wrong]
    return Score(
        correct1=int(judged["right1"].sum()),
        correct5=int(judged["right5"].sum()),
        images=len(judged),
        loss=float(judged["loss"].mean()) if len(judged) else 0.0,
        confusion=confusion,
        mistakes=_surest(mistakes),
    )


def _surest(mistakes: np.ndarray) -> np.ndarray:
    """The worst mistakes, surest first; those of a network that gave NaN, which was sure of nothing, are left out."""
    finite = mistakes[np.isfinite(mistakes["probability"])]
    return finite[np.lexsort((finite["position"], -finite["probability"]))][:MOST_MISTAKES]


def _sum_scores(score: Score, world: World) -> Score:
    """One score from each rank's, some of which may have had no pictures."""
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
    return _surest(gathered)
