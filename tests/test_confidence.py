"""Calibration, temperature and the threshold for unsure images: against scipy and naive loops."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from src.confidence import (
    ALL_UNSURE,
    BINS,
    COLDEST,
    HOTTEST,
    Confidence,
    check_confidence,
    coverage_curve,
    fit_temperature,
    reliability,
)
from src.metrics import EvalResult, judge

# Edges of bins among them.
VALUES = np.array([0, 0.1, 1 / 3, 0.4, 0.6, 2 / 3, 0.93, 1], np.float32).astype(float).tolist()
PROBABILITIES = st.integers(1, 40).flatmap(lambda n: st.tuples(
    arrays(np.float32, n, elements=st.sampled_from(VALUES)),
    arrays(np.bool_, n)))


def drawn(images: int, classes: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax at a temperature."""
    random = np.random.default_rng(seed)
    logits = (4 * random.standard_normal((images, classes))).astype(np.float32)
    labels = [random.choice(classes, p=row) for row in softmax(logits.astype(np.float64) / temperature, axis=1)]
    return logits, np.array(labels)


def result_of(logits: np.ndarray, labels: np.ndarray) -> EvalResult:
    return EvalResult(judge(logits, labels), logits.shape[1], logits)


# ---- the temperature

@pytest.mark.parametrize(("images", "classes", "temperature"), [(30, 2, 0.5), (200, 5, 1.0), (400, 20, 2.5)])
def test_the_temperature_is_the_one_that_scipy_finds(images: int, classes: int, temperature: float) -> None:
    logits, labels = drawn(images, classes, temperature, seed=images)
    softness = 1 / (images + 2)
    targets = np.full(logits.shape, softness / (classes - 1))
    targets[np.arange(images), labels] = 1 - softness

    def cross_entropy(log_temperature: float) -> float:
        return -(targets * log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)).sum() / images

    wanted = minimize_scalar(cross_entropy, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded",
                             options={"xatol": 1e-9})
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(wanted.x), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_of_many_images_it_is_the_temperature_that_they_have(temperature: float) -> None:
    logits, labels = drawn(4000, 6, temperature, seed=3)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.08)
    assert fit_temperature(4 * logits, labels) == pytest.approx(4 * temperature, rel=0.08)


def test_images_that_are_all_right_do_not_make_it_certain() -> None:
    logits = np.eye(5, dtype=np.float32)[np.arange(50) % 5]
    temperature = fit_temperature(logits, np.arange(50) % 5)
    assert softmax(logits / temperature, axis=1).max(axis=1) == pytest.approx(1 - 1 / 52, abs=1e-4)


def test_one_class_alone_and_one_image_alone_have_a_temperature() -> None:
    for logits in np.zeros((3, 1), np.float32), np.zeros((1, 3), np.float32):
        assert COLDEST <= fit_temperature(logits, np.zeros(len(logits), np.int64)) <= HOTTEST


# ---- reliability

@given(PROBABILITIES)
def test_the_calibration_error_is_that_of_a_loop(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, right = case
    error, edges = 0.0, np.arange(BINS + 1) / BINS
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (probabilities > low) & (probabilities <= high) | (low == 0) & (probabilities == 0)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - probabilities[inside].astype(float).mean())
    found = reliability(probabilities, right)
    assert found.ece == pytest.approx(error, abs=1e-9)
    assert found.images.sum() == len(right)
    assert (found.images * found.accuracy).sum() == pytest.approx(right.sum())


def test_the_temperature_lowers_the_error_of_a_network_that_is_too_sure() -> None:
    logits, labels = drawn(1500, 5, temperature=3.0, seed=1)
    check = check_confidence(result_of(logits, labels), target=0.9)
    assert check
    assert check.before.ece > 0.2
    assert check.after.ece < 0.04


# ---- coverage and the threshold

@given(PROBABILITIES, st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_coverage_and_threshold_are_those_of_a_loop(case: tuple[np.ndarray, np.ndarray], target: float) -> None:
    probabilities, right = case
    curve = coverage_curve(probabilities, right)
    thresholds = sorted(set(probabilities.astype(np.float64).tolist()), reverse=True)
    assert curve.thresholds.tolist() == thresholds
    for threshold, coverage, accuracy in zip(thresholds, curve.coverage, curve.accuracy, strict=True):
        covered = probabilities >= threshold
        assert coverage == pytest.approx(covered.mean())
        assert accuracy == pytest.approx(right[covered].mean())
    good = [threshold for threshold in thresholds if right[probabilities >= threshold].mean() >= target]
    chosen = curve.unsure_below(target)
    if not good:
        assert chosen == ALL_UNSURE
    elif min(good) == min(thresholds):
        assert chosen == 0
    else:  # it separates the same images, with room on both sides
        assert max(value for value in thresholds if value < min(good)) < chosen < min(good)


def test_the_images_above_the_threshold_are_right_often_enough() -> None:
    logits, labels = drawn(800, 5, temperature=3.0, seed=2)
    check = check_confidence(result_of(logits, labels), target=0.7)
    assert check
    assert check.right.mean() < 0.65
    assert check.right[check.sure].mean() >= 0.7
    assert 0.2 < check.sure.mean() < 1
    for image, sure in zip(logits, check.sure, strict=True):  # one image alone is judged as among all
        probability = check.confidence.probabilities(image[None]).max()
        assert check.confidence.is_unsure(probability) == (not sure)


def test_a_temperature_that_is_known_is_used_as_it_is() -> None:
    logits, labels = drawn(60, 4, temperature=1.0, seed=5)
    check = check_confidence(result_of(logits, labels), 0.9, Confidence(2.0, 0.5))
    assert check
    assert not check.is_own
    np.testing.assert_allclose(check.calibrated, softmax(logits / 2, axis=1).max(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(check.sure, check.calibrated >= 0.5)


def test_probabilities_are_found_by_the_positions_of_images() -> None:
    logits, labels = drawn(40, 4, temperature=1.0, seed=7)
    logits[6] = np.nan
    check = check_confidence(EvalResult(judge(logits, labels), 4, logits[::3], 3), 0.9)
    assert check
    assert check.positions.tolist() == [position for position in range(0, 40, 3) if position != 6]
    found = check.calibrated_at(np.array([39, 0, 9]))
    assert found is not None
    np.testing.assert_allclose(found, softmax(logits[[39, 0, 9]] / check.confidence.temperature, axis=1).max(axis=1),
                               rtol=1e-5)
    for missing in 1, 6, 40:
        assert check.calibrated_at(np.array([0, missing])) is None


def test_images_without_finite_logits_do_not_count() -> None:
    logits, labels = drawn(50, 4, temperature=1.0, seed=6)
    broken = np.concatenate([logits, np.full((3, 4), np.nan, np.float32)])
    check = check_confidence(result_of(broken, np.append(labels, [0, 0, 0])), 0.9)
    assert check
    assert len(check.right) == 50
    whole = check_confidence(result_of(logits, labels), 0.9)
    assert whole
    assert check.confidence == whole.confidence
    assert check_confidence(result_of(broken[50:], np.zeros(3, np.int64)), 0.9) is None
    assert check_confidence(EvalResult(judge(logits, labels), 4), 0.9) is None


@pytest.mark.parametrize(("values", "says"), [((0.0, 0.5), "temperature"), ((np.nan, 0.5), "temperature"),
                                              ((1.0, 1.5), "unsure_below"), ((1.0, np.nan), "unsure_below")])
def test_values_that_make_no_sense_are_refused(values: tuple[float, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Confidence(*values)


def test_an_image_is_unsure_below_the_threshold_alone() -> None:
    assert [Confidence(1, 0.5).is_unsure(value) for value in (0.4, 0.5, 0.6, np.nan)] == [True, False, False, True]
    assert Confidence().is_unsure(0.1) is None
