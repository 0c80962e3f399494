"""Finds likely label errors by confident learning.

Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", sections 3.1 and 3.2,
https://arxiv.org/abs/1911.00068. It needs the probabilities of networks that were not trained on the image: a network
has learnt the labels of its own images, the wrong ones, too.
"""
import numpy as np

# A likely label error: position of the image, its given and its likely class, the probabilities of both, and the
# margin: the probability of the given class less the largest one of another class, from -1 to 1.
LABEL_ERROR = np.dtype([("position", np.int64), ("label", np.int32), ("likely", np.int32), ("given", np.float32),
                        ("other", np.float32), ("margin", np.float32)])


def find_label_errors(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The images whose given label the probabilities deny.

    The threshold of a class is the mean probability that its own images have of it, so that classes that are hard to
    learn are not blamed for it. An image seems to be of the most likely class of those whose thresholds it reaches. It
    is a likely error if that is not the given class, and the given class is not the most likely of all, either.

    Args:
        probabilities: N x C, of networks that were not trained on the image.
        labels: N, the given class of each image.

    Returns:
        `LABEL_ERROR`s, the smallest margin first.
    """
    images = np.arange(len(labels))
    given = probabilities[images, labels]
    reached = np.where(probabilities >= class_thresholds(probabilities, labels), probabilities, -1.0)
    likely = reached.argmax(axis=1)
    others = probabilities.copy()
    others[images, labels] = -1.0
    margins = given - others.max(axis=1)
    denied = np.flatnonzero((reached.max(axis=1) >= 0) & (likely != labels) & (margins < 0))
    denied = denied[np.argsort(margins[denied], kind="stable")]
    found = np.empty(len(denied), LABEL_ERROR)
    found["position"], found["label"], found["likely"] = denied, labels[denied], likely[denied]
    found["given"], found["other"] = given[denied], probabilities[denied, likely[denied]]
    found["margin"] = margins[denied]
    return found


def class_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """C: the mean probability of each class over the images that have it as their label; infinity without images."""
    images = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], minlength=probabilities.shape[1])
    return np.where(images > 0, sums / np.maximum(1, images), np.inf)
