"""Likely label errors: a case by hand, and labels that were changed on purpose."""
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from src.data.label_errors import class_thresholds, find_label_errors


def test_a_case_by_hand() -> None:
    """The thresholds are 0.5 and 0.6. Of those that deny the label, the surest one comes first."""
    probabilities = np.array([
        [0.9, 0.1],  # right
        [0.5, 0.5],  # undecided
        [0.1, 0.9],  # labelled 0, and 1 reaches its threshold
        [0.2, 0.8],  # right
        [0.3, 0.7],  # right
        [0.7, 0.3],  # labelled 1, and 0 reaches its threshold
    ], np.float32)
    labels = np.array([0, 0, 0, 1, 1, 1], np.int32)
    np.testing.assert_allclose(class_thresholds(probabilities, labels), [0.5, 0.6], rtol=1e-6)
    found = find_label_errors(probabilities, labels)
    assert found["position"].tolist() == [2, 5]
    assert found["label"].tolist() == [0, 1]
    assert found["likely"].tolist() == [1, 0]
    np.testing.assert_allclose(found["given"], [0.1, 0.3])
    np.testing.assert_allclose(found["other"], [0.9, 0.7])
    np.testing.assert_allclose(found["margin"], [-0.8, -0.4], rtol=1e-6)


def test_a_wrong_guess_below_the_threshold_of_its_class_is_no_error() -> None:
    """Class 1 is sure of its own images, so 0.6 of it says little."""
    probabilities = np.array([[0.4, 0.6], [0.9, 0.1], [0.05, 0.95], [0.05, 0.95]])
    assert len(find_label_errors(probabilities, np.array([0, 0, 1, 1]))) == 0


def test_a_class_that_is_hard_to_learn_is_not_blamed() -> None:
    """Images of class 0 have 0.6 of it, below its threshold; another class reaches its own, but is less likely."""
    probabilities = np.array([[0.6, 0.4, 0.0], [0.9, 0.0, 0.1], [0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
    labels = np.array([0, 0, 1, 1])
    assert find_label_errors(probabilities, labels)["position"].tolist() == []


def test_a_class_without_images_and_values_that_are_not_finite_do_no_harm() -> None:
    probabilities = np.array([[0.1, 0.2, 0.7], [0.2, 0.8, 0.0], [np.nan, np.nan, np.nan]])
    labels = np.array([0, 1, 1])
    assert np.isinf(class_thresholds(probabilities, labels)[2])
    assert find_label_errors(probabilities, labels)["likely"].tolist() == []


@pytest.mark.parametrize("seed", [0, 1])
def test_most_changed_labels_are_found(seed: int) -> None:
    images, true = load_digits(return_X_y=True)
    images, true = images[:700] / 16, true[:700]
    generator = np.random.default_rng(seed)
    changed = generator.choice(len(true), len(true) // 20, replace=False)
    labels = true.copy()
    labels[changed] = (true[changed] + generator.integers(1, 10, len(changed))) % 10
    probabilities = cross_val_predict(LogisticRegression(max_iter=200), images, labels, method="predict_proba",
                                      cv=StratifiedKFold(5, shuffle=True, random_state=seed))
    found = find_label_errors(probabilities, labels)
    is_right = np.isin(found["position"], changed)
    assert is_right.sum() >= 0.6 * len(changed)
    assert is_right.mean() >= 0.9
    assert is_right[:len(changed) // 2].mean() > 0.95  # those at the top
    assert (found["likely"] == true[found["position"]])[is_right].mean() > 0.9
