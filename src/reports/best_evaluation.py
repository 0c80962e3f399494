"""The evaluation of a run's best epoch. Its file beside `best.ckpt` lets a resumed run report it."""
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.checkpoint.record import History, merit
from src.confidence import Confidence, ConfidenceCheck
from src.data.image_folder import ImageFolder
from src.files import atomic_write
from src.metrics import MISTAKE, EvalResult

FILE = "best.npz"


@dataclass(frozen=True)
class BestEvaluation:
    """The results of the best epoch.

    Args:
        run_id: the run that wrote it.
        epoch: from 1.
        top1: of that epoch.
        confusion: as in `EvalResult`.
        mistakes: as in `EvalResult`.
        files: the images of the mistakes, relative to the validation folder.
        confidence: None in files of earlier versions.
    """

    run_id: str
    epoch: int
    top1: float
    confusion: np.ndarray
    mistakes: np.ndarray
    files: tuple[str, ...]
    confidence: ConfidenceCheck | None = None

    @classmethod
    def of(cls, result: EvalResult, folder: ImageFolder, run_id: str, epoch: int,
           confidence: ConfidenceCheck | None = None) -> "BestEvaluation":
        """From the result of an evaluation on a folder."""
        return cls(run_id, epoch, result.top1, result.confusion, result.mistakes, mistaken_files(result, folder),
                   confidence)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. It is compressed: a confusion matrix is mostly zeros."""
        content = io.BytesIO()  # numpy leaves an open archive behind if it cannot write to a disk
        np.savez_compressed(content, run=np.array(self.run_id), epoch=np.array(self.epoch), top1=np.array(self.top1),
                            confusion=self.confusion, mistakes=self.mistakes, files=np.array(self.files, np.str_),
                            **_confidence_arrays(self.confidence))
        with atomic_write(path) as temporary:
            temporary.write_bytes(content.getvalue())

    @classmethod
    def load(cls, path: Path, run_id: str, history: History, num_classes: int,
             best_metric: str) -> "BestEvaluation | None":
        """Read the file.

        Returns None if the file is missing, damaged or of another run. Also if its epoch is later than the checkpoint
        that the run resumes from.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values: dict[str, Any] = {name: file[name] for name in file.files}
            found = cls(str(values["run"]), int(values["epoch"]), float(values["top1"]), values["confusion"],
                        values["mistakes"], tuple(map(str, values["files"])), _confidence_of(values))
        except Exception:  # numpy raises many types of error; the report works without this file
            return None
        return found if found._is_of(run_id, history, best_metric) and found._is_sound(num_classes) else None

    def _is_of(self, run_id: str, history: History, best_metric: str) -> bool:
        if self.run_id != run_id or not 1 <= self.epoch <= len(history):
            return False
        row = history[self.epoch - 1]
        return row.get("top1") == self.top1 and merit(row, best_metric) == max(
            merit(other, best_metric) for other in history)

    def _is_sound(self, num_classes: int) -> bool:
        confusion, mistakes = self.confusion, self.mistakes
        return confusion.shape == (num_classes, num_classes) and confusion.dtype == np.int64 and \
            bool((confusion >= 0).all()) and mistakes.dtype == MISTAKE and mistakes.shape == (len(self.files),) and \
            all(((mistakes[column] >= 0) & (mistakes[column] < num_classes)).all() for column in ("label", "predicted"))


def _confidence_arrays(check: ConfidenceCheck | None) -> dict[str, np.ndarray]:
    """What the file has of it. `_confidence_of` reads it back."""
    if check is None:
        return {}
    return {"temperature": np.array(check.confidence.temperature), "target": np.array(check.target),
            "unsure_below": np.array(check.confidence.unsure_below, np.float64),
            "positions": check.positions, "raw": check.raw, "calibrated": check.calibrated, "right": check.right}


def _confidence_of(values: Mapping[str, Any]) -> ConfidenceCheck | None:
    if "temperature" not in values:
        return None
    confidence = Confidence(float(values["temperature"]), float(values["unsure_below"]))
    arrays = {name: values[name] for name in ("positions", "raw", "calibrated", "right")}
    return ConfidenceCheck(confidence, is_own=True, target=float(values["target"]), **arrays)


def mistaken_files(result: EvalResult, folder: ImageFolder) -> tuple[str, ...]:
    """The files of the `mistakes` of a result, relative to the evaluated folder."""
    return tuple(folder.files[position] for position in result.mistakes["position"])
