"""The checkpoints of a run in its folder: which are kept, and how those of an earlier run are set aside."""
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mindspore import Tensor

from src.checkpoint.file import Checkpoint, write_checkpoint
from src.checkpoint.names import BEST, LAST, NUMBERED, metadata_path
from src.checkpoint.record import CheckpointMetadata, TrainingMetadata, merit, read_metadata
from src.errors import UserError
from src.files import link_or_copy
from src.log import logger

RECORDS = ("curves.csv", "curves.png", "report.html", "MODEL_CARD.md", "best.npz", "tensorboard",
           "mlflow", "wandb", "profile")  # other files of a run


@dataclass(frozen=True)
class Retention:
    """Which numbered checkpoints of a run are kept."""

    latest: int  # number of newest ones
    best: int = 0  # number of best epochs
    every: int = 0  # every n-th epoch; 0 for none
    metric: str = "top1"  # which tells what is best


class CheckpointFolder:
    """The checkpoints of one run: numbered ones, `best` and `last`. It removes only checkpoints of this run.

    Args:
        path: the folder.
        retention: what to keep besides `best` and `last`.
    """

    def __init__(self, path: Path, retention: Retention) -> None:
        self.path = path
        self._retention = retention
        self._written: list[tuple[Path, TrainingMetadata]] = []  # oldest first

    def attach(self, checkpoint: Checkpoint) -> None:
        """Continue the run of this checkpoint with its earlier checkpoints.

        Writes `best` and `last` again: a crash may have come before they were written.
        """
        newest = checkpoint.training
        if newest is None:
            return
        described = [(path, _training_or_none(path)) for path in self.path.glob(NUMBERED)]
        found = [(path, training) for path, training in described
                 if training and training.run_id == newest.run_id and training.step <= newest.step]
        self._written = sorted(found, key=lambda entry: entry[1].step)
        if checkpoint.path in {path for path, _ in found}:
            self._name_latest(checkpoint.path, newest)

    def set_aside_earlier_run(self) -> None:
        """Move the files of an earlier run into a folder named after the present date."""
        left = [file for pattern in (NUMBERED, f"{BEST}.ckpt", f"{LAST}.ckpt")
                for file in self.path.glob(pattern)]
        left = [file for found in left for file in (found, metadata_path(found)) if file.is_file()]
        left += [file for name in RECORDS if (file := self.path / name).exists()]
        if not left:
            return
        date = time.strftime("earlier-%Y%m%d-%H%M%S")
        names = (date, *(f"{date}-{n}" for n in range(2, 100)))  # several runs may begin in the same second
        aside = next(folder for name in names if not (folder := self.path / name).exists())
        try:
            aside.mkdir()
            for file in left:
                file.rename(aside / file.name)
        except OSError as error:
            raise UserError(f"{aside}: cannot set an earlier run's checkpoints aside: {error.strerror}") from error
        logger.info(f"{self.path}: an earlier run's checkpoints are now in {aside.name}/")

    def save(self, name: str, network: Mapping[str, Tensor], state: Mapping[str, Tensor],
             metadata: CheckpointMetadata) -> bool:
        """Write a checkpoint of the run as `name` and as `last`, and as `best` if it is; drop what is not to be kept.

        Returns whether that was possible: a full disk costs this checkpoint, but none before it.
        """
        path, training = self.path / f"{name}.ckpt", metadata.training
        if training is None:
            raise ValueError("a checkpoint in the folder of a run needs the run's metadata")
        try:
            write_checkpoint(path, network, state, metadata)
            self._name_latest(path, training)
        except UserError as error:
            logger.warning(f"no checkpoint this time, training goes on: {error}")
            return False
        self._written = [entry for entry in self._written if entry[0] != path] + [(path, training)]
        keep = self._kept()
        for old, _ in self._written:
            if old not in keep:
                for file in (old, metadata_path(old)):
                    file.unlink(missing_ok=True)
        self._written = [entry for entry in self._written if entry[0] in keep]
        return True

    def _name_latest(self, path: Path, training: TrainingMetadata) -> None:
        for second_name in (LAST, BEST) if training.is_best else (LAST,):
            for file in (path, metadata_path(path)):
                link_or_copy(file, self.path / f"{second_name}{file.suffix}")

    def _kept(self) -> set[Path]:
        whole = [(path, training) for path, training in self._written if training.whole_epoch]
        by_score = sorted(whole, key=lambda entry: merit(entry[1].metrics, self._retention.metric), reverse=True)
        every = self._retention.every
        kept = [self._written[-1], *whole[-self._retention.latest:], *by_score[:self._retention.best],
                *((path, training) for path, training in whole if every and training.epoch % every == 0)]
        return {path for path, _ in kept}


def _training_or_none(path: Path) -> TrainingMetadata | None:
    try:
        return read_metadata(path).training
    except UserError:
        return None
