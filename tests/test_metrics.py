"""Counting, against a naive loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import balanced_accuracy_score, f1_score

from src.metrics import JUDGED, MISTAKE, MOST_MISTAKES, EvalResult, judge, wilson_interval

LOGITS = st.integers(1, 20).flatmap(lambda n: st.integers(1, 8).flatmap(lambda classes: st.tuples(
    arrays(np.float32, (n, classes), elements=st.sampled_from([-2.0, 0.0, 0.5, 3.0])),
    arrays(np.int32, n, elements=st.integers(0, classes - 1)))))


def naive(logits: np.ndarray, labels: np.ndarray) -> tuple[int, int, float, np.ndarray]:
    top1 = top5 = 0
    loss = 0.0
    confusion = np.zeros((logits.shape[1], logits.shape[1]), int)
    for row, label in zip(logits.astype(float), labels, strict=True):
        ranking = sorted(range(len(row)), key=lambda c: (-row[c], c))  # noqa: B023 - used within the turn
        top1 += ranking[0] == label
        top5 += label in ranking[:5]
        loss += np.log(np.exp(row).sum()) - row[label]
        confusion[label, ranking[0]] += 1
    return top1, top5, loss / len(labels), confusion


def score_of(logits: np.ndarray, labels: np.ndarray) -> EvalResult:
    return EvalResult(judge(logits, labels), logits.shape[1])


@given(LOGITS)
def test_count_is_the_naive_loop(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    result = score_of(logits, labels)
    top1, top5, loss, confusion = naive(logits, labels)
    assert (result.correct1, result.correct5, result.images) == (top1, top5, len(labels))
    assert result.loss == pytest.approx(loss, abs=1e-5)
    np.testing.assert_array_equal(result.confusion, confusion)
    assert np.trace(result.confusion) == result.correct1
    assert (result.top1, result.top5) == (top1 / len(labels), top5 / len(labels))


def test_a_network_that_gives_nan_is_never_right() -> None:
    logits = np.array([[np.nan, 0, 0], [np.nan, np.nan, np.nan], [0, 1, 0]], np.float32)
    result = score_of(logits, np.array([0, 0, 1]))
    assert (result.correct1, result.correct5, result.images) == (1, 1, 3)


def test_the_surest_mistakes_are_remembered() -> None:
    random = np.random.default_rng(4)
    logits, labels = random.standard_normal((200, 5)).astype(np.float32), random.integers(0, 5, 200)
    logits[7] = np.nan
    probabilities = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=1, keepdims=True)
    wrong = [i for i in range(200) if i != 7 and logits[i].argmax() != labels[i]]
    wrong.sort(key=lambda i: -probabilities[i].max())
    mistakes = score_of(logits, labels).mistakes
    assert len(wrong) > MOST_MISTAKES == len(mistakes)
    assert mistakes.dtype == MISTAKE
    assert mistakes["position"].tolist() == wrong[:MOST_MISTAKES]
    np.testing.assert_array_equal(mistakes["label"], labels[mistakes["position"]])
    np.testing.assert_array_equal(mistakes["predicted"], logits[mistakes["position"]].argmax(axis=1))
    np.testing.assert_allclose(mistakes["probability"], probabilities[mistakes["position"]].max(axis=1), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@given(LOGITS)
def test_classes_that_count_the_same_are_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    result, predicted = score_of(logits, labels), logits.argmax(axis=1)
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert result.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))


@pytest.mark.parametrize(("right", "images", "interval"), [
    (81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718)),
])
def test_the_interval_is_wilsons(right: int, images: int, interval: tuple[float, float]) -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I."""
    assert wilson_interval(right, images) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize(("images", "share"), [(20, 0.9), (100, 0.5), (400, 0.84), (1000, 0.97)])
def test_the_interval_covers_the_truth_in_95_of_100_cases(images: int, share: float) -> None:
    """The share of 1000 drawn sets whose interval holds the true share; that share itself spreads by 0.7 points."""
    drawn = np.random.default_rng(5).binomial(images, share, 1000)
    covered = np.mean([low <= share <= high for low, high in (wilson_interval(right, images) for right in drawn)])
    assert 0.93 <= covered <= 0.97


def test_a_result_is_printed_in_the_published_form() -> None:
    judged = np.zeros(50000, JUDGED)
    judged["right1"][:35988], judged["right5"][:45000] = True, True
    judged["predicted"][35988:] = 1
    assert str(EvalResult(judged, 2)) == (
        "{'acc': 0.71976, 'top5': 0.9, 'images': 50000, 'acc_95': (0.7158, 0.7237), 'balanced_acc': 0.71976, "
        "'macro_f1': 0.418524}")
