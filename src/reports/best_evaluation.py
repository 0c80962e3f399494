"""The evaluation of a run's best epoch, kept beside `best.ckpt` so that a resumed run can still report it."""
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.checkpoint.record import TrainingMetadata
from src.data.image_folder import ImageFolder
from src.files import whole_file
from src.metrics import MISTAKE, Score

FILE = "best.npz"


@dataclass(frozen=True)
class BestEvaluation:
    """What is kept of it.

    Args:
        run: the run that it is of.
        epoch: from 1.
        top1: of that epoch.
        confusion: as in `Score`.
        mistakes: as in `Score`.
        files: the wrong images, relative to the folder of validation.
    """

    run: str
    epoch: int
    top1: float
    confusion: np.ndarray
    mistakes: np.ndarray
    files: tuple[str, ...]

    @classmethod
    def of(cls, score: Score, folder: ImageFolder, run: str, epoch: int) -> "BestEvaluation":
        """Of a score on a folder."""
        return cls(run, epoch, score.top1, score.confusion, score.mistakes, mistaken_files(score, folder))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all; a confusion matrix is mostly zeros."""
        content = io.BytesIO()  # numpy leaves an open archive behind where it cannot write to a disk
        np.savez_compressed(content, run=np.array(self.run), epoch=np.array(self.epoch), top1=np.array(self.top1),
                            confusion=self.confusion, mistakes=self.mistakes, files=np.array(self.files, np.str_))
        with whole_file(path) as temporary:
            temporary.write_bytes(content.getvalue())

    @classmethod
    def load(cls, path: Path, training: TrainingMetadata, num_classes: int) -> "BestEvaluation | None":
        """Read the file; None if it is damaged, not there, of another run, or of an epoch that the run, which resumes
        from an older checkpoint, has yet to come to.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values: dict[str, Any] = {name: file[name] for name in file.files}
            found = cls(str(values["run"]), int(values["epoch"]), float(values["top1"]), values["confusion"],
                        values["mistakes"], tuple(map(str, values["files"])))
        except Exception:  # numpy and its parsers raise what they like; a report without this file is no harm
            return None
        return found if found._is_of(training) and found._is_sound(num_classes) else None

    def _is_of(self, training: TrainingMetadata) -> bool:
        return self.run == training.run_id and 1 <= self.epoch <= training.epoch and \
            training.history[self.epoch - 1].get("top1") == self.top1 == training.best_top1

    def _is_sound(self, num_classes: int) -> bool:
        confusion, mistakes = self.confusion, self.mistakes
        return confusion.shape == (num_classes, num_classes) and confusion.dtype == np.int64 and \
            bool((confusion >= 0).all()) and mistakes.dtype == MISTAKE and mistakes.shape == (len(self.files),) and \
            all(((mistakes[column] >= 0) & (mistakes[column] < num_classes)).all() for column in ("label", "predicted"))


def mistaken_files(score: Score, folder: ImageFolder) -> tuple[str, ...]:
    """The files of a score's `mistakes`, relative to the folder that was scored."""
    return tuple(folder.files[position] for position in score.mistakes["position"])
