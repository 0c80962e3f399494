"""Going on after an interruption: how far a run is, and which checkpoint it goes on from.

A run goes on where the same command left off, bit for bit on CPU: weights, momenta, moving averages, the counters of
the schedule and of dropout come from the checkpoint; data order and augmentation follow from (seed, epoch).
"""
import fcntl
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.checkpoint import Checkpoint, read_about, read_checkpoint
from src.errors import UserError
from src.model_utils.config import Config
from src.reports.figures import History

# Keys that may change between the parts of one run: they do not touch the result.
FREE_KEYS = {"log_steps", "save_checkpoint", "save_checkpoint_path", "save_checkpoint_epochs", "save_checkpoint_steps",
             "keep_checkpoint_max", "keep_checkpoint_best", "keep_checkpoint_every", "resume", "on_nan",
             "confusion_matrix", "report", "tensorboard", "enable_profiling", "profiling_steps",
             "kd_teacher",  # whose digest counts, wherever the file lies
             "enable_modelarts", "data_url", "train_url", "checkpoint_url", "data_path", "output_path", "load_path",
             "need_modelarts_dataset_unzip", "modelarts_dataset_unzip_name", "copy_local", "copy_tries",
             "copy_retry_seconds", "copy_wait_seconds"}
DAMAGED_SUFFIX = ".damaged"


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # optimisation steps done, over all epochs
    best_top1: float = -1.0
    losses: list[float] = field(default_factory=list)  # of the steps of the unfinished epoch
    history: History = field(default_factory=list)  # a row per finished epoch
    run: str = field(default_factory=lambda: secrets.token_hex(4))  # tells this run's checkpoints from others'

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "Progress":
        """What a checkpoint's JSON tells."""
        return cls(*(about[name] for name in ("step", "best_top1", "losses", "history", "run")))


@dataclass(frozen=True)
class Run:
    """What makes two runs the same: the configuration, the classes and the training pictures."""

    config: Config
    classes: tuple[str, ...]
    pictures: str  # digest of the training folder
    ranks: int
    steps_per_epoch: int
    teacher: str = ""  # digest of the file, if there is one

    @property
    def total_steps(self) -> int:
        """Optimisation steps from the beginning to the end."""
        return self.config.epoch_size * self.steps_per_epoch

    def about(self) -> dict[str, Any]:
        """As a part of a checkpoint's JSON."""
        return {"config": self.config.as_dict(), "classes": list(self.classes), "pictures": self.pictures,
                "ranks": self.ranks, "teacher": self.teacher}

    def difference(self, about: Mapping[str, Any]) -> str | None:
        """What keeps this run from going on from a checkpoint, in words; None if nothing does."""
        theirs = about.get("config", {})
        for key, value in self.config.as_dict().items():
            if key not in FREE_KEYS and theirs.get(key) != value:
                return f"{key} is {value!r} now and was {theirs.get(key)!r}"
        if about.get("ranks") != self.ranks:
            return f"there are {self.ranks} ranks now and there were {about.get('ranks')}"
        if tuple(about.get("classes", ())) != self.classes or about.get("pictures") != self.pictures:
            return "the training pictures have changed"
        if (teacher := about.get("teacher", "")) != self.teacher:
            return "the teacher is another one now" if teacher and self.teacher else \
                f"there is {'a' if self.teacher else 'no'} teacher now and there was {'one' if teacher else 'none'}"
        return None


def find_checkpoint(run: Run, folder: Path) -> Checkpoint | None:
    """The checkpoint to go on from as `resume` says, or None to begin anew.

    `auto` takes the newest whole checkpoint of an unfinished run of the same configuration and pictures; damaged ones
    are named and set aside. `never` takes none. Otherwise `resume` is the checkpoint itself.

    Raises:
        UserError: the checkpoint that was named cannot be gone on from.
    """
    choice = run.config.resume
    if choice == "never":
        return None
    if choice != "auto":
        checkpoint = read_checkpoint(Path(choice))
        if "run" not in checkpoint.about or (difference := run.difference(checkpoint.about)):
            reason = "it is not of a training run" if "run" not in checkpoint.about else difference
            raise UserError(f"{choice}: cannot resume from this checkpoint: {reason}; to start from its weights alone, "
                            "use --pretrain_ckpt")
        return checkpoint
    for path in _newest_first(folder):
        try:
            about = read_about(path)
            if "run" not in about:
                continue
            if about["step"] >= run.total_steps:
                return None  # that run is finished
            if difference := run.difference(about):
                print(f"{path}: not resumed, a new run begins: {difference}")
                return None
            return read_checkpoint(path)
        except UserError as error:
            print(f"{error}; set aside as {path.name}{DAMAGED_SUFFIX}")
            for file in (path, path.with_suffix(".json")):
                if file.exists():
                    file.rename(file.with_name(file.name + DAMAGED_SUFFIX))
    return None


def lock_folder(folder: Path) -> int:
    """Keep other runs from writing to a folder until this process ends; returns the descriptor that holds the lock.

    Raises:
        UserError: another process has it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{folder}: cannot keep checkpoints here: {error.strerror}; choose another "
                        "--save_checkpoint_path") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder}: another run is writing its checkpoints here; wait for it, or choose another "
                        "--save_checkpoint_path") from None
    except OSError:
        print(f"{folder}: this file system has no locks; do not start two runs in one folder")
    return descriptor


def _newest_first(folder: Path) -> list[Path]:
    """The numbered checkpoints of a folder, `mobilenetv2-<epoch>_<step>.ckpt`, by their numbers."""
    numbered = []
    for path in folder.glob("mobilenetv2*-*_*.ckpt"):
        epoch, _, step = path.stem.rpartition("-")[2].partition("_")
        if epoch.isdigit() and step.isdigit():
            numbered.append((int(epoch), int(step), path))
    return [path for _, _, path in sorted(numbered, reverse=True)]
