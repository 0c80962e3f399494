"""How far the probabilities of a network can be trusted: calibration, temperature, and the threshold for "unsure".

Guo, Pleiss, Sun, Weinberger: "On Calibration of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599.
It needs numpy alone. (src/quantization/calibration.py is something else: the ranges of an eight-bit network's numbers.)
"""
import math
from dataclasses import dataclass

import numpy as np

from src.metrics import EvalResult

BINS = 15  # of the reliability diagram, as in the paper
COLDEST, HOTTEST = 0.05, 20.0  # the temperatures that are searched
HALVINGS = 30  # of that range in logarithms: the temperature is exact to 8 digits
ALL_UNSURE = 1.0  # the threshold where not even the highest probabilities can be trusted


@dataclass(frozen=True)
class Confidence:
    """What turns the logits of a network into probabilities that can be trusted.

    Raises:
        ValueError: a value is out of its bounds.
    """

    temperature: float = 1.0  # the logits are divided by it before the softmax
    unsure_below: float | None = None  # an image whose calibrated top-1 probability is less is unsure; None: unknown

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError("temperature must be a number above 0")
        if self.unsure_below is not None and not 0 <= self.unsure_below <= 1:
            raise ValueError("unsure_below must be 0 to 1")

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """N x C logits to N x C float64 probabilities, calibrated."""
        return softmax(logits, self.temperature)

    def is_unsure(self, probability: float) -> bool | None:
        """Whether an image is unsure, by its calibrated top-1 probability; None if no threshold is known."""
        return None if self.unsure_below is None else not probability >= self.unsure_below  # NaN is unsure


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: the images in `BINS` bins of equal width by their top-1 probability.

    `images` is int64, `probability` and `accuracy` are float64 means of a bin's images, 0 in an empty bin.
    """

    images: np.ndarray
    probability: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean distance of probability and accuracy, weighted by images."""
        return float((self.images * np.abs(self.accuracy - self.probability)).sum() / self.images.sum())


@dataclass(frozen=True)
class CoverageCurve:
    """What share of the images is as sure as a threshold, and how many of these are right. One entry per threshold.

    `thresholds` (M, falling) are the probabilities that occur, `coverage` (rising) and `accuracy` are shares.
    """

    thresholds: np.ndarray
    coverage: np.ndarray
    accuracy: np.ndarray

    def unsure_below(self, target: float) -> float:
        """The smallest threshold at which the images that reach it are right in a share of `target`.

        0 if that is so for all images together, `ALL_UNSURE` if it is so for no threshold. Otherwise it is in the
        middle between two probabilities that occur, so that rounding does not move an image across it.
        """
        reached = np.flatnonzero(self.accuracy >= target)
        if not len(reached):
            return ALL_UNSURE
        last = reached[-1]
        return 0.0 if last == len(self.thresholds) - 1 else float(self.thresholds[last:last + 2].mean())


@dataclass(frozen=True)
class ConfidenceCheck:
    """How sure a network was of n scored images, and how often it was right.

    Args:
        confidence: the temperature and the threshold.
        is_own: whether these were fitted on the same images.
        positions: n int64, of the images among all that were scored, rising.
        target: the share of right answers that the threshold was chosen for.
        raw: n float32 top-1 probabilities at temperature 1.
        calibrated: the same at the temperature.
        right: n bool.

    Raises:
        ValueError: the arrays do not fit together.
    """

    confidence: Confidence
    is_own: bool
    target: float
    positions: np.ndarray
    raw: np.ndarray
    calibrated: np.ndarray
    right: np.ndarray

    def __post_init__(self) -> None:
        shapes = {values.shape for values in (self.positions, self.raw, self.calibrated, self.right)}
        if len(shapes) != 1 or len(self.raw.shape) != 1 or not len(self.raw) or self.right.dtype != np.bool_ or not all(
                ((values >= 0) & (values <= 1)).all() for values in (self.raw, self.calibrated)):
            raise ValueError("no probabilities of images")

    @property
    def before(self) -> Reliability:
        """At temperature 1."""
        return reliability(self.raw, self.right)

    @property
    def after(self) -> Reliability:
        """At the temperature."""
        return reliability(self.calibrated, self.right)

    @property
    def curve(self) -> CoverageCurve:
        """Of the calibrated probabilities."""
        return coverage_curve(self.calibrated, self.right)

    def calibrated_at(self, positions: np.ndarray) -> np.ndarray | None:
        """The calibrated top-1 probabilities of images by their positions; None if one of them was not looked at."""
        found = np.minimum(np.searchsorted(self.positions, positions), len(self.positions) - 1)
        return self.calibrated[found] if np.array_equal(self.positions[found], positions) else None

    @property
    def sure(self) -> np.ndarray:
        """n bool: the images that are not unsure."""
        return self.calibrated >= (self.confidence.unsure_below or 0.0)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """N x C logits to N x C float64 probabilities."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that minimises the mean cross entropy of softmax(logits / T): section 4.2 of the paper.

    Targets are softened to 1 - 1/(N + 2) for the label, the rest shared by the other classes, as Platt did (section 2.2
    of https://www.cs.colorado.edu/~mozer/Teaching/syllabi/6622/papers/Platt1999.pdf). Without that, images that are
    all classified rightly would give a temperature of 0 and probabilities of 100 %. The cross entropy is convex in 1/T,
    so the sign of its slope tells on which side the minimum is.

    Args:
        logits: N x C, finite.
        labels: N, whole numbers.

    Returns:
        A number between `COLDEST` and `HOTTEST`.
    """
    images, classes = logits.shape
    values = logits.astype(np.float64)
    softness = 1 / (images + 2) if classes > 1 else 0.0
    of_labels = values[np.arange(images), labels]
    of_others = (values.sum(axis=1) - of_labels) / max(1, classes - 1)
    wanted = ((1 - softness) * of_labels + softness * of_others).mean()
    cold, hot = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(HALVINGS):
        middle = (cold + hot) / 2
        is_too_hot = (softmax(values, math.exp(middle)) * values).sum(axis=1).mean() < wanted
        cold, hot = (cold, middle) if is_too_hot else (middle, hot)
    return math.exp((cold + hot) / 2)


def reliability(probabilities: np.ndarray, right: np.ndarray) -> Reliability:
    """The reliability diagram of n top-1 probabilities and whether each was right. Bin m has ((m - 1) / M, m / M]."""
    bins = np.clip(np.ceil(probabilities.astype(np.float64) * BINS).astype(int) - 1, 0, BINS - 1)
    images, probability, accuracy = (np.bincount(bins, weights, BINS) for weights in (None, probabilities, right))
    filled = np.maximum(1, images)
    return Reliability(images, probability / filled, accuracy / filled)


def coverage_curve(probabilities: np.ndarray, right: np.ndarray) -> CoverageCurve:
    """The coverage-accuracy curve of n top-1 probabilities and whether each was right."""
    order = np.argsort(-probabilities, kind="stable")
    falling, covered = probabilities[order].astype(np.float64), np.arange(1, len(order) + 1)
    ends = np.flatnonzero(np.append(falling[:-1] != falling[1:], True))  # equal probabilities are covered together
    return CoverageCurve(falling[ends], covered[ends] / len(order), np.cumsum(right[order])[ends] / covered[ends])


def check_confidence(result: EvalResult, target: float, known: Confidence | None = None) -> ConfidenceCheck | None:
    """How sure a network was of the images of a result whose logits were kept.

    Args:
        result: of an evaluation.
        target: the share of right answers that is wanted of the images that are not unsure.
        known: the temperature and the threshold of the network; None to fit them on these images.

    Returns:
        None if no image has finite logits.
    """
    is_finite = np.isfinite(result.logits).all(axis=1)
    if not is_finite.any():
        return None
    logits, scored = result.logits[is_finite], result.scored[is_finite]
    right = scored["right1"]
    temperature = known.temperature if known else fit_temperature(logits, scored["label"])
    raw, calibrated = (softmax(logits, value).max(axis=1).astype(np.float32) for value in (1.0, temperature))
    confidence = known or Confidence(temperature, coverage_curve(calibrated, right).unsure_below(target))
    positions = result.stride * np.flatnonzero(is_finite)
    return ConfidenceCheck(confidence, known is None, target, positions, raw, calibrated, right)
