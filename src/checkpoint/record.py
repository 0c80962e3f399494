"""The JSON beside a checkpoint: declared, written and read here alone."""
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.checkpoint.names import metadata_path
from src.confidence import Confidence
from src.files import atomic_write
from src.json_records import KEY, make_record, read_json, to_json

# A row per finished epoch: epoch (from 1), loss, lr and, where it was validated, these three. Checkpoints of this
# version have balanced_accuracy and macro_f1, too.
VALIDATION_COLUMNS = ("val_loss", "top1", "top5")
HistoryRow = dict[str, int | float]
History = list[dict[str, Any]]
RUN = "run"  # only checkpoints of a training run have this key


@dataclass(frozen=True)
class Plan:
    """How many epochs a run has, if that was decided while it ran.

    Raises:
        ValueError: the values contradict each other.
    """

    first_epoch: int  # finished epochs when it was decided
    epochs: int  # of the whole run
    image_size: int  # height and width of the images in training, in pixels, when they have grown

    def __post_init__(self) -> None:
        if not 0 <= self.first_epoch <= self.epochs or self.epochs == 0 or self.image_size < 1:
            raise ValueError("a plan is none")


@dataclass(frozen=True)
class TrainingMetadata:
    """The state of a run when it wrote the checkpoint, and what another run must have to resume from it.

    Raises:
        ValueError: the values contradict each other.
    """

    run_id: str = field(metadata={KEY: RUN})  # tells the checkpoints of this run from others
    step: int  # optimisation steps done, over all epochs
    epoch: int  # finished epochs
    whole_epoch: bool  # False between two steps of an epoch
    losses: list[float]  # of the steps of the unfinished epoch
    history: list[HistoryRow]
    metrics: HistoryRow  # the last row of the history; empty within an epoch
    best_top1: float  # of all epochs so far; -1 where none was validated
    is_best: bool  # whether this epoch is the best so far
    ranks: int
    train_images: str = field(metadata={KEY: "pictures"})  # digest of the list of training images
    eval_images: str | None = None  # of those to validate on, "" for none; None in older checkpoints
    pretrained: str | None = None  # digest of the checkpoint that training began with, "" for none; None as above
    teacher: str = ""  # digest of the teacher's file
    plans: list[Plan] = field(default_factory=list)  # in the order in which they were made; the last one counts
    seconds: float = 0.0  # that the run has taken of `max_minutes`

    def __post_init__(self) -> None:
        if self.step < 0 or self.ranks < 1:
            raise ValueError("step or ranks is too small")
        if [row.get("epoch") for row in self.history] != list(range(1, self.epoch + 1)):
            raise ValueError(f"history has not the epochs 1 to {self.epoch}")
        beginnings = [plan.first_epoch for plan in self.plans]
        if beginnings != sorted(set(beginnings)) or max(beginnings, default=0) > self.epoch:
            raise ValueError("plans are not in order")
        for row in self.history:
            if not {"loss", "lr"} <= row.keys() or len(row.keys() & set(VALIDATION_COLUMNS)) % len(VALIDATION_COLUMNS):
                raise ValueError("history has an incomplete row")


@dataclass(frozen=True)
class CheckpointMetadata:
    """What is known of a checkpoint besides its parameters. All fields are empty for a file without JSON."""

    config: dict[str, Any] = field(default_factory=dict)  # what it was trained with
    classes: tuple[str, ...] | None = None
    source: str = ""  # name of the file that the weights were converted from
    training: TrainingMetadata | None = None  # if a run wrote it; the JSON has its keys beside the others
    sha256: str = ""  # of the checkpoint
    confidence: Confidence | None = None  # of these weights, if they were validated


def read_metadata(checkpoint: Path) -> CheckpointMetadata:
    """Read the JSON beside a checkpoint.

    Raises:
        UserError: it cannot be read, or does not describe a checkpoint.
    """
    path = metadata_path(checkpoint)
    if not path.is_file():
        return CheckpointMetadata()
    values = read_json(path)
    if isinstance(values, dict):
        values = {**values, "training": values if RUN in values else None}
    return make_record(CheckpointMetadata, values, f"{path}: not the description of a checkpoint")


def write_metadata(metadata: CheckpointMetadata, checkpoint: Path) -> None:
    """Write the JSON beside a checkpoint."""
    values = to_json(metadata)
    if training := values.pop("training"):
        values |= training
    if not values["confidence"]:
        del values["confidence"]
    with atomic_write(metadata_path(checkpoint)) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def merit(row: HistoryRow, metric: str) -> float:
    """How good an epoch is by `best_metric`: the higher the better, minus infinity if it was not validated."""
    if metric not in row:
        return -math.inf
    return -row[metric] if metric == "val_loss" else row[metric]
