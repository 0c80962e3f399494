"""How far a network's probabilities can be trusted, in words for a reader who has not heard of calibration."""
from typing import Any

from src.confidence import ALL_UNSURE, ConfidenceCheck, Reliability

FEW_IMAGES = 200  # with fewer the figures are rough
RELIABILITY, COVERAGE = "reliability", "coverage and accuracy"  # the figures
EXPLANATIONS = {
    RELIABILITY: "How many answers of a probability are right. On the diagonal it is as many as the probability says. "
                 "A larger dot stands for more images.",
    COVERAGE: "How many answers are right if only the surest images are answered: few of them on the left, all on the "
              "right.",
}


def advice(check: ConfidenceCheck) -> str:
    """What to do with predictions, in one sentence or two."""
    threshold, right, wanted = check.confidence.unsure_below, check.right, f"{check.target:.0%} are wanted"
    if not threshold:
        return (f"No threshold is set, so infer.py calls no image unsure: of all answers here {right.mean():.1%} are "
                f"right; {wanted}.")
    if threshold == ALL_UNSURE:
        return (f"Look at every answer yourself: however high the probability, not enough answers are right; {wanted}. "
                "Train longer, or with more images.")
    sure = check.sure
    trusted = f"{right[sure].mean():.1%} of these answers are right; {wanted}" if sure.any() else wanted
    return (f"Trust an answer whose probability is {threshold:.1%} or more: {sure.mean():.1%} of the images reach "
            f"that, and {trusted}. Look at the other images yourself: infer.py calls them unsure, and infer.py "
            "--sort_into FOLDER copies them into a folder of their own.")


def calibration(check: ConfidenceCheck) -> str:
    """What the temperature does, in a sentence or two."""
    few = "" if len(check.right) >= FEW_IMAGES else f" These are {len(check.right)} images, so the figures are rough."
    return (f"The network's own probabilities miss the share of right answers by {check.before.ece:.1%} on average "
            f"(expected calibration error). At temperature {check.confidence.temperature:.3g} they miss it by "
            f"{check.after.ece:.1%}.{few}")


def as_json(check: ConfidenceCheck) -> dict[str, Any]:
    """The same as numbers, for `metrics.json`."""
    return {
        "images": len(check.right),
        "fitted_on_these_images": check.is_own,
        "temperature": check.confidence.temperature,
        "unsure_below": check.confidence.unsure_below,
        "unsure_accuracy": check.target,
        "sure_images": int(check.sure.sum()),
        "sure_right": int(check.right[check.sure].sum()),
        "ece": check.before.ece,
        "ece_calibrated": check.after.ece,
        "reliability": _rows(check.before),
        "reliability_calibrated": _rows(check.after),
    }


def _rows(diagram: Reliability) -> list[dict[str, Any]]:
    columns = zip(diagram.images.tolist(), diagram.probability.tolist(), diagram.accuracy.tolist(), strict=True)
    return [{"images": images, "probability": probability, "accuracy": accuracy}
            for images, probability, accuracy in columns]
