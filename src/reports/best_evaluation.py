"""The evaluation of a run's best epoch, kept beside `best.ckpt` so that a resumed run can still report it."""
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.evaluation import MISTAKE, Score
from src.files import whole_file
from src.pictures.image_folder import ImageFolder

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
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, run=np.array(self.run), epoch=np.array(self.epoch), top1=np.array(self.top1),
                                confusion=self.confusion, mistakes=self.mistakes, files=np.array(self.files, np.str_))

    @classmethod
    def load(cls, path: Path, run: str, best_top1: float) -> "BestEvaluation | None":
        """Read the file; None if it is damaged, not there, of another run, or of an epoch that the run, going on from
        an older checkpoint, has yet to come to.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values: dict[str, Any] = {name: file[name] for name in file.files}
            found = cls(str(values["run"]), int(values["epoch"]), float(values["top1"]), values["confusion"],
                        values["mistakes"], tuple(map(str, values["files"])))
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
            return None  # it is for show: a report without it is no harm
        is_this_runs = found.run == run and found.top1 == best_top1 and found.mistakes.dtype == MISTAKE
        return found if is_this_runs else None


def mistaken_files(score: Score, folder: ImageFolder) -> tuple[str, ...]:
    """The files of a score's `mistakes`, relative to the folder that was scored."""
    return tuple(folder.files[position] for position in score.mistakes["position"])
