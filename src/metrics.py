"""Metrics of logits and labels: accuracy, loss, the confusion matrix, mistakes. It needs numpy alone."""
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

MOST_MISTAKES = 24  # mistakes that a result shows: those with the highest probability of the wrong class
MOST_LOGITS = 2 ** 22  # numbers that a result keeps, 16 MB: those of 4194 images of ImageNet
# What is kept of every image. Logits are kept of some images alone: on ImageNet they are a thousand numbers.
JUDGED = np.dtype([("label", np.int32), ("predicted", np.int32), ("probability", np.float32), ("loss", np.float32),
                   ("right1", np.bool_), ("right5", np.bool_)])
# A misclassified image: its position in the folder, its class, the predicted class and its probability.
MISTAKE = np.dtype([("position", np.int64), ("label", np.int32), ("predicted", np.int32), ("probability", np.float32)])
Z_95 = 1.959963984540054  # a normal variable is within so many deviations with a probability of 95 %


@dataclass(frozen=True)
class EvalResult:
    """The result of an evaluation.

    Args:
        judged: N `JUDGED`, one for each image in the order of the folder.
        classes: C, which the network tells apart.
        logits: M x C float32, those of every `stride`-th image. M is 0 if none were kept.
        stride: see `logit_stride`.
    """

    judged: np.ndarray
    classes: int
    logits: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    stride: int = 1

    @property
    def images(self) -> int:
        """N."""
        return len(self.judged)

    @property
    def scored(self) -> np.ndarray:
        """M `JUDGED`: the images whose logits were kept."""
        return self.judged[::self.stride][:len(self.logits)]

    @property
    def correct1(self) -> int:
        """The images whose class has the largest logit."""
        return int(self.judged["right1"].sum())

    @property
    def correct5(self) -> int:
        """The images whose class is among the five largest logits."""
        return int(self.judged["right5"].sum())

    @property
    def top1(self) -> float:
        """Share of the images whose class has the largest logit."""
        return self.correct1 / self.images

    @property
    def top5(self) -> float:
        """Share of the images whose class is among the five largest logits."""
        return self.correct5 / self.images

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return float(self.judged["loss"].mean(dtype=np.float64))

    @cached_property
    def confusion(self) -> np.ndarray:
        """C x C int64: `confusion[i, j]` counts the images of class i that were predicted as class j."""
        confusion = np.zeros((self.classes, self.classes), np.int64)
        np.add.at(confusion, (self.judged["label"], self.judged["predicted"]), 1)
        return confusion

    @property
    def balanced_accuracy(self) -> float:
        """The mean of the recalls of all classes that have images: every class counts the same, however rare."""
        return float(class_scores(self.confusion)[self.confusion.any(axis=1), RECALL].mean())

    @property
    def macro_f1(self) -> float:
        """The mean of the F1 of all classes that have images or predictions."""
        seen = self.confusion.any(axis=0) | self.confusion.any(axis=1)
        return float(class_scores(self.confusion)[seen, F1].mean())

    @property
    def mistakes(self) -> np.ndarray:
        """The `MISTAKE`s with the highest probability of the wrong class, highest first; without those of NaN."""
        judged = self.judged
        wrong = np.flatnonzero((judged["label"] != judged["predicted"]) & np.isfinite(judged["probability"]))
        chosen = wrong[np.argsort(-judged["probability"][wrong], kind="stable")][:MOST_MISTAKES]
        mistakes = np.empty(len(chosen), MISTAKE)
        mistakes["position"] = chosen
        for name in ("label", "predicted", "probability"):
            mistakes[name] = judged[name][chosen]
        return mistakes

    def __str__(self) -> str:
        low, high = wilson_interval(self.correct1, self.images)
        return str({"acc": self.top1, "top5": self.top5, "images": self.images,
                    "acc_95": (round(low, 4), round(high, 4)), "balanced_acc": round(self.balanced_accuracy, 6),
                    "macro_f1": round(self.macro_f1, 6)})


def logit_stride(images: int, classes: int) -> int:
    """n, where the logits of every n-th image are kept, from the first on: about `MOST_LOGITS` numbers at most."""
    return max(1, -(-images * classes // MOST_LOGITS))


def top5(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The five classes with the largest logits, and whether each is the label: N x 5 int64 and N x 5 bool.

    Among equal logits the lower class comes first. A row with NaN or infinity is never right.
    """
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    return order, (order == labels[:, None]) & np.isfinite(logits).all(axis=1, keepdims=True)


def judge(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compare N x C logits with N labels; returns N `JUDGED`. `top5` says which are right."""
    order, right = top5(logits, labels)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    judged = np.empty(len(labels), JUDGED)
    judged["label"], judged["predicted"] = labels, order[:, 0]
    judged["probability"] = np.exp(-log_sum)
    judged["loss"] = log_sum - shifted[np.arange(len(labels)), labels]
    judged["right1"], judged["right5"] = right[:, 0], right.any(axis=1)
    return judged


PRECISION, RECALL, F1 = range(3)  # columns of `class_scores`


def class_scores(confusion: np.ndarray) -> np.ndarray:
    """C x 3: precision, recall and F1 of each class; 0 for a division by 0."""
    right = np.diag(confusion).astype(float)
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    scores = right / np.maximum(1, predicted), right / np.maximum(1, support), \
        2 * right / np.maximum(1, predicted + support)
    return np.stack(scores, axis=1)


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share, of which `right` of `images` tell: Wilson's score interval.

    Brown, Cai, DasGupta, "Interval Estimation for a Binomial Proportion", equation 4,
    https://doi.org/10.1214/ss/1009213286. Unlike the usual one it is right for few images and near 0 and 1, too.
    """
    square = Z_95 ** 2
    share = right / images
    centre = (share + square / (2 * images)) / (1 + square / images)
    half = Z_95 / (1 + square / images) * math.sqrt(share * (1 - share) / images + square / (4 * images ** 2))
    return max(0.0, centre - half), min(1.0, centre + half)
