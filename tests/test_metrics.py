"""Counting, against a naive loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from src.metrics import MISTAKE, MOST_MISTAKES, EvalResult, count, judge

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
    return count(judge(logits, labels), logits.shape[1], np.arange(len(labels)))


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


def test_a_result_is_printed_in_the_published_form() -> None:
    result = EvalResult(35988, 45000, 50000, 1.0, np.zeros((2, 2)))
    assert str(result) == "{'acc': 0.71976, 'top5': 0.9, 'images': 50000}"
