"""How far a run is, and what is the best of it."""
import dataclasses

import numpy as np
import pytest
from conftest import config_for

from src.metrics import EvalResult, judge
from src.training.resume import Run
from src.training.state import TrainingState


def result(top1: float) -> EvalResult:
    """Of ten images of two classes, this share of them right."""
    labels = np.zeros(10, np.int64)
    logits = np.zeros((10, 2), np.float32)
    logits[np.arange(10), (np.arange(10) >= round(10 * top1)).astype(int)] = 1
    return EvalResult(judge(logits, labels), 2)


@pytest.mark.parametrize(("scores", "expected"), [
    ([None], [False]), ([0.5], [True]), ([0.5, 0.5], [True, False]), ([0.2, 0.5, None, 0.4, 0.6],
                                                                      [True, True, False, False, True]),
])
def test_an_epoch_is_the_best_if_none_before_it_is_as_good(scores: list[float | None], expected: list[bool]) -> None:
    state, found = TrainingState(losses=[1.0]), []
    for score in scores:
        state.finish_epoch(0.5, 0.1, None if score is None else result(score))
        found.append(state.is_best)
    assert found == expected
    assert state.best_top1 == max(-1.0 if score is None else score for score in scores)
    assert [row["epoch"] for row in state.history] == list(range(1, len(scores) + 1))
    assert state.losses == []


@pytest.mark.parametrize(("metric", "best"), [("top1", 0), ("balanced_accuracy", 1), ("val_loss", 2)])
def test_best_metric_says_what_is_best(metric: str, best: int) -> None:
    """Nine images of class 0, one of class 1: an epoch that is right on class 0, one on class 1 and half of the others,
    one that is unsure of everything."""
    labels = np.array([0] * 9 + [1])
    epochs = [np.array([[2, 0]] * 10, np.float32) * 9, np.array([[2, 0]] * 5 + [[0, 2]] * 5, np.float32) * 9,
              np.array([[0, 0.1]] * 10, np.float32)]
    state, found = TrainingState(best_metric=metric), []
    for logits in epochs:
        state.finish_epoch(0.5, 0.1, EvalResult(judge(logits, labels), 2))
        found.append(state.is_best)
    assert max(range(3), key=lambda epoch: found[epoch] * (epoch + 1)) == best


def test_a_state_comes_back_from_the_metadata_that_a_run_makes_of_it() -> None:
    run = Run(config_for("--epoch_size", 3), ("a", "b"), "digest", 1, 5)
    state = TrainingState(step=5)
    state.finish_epoch(0.5, 0.1, result(0.7))
    for changed in state, dataclasses.replace(state, step=7, losses=[1.0, 2.0]):
        metadata = run.metadata(changed)
        assert metadata.training
        assert TrainingState.of(metadata.training) == changed
        assert metadata.training.whole_epoch == metadata.training.is_best == (changed.step == 5)


@pytest.mark.parametrize(("scores", "since"), [([], 0), ([None, None], 0), ([0.5], 0), ([0.5, 0.5, 0.4], 2),
                                               ([0.2, 0.5, None, 0.4], 2), ([0.2, 0.1, 0.5], 0)])
def test_epochs_since_the_best(scores: list[float | None], since: int) -> None:
    state = TrainingState()
    for score in scores:
        state.finish_epoch(0.5, 0.1, None if score is None else result(score))
    assert state.epochs_since_best == since
