"""Metrics of logits and labels: accuracy, loss, the confusion matrix, mistakes. It needs numpy alone."""
from dataclasses import dataclass, field

import numpy as np

MOST_MISTAKES = 24  # mistakes that a result keeps: those with the highest probability of the wrong class
# What is kept of each image. The logits are not: on ImageNet they are a thousand numbers.
JUDGED = np.dtype([("label", np.int32), ("predicted", np.int32), ("probability", np.float32), ("loss", np.float32),
                   ("right1", np.bool_), ("right5", np.bool_)])
# A misclassified image: its position in the folder, its class, the predicted class and its probability.
MISTAKE = np.dtype([("position", np.int64), ("label", np.int32), ("predicted", np.int32), ("probability", np.float32)])
MISTAKE_COLUMNS = ("position", "label", "predicted", "probability")


@dataclass(frozen=True)
class EvalResult:
    """The result of an evaluation. `confusion[i, j]` counts the images of class i that were predicted as class j."""

    correct1: int
    correct5: int
    images: int
    loss: float  # mean cross entropy
    confusion: np.ndarray
    mistakes: np.ndarray = field(default_factory=lambda: np.empty(0, MISTAKE))  # most confident first

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


def count(judged: np.ndarray, classes: int, positions: np.ndarray) -> EvalResult:
    """Count N `JUDGED` images at these positions of their folder."""
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (judged["label"], judged["predicted"]), 1)
    wrong = judged["label"] != judged["predicted"]
    mistakes = np.empty(int(wrong.sum()), MISTAKE)
    mistakes["position"] = positions[wrong]
    for name in ("label", "predicted", "probability"):
        mistakes[name] = judged[name][wrong]
    return EvalResult(
        correct1=int(judged["right1"].sum()),
        correct5=int(judged["right5"].sum()),
        images=len(judged),
        loss=float(judged["loss"].mean()) if len(judged) else 0.0,
        confusion=confusion,
        mistakes=most_confident(mistakes),
    )


def most_confident(mistakes: np.ndarray) -> np.ndarray:
    """The mistakes with the highest probability of the wrong class, highest first; without those of NaN."""
    finite = mistakes[np.isfinite(mistakes["probability"])]
    return finite[np.lexsort((finite["position"], -finite["probability"]))][:MOST_MISTAKES]
