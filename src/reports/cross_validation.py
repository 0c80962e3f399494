"""What the folds of a cross-validation say together: figures, likely label errors, and their report."""
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from src.checkpoint.record import History
from src.confidence import softmax
from src.data.image_folder import ImageFolder
from src.data.label_errors import find_label_errors
from src.distributed.world import ALONE
from src.files import atomic_write
from src.metrics import EvalResult, judge, wilson_interval
from src.model_utils.config import Config
from src.names import escape_name
from src.reports.best_evaluation import mistaken_files
from src.reports.evaluation_report import data_name, dated, origin, share_with_interval
from src.reports.report import Evaluated, Folds, Report

FOLDS, LABEL_ERRORS = "folds.json", "label_errors.csv"
SCORES = ("top1", "balanced_accuracy", "macro_f1")  # of an `EvalResult`, of which folds have a mean and a deviation


@dataclass(frozen=True)
class CrossValidation:
    """Every image, scored by the network that was not trained on it.

    Args:
        folder: all images.
        fold_of: N, the fold of each image, from 0.
        logits: N x C float32.
        histories: of the run of each fold.
    """

    folder: ImageFolder
    fold_of: np.ndarray
    logits: np.ndarray
    histories: Sequence[History]

    @cached_property
    def pooled(self) -> EvalResult:
        """The result over all images."""
        return EvalResult(judge(self.logits, self.folder.labels), self.logits.shape[1])

    @cached_property
    def each(self) -> list[EvalResult]:
        """The result of each fold."""
        return [EvalResult(self.pooled.judged[self.fold_of == fold], self.pooled.classes)
                for fold in range(len(self.histories))]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """N x C."""
        return softmax(self.logits)

    @cached_property
    def label_errors(self) -> np.ndarray:
        """The `LABEL_ERROR`s, the most likely first."""
        return find_label_errors(self.probabilities, self.folder.labels)

    def mean_and_deviation(self, score: str) -> tuple[float, float]:
        """The mean of one of `SCORES` over the folds, and its standard deviation from fold to fold."""
        values = [getattr(result, score) for result in self.each]
        return float(np.mean(values)), float(np.std(values, ddof=1))

    def best_epoch(self, fold: int) -> tuple[int, float]:
        """The epoch of a fold with the best top-1, from 1, and this top-1."""
        row = max(self.histories[fold], key=lambda row: row["top1"])
        return row["epoch"], row["top1"]

    def __str__(self) -> str:
        low, high = wilson_interval(self.pooled.correct1, self.pooled.images)
        (acc, acc_deviation), (balanced, balanced_deviation) = map(self.mean_and_deviation, SCORES[:2])
        return str({"acc": round(acc, 6), "acc_deviation": round(acc_deviation, 6), "images": self.pooled.images,
                    "acc_95": (round(low, 4), round(high, 4)), "balanced_acc": round(balanced, 6),
                    "balanced_acc_deviation": round(balanced_deviation, 6)})


def write_folds(result: CrossValidation, path: Path) -> None:
    """Write the figures as JSON.

    Raises:
        UserError: the file cannot be written.
    """
    pooled = result.pooled
    each: list[dict[str, Any]] = []
    for fold, scored in enumerate(result.each):
        epoch, top1 = result.best_epoch(fold)
        each.append({"fold": fold + 1, "images": scored.images, **{score: getattr(scored, score) for score in SCORES},
                     "loss": scored.loss, "best_epoch": epoch, "best_top1": top1})
    values = {
        "dataset": escape_name(result.folder.root),
        "images": pooled.images,
        "classes": [escape_name(name) for name in result.folder.classes],
        **{score: dict(zip(("mean", "deviation"), result.mean_and_deviation(score), strict=True)) for score in SCORES},
        "all_images": {**{score: getattr(pooled, score) for score in SCORES}, "loss": pooled.loss,
                       "top1_95": wilson_interval(pooled.correct1, pooled.images),
                       "confusion": pooled.confusion.tolist()},
        "folds": each,
        "likely_label_errors": len(result.label_errors),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def write_label_errors(result: CrossValidation, path: Path) -> None:
    """Write a CSV row for each likely label error, the most likely first.

    Raises:
        UserError: the file cannot be written.
    """
    classes = [escape_name(name) for name in result.folder.classes]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "class", "likely_class", "probability", "likely_probability", "margin", "fold"])
        for error in result.label_errors:
            position = error["position"]
            table.writerow([escape_name(result.folder.files[position]), classes[error["label"]],
                            classes[error["likely"]], f"{error['given']:.6f}", f"{error['other']:.6f}",
                            f"{error['margin']:.6f}", result.fold_of[position] + 1])


def cross_validation_report(result: CrossValidation, config: Config, network: object, final_command: str) -> Report:
    """The report of all folds.

    Args:
        result: of the folds.
        config: of the command.
        network: that scored, for the environment.
        final_command: shell lines that train a network on all images.
    """
    pooled, folder, folds = result.pooled, result.folder, len(result.each)
    facts = {f"top-1, mean of {folds} folds": _with_deviation(result, "top1"),
             "top-1, all images": share_with_interval(pooled.correct1, pooled.images),
             "balanced accuracy": _with_deviation(result, "balanced_accuracy"),
             "macro F1": _with_deviation(result, "macro_f1"),
             "likely label errors": f"{len(result.label_errors):,}",
             "images": f"{pooled.images:,}", "classes": f"{len(folder.classes):,}",
             "image size": f"{config.image_size} pixels"}
    evaluated = Evaluated("the networks of the folds, each on the images that it was not trained on", folder.classes,
                          pooled.confusion, pooled.mistakes, folder.root, mistaken_files(pooled, folder))
    rows = []
    for fold, scored in enumerate(result.each):
        epoch, best = result.best_epoch(fold)
        rows.append((str(fold + 1), f"{scored.images:,}", share_with_interval(scored.correct1, scored.images),
                     f"{scored.balanced_accuracy:.2%}", f"{scored.macro_f1:.2%}", f"{best:.2%} ({epoch})"))
    mean_best = np.mean([result.best_epoch(fold)[1] for fold in range(folds)])
    means = ("mean", f"{pooled.images / folds:,.1f}", *(_with_deviation(result, score) for score in SCORES),
             f"{mean_best:.2%}")
    errors = result.label_errors
    return Report(title=f"MobileNetV2 on {data_name(config)}, {folds} folds",
                  state=dated(f"Finished: each image was scored by the one of {folds} networks that had not seen it"),
                  facts=facts, evaluated=evaluated,
                  folds=Folds(rows, means, errors, [folder.files[position] for position in errors["position"]],
                              final_command),
                  **origin(config, network, ALONE))


def _with_deviation(result: CrossValidation, score: str) -> str:
    mean, deviation = result.mean_and_deviation(score)
    return f"{mean:.2%} ± {deviation:.2%}"
