"""How far a run is, and what is the best of it."""
import dataclasses

import numpy as np
import pytest
from conftest import config_for

from src.metrics import EvalResult, count, judge
from src.training.resume import Run
from src.training.state import TrainingState


def result(top1: float) -> EvalResult:
    """Of ten images of two classes, this share of them right."""
    labels = np.zeros(10, np.int64)
    logits = np.zeros((10, 2), np.float32)
    logits[np.arange(10), (np.arange(10) >= round(10 * top1)).astype(int)] = 1
    return count(judge(logits, labels), 2, np.arange(10))


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


def test_a_state_comes_back_from_the_metadata_that_a_run_makes_of_it() -> None:
    run = Run(config_for("--epoch_size", 3), ("a", "b"), "digest", 1, 5)
    state = TrainingState(step=5)
    state.finish_epoch(0.5, 0.1, result(0.7))
    for changed in state, dataclasses.replace(state, step=7, losses=[1.0, 2.0]):
        metadata = run.metadata(changed)
        assert metadata.training
        assert TrainingState.of(metadata.training) == changed
        assert metadata.training.whole_epoch == metadata.training.is_best == (changed.step == 5)
