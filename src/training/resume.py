"""Resuming after an interruption: how far a run has come, and which checkpoint it resumes from.

The same command resumes the run where it stopped. On CPU the result has the same bits as without the stop. Weights,
momenta, moving averages and the counters of the schedule and of dropout come from the checkpoint. Data order and
augmentation follow from (seed, epoch).
"""
import os
from dataclasses import dataclass
from pathlib import Path

from src.checkpoint.file import Checkpoint, read_checkpoint
from src.checkpoint.names import metadata_path, newest_first
from src.checkpoint.record import CheckpointMetadata, TrainingMetadata, read_metadata
from src.dataset import usable_workers
from src.errors import UserError
from src.files import lock
from src.log import logger
from src.model_utils.config import Config
from src.model_utils.keys import KEYS, with_present_names
from src.names import composed
from src.training.state import TrainingState
from src.training.timing import process_seconds

DAMAGED_SUFFIX = ".damaged"


@dataclass(frozen=True)
class Run:
    """What makes two runs the same: the configuration, the classes, the images, and the files that it begins with."""

    config: Config
    classes: tuple[str, ...]
    train_images: str  # digest of the training folder
    ranks: int
    steps_per_epoch: int
    teacher: str = ""  # digest of the file, if there is one
    eval_images: str = ""  # digest of the folder to validate on, if there is one
    pretrained: str = ""  # digest of the checkpoint that training begins with, if there is one

    @property
    def total_steps(self) -> int:
        """Optimisation steps from the beginning to the end, if no plan makes the run shorter."""
        return self.config.epoch_size * self.steps_per_epoch

    def planned_epochs(self, state: TrainingState) -> int:
        """Epochs from the beginning to the end, by the last plan if there is one."""
        return state.planned_epochs(self.config.epoch_size)

    def is_finished(self, state: TrainingState) -> bool:
        """Whether all steps of the run are done."""
        return state.step == self.planned_epochs(state) * self.steps_per_epoch

    def metadata(self, state: TrainingState) -> CheckpointMetadata:
        """The metadata of a checkpoint of this run in a state: within an epoch, or with the epoch's row."""
        epoch, step = divmod(state.step, self.steps_per_epoch)
        is_whole = step == 0 and bool(state.history)
        training = TrainingMetadata(
            run_id=state.run_id, step=state.step, epoch=epoch, whole_epoch=is_whole, losses=state.losses,
            history=state.history, metrics=state.history[-1] if is_whole else {}, best_top1=state.best_top1,
            is_best=is_whole and state.is_best, ranks=self.ranks, train_images=self.train_images,
            eval_images=self.eval_images, pretrained=self.pretrained, teacher=self.teacher, plans=state.plans,
            seconds=state.seconds + process_seconds() if self.config.max_minutes else 0.0)
        return CheckpointMetadata(config=self.config.as_dict(), classes=self.classes, training=training,
                                  confidence=state.confidence.confidence if is_whole and state.confidence else None)

    def difference(self, metadata: CheckpointMetadata) -> str | None:
        """Why this run cannot resume from a checkpoint; None if it can."""
        training = metadata.training
        if training is None:
            return "no training run wrote it"
        by_digest = {"pretrain_ckpt"} if training.pretrained is not None else set()
        # A key that the checkpoint lacks is newer than it: what the run did then is the key's default now.
        then = {name: key.default for name, key in KEYS.items()} | with_present_names(metadata.config)
        for key, value in self.config.as_dict().items():
            if KEYS[key].affects_result and key not in by_digest and then[key] != value:
                return f"{key} is {value!r} now and was {then[key]!r}"
        # Earlier versions kept names in the form of the folders.
        if tuple(map(composed, metadata.classes or ())) != self.classes or training.train_images != self.train_images:
            return "the training images have changed"
        return self._other_difference(training)

    def _other_difference(self, training: TrainingMetadata) -> str | None:
        if training.ranks != self.ranks:
            return f"there are {self.ranks} ranks now and there were {training.ranks}"
        for what, then, now in (("checkpoint to begin with", training.pretrained, self.pretrained),
                                ("teacher", training.teacher, self.teacher)):
            if then not in {None, now}:
                return f"the {what} is another one now" if then and now else \
                    f"there is {'a' if now else 'no'} {what} now and there was {'one' if then else 'none'}"
        if training.step > self.total_steps or training.epoch != training.step // self.steps_per_epoch:
            return f"its step {training.step} is not one of this run's {self.total_steps} steps"
        if any(plan.epochs > self.config.epoch_size for plan in training.plans):
            return f"it has a plan of more than this run's {self.config.epoch_size} epochs"
        return None

    def remarks(self, metadata: CheckpointMetadata) -> list[str]:
        """Differences that allow this run to resume, but change its result compared with a run without a stop."""
        training, found = metadata.training, []
        workers = metadata.config.get("num_workers")
        if self.config.freeze_layer != "backbone" and isinstance(workers, int) \
                and usable_workers(workers) != usable_workers(self.config.num_workers):
            found.append(f"num_workers is {self.config.num_workers} now and was {workers}: crops and colours are drawn "
                         "in another order from here on")
        if training and training.eval_images not in {None, self.eval_images}:
            found.append("the validation images have changed: scores before and after are not of the same images")
        return found


def find_checkpoint(run: Run, folder: Path) -> Checkpoint | None:
    """The checkpoint to resume from as `resume` says, or None to begin anew.

    `auto` takes the newest whole checkpoint of a run of the same configuration and images, finished or not; damaged
    ones are reported and set aside. `never` takes none. Otherwise `resume` is the checkpoint itself.

    Raises:
        UserError: the run cannot resume from the checkpoint that was named.
    """
    choice = run.config.resume
    if choice == "never":
        return None
    if choice != "auto":
        checkpoint = read_checkpoint(Path(choice))
        if difference := run.difference(checkpoint.metadata):
            raise UserError(f"{choice}: cannot resume from this checkpoint: {difference}; to start from its weights "
                            "alone, use --pretrain_ckpt")
        return checkpoint
    for path in newest_first(folder):
        try:
            metadata = read_metadata(path)
            if metadata.training is None:
                continue
            if difference := run.difference(metadata):
                logger.info(f"{path}: not resumed, a new run begins: {difference}")
                return None
            return read_checkpoint(path)
        except UserError as error:
            _set_aside_damaged(path)
            logger.info(f"{error}; set aside as {path.name}{DAMAGED_SUFFIX}")
    return None


def _set_aside_damaged(path: Path) -> None:
    for file in (path, metadata_path(path)):
        try:
            if file.exists():
                file.rename(file.with_name(file.name + DAMAGED_SUFFIX))
        except OSError as error:
            raise UserError(f"{file}: is damaged and cannot be set aside: {error.strerror}") from error


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
        is_free = lock(descriptor)
    except OSError:
        is_free = True
        logger.info(f"{folder}: this file system has no locks; do not start two runs in one folder")
    if not is_free:
        raise UserError(f"{folder}: another run is writing its checkpoints here; wait for it, or choose another "
                        "--save_checkpoint_path")
    return descriptor
