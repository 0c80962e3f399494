"""Checkpoints: one file of parameters and a JSON of the same stem that says what they are.

A checkpoint holds the network under its parameters' own names, ready for evaluation and export, and under `state.` what
only a training run needs. Its JSON is declared in src/checkpoint/record.py.
"""
import dataclasses
import hashlib
import itertools
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Tensor
from mindspore.train.checkpoint_pb2 import Checkpoint as CheckpointProto

from src.checkpoint.record import (
    CheckpointMetadata,
    TrainingMetadata,
    metadata_path,
    read_metadata,
    write_metadata,
)
from src.errors import UserError, first_line
from src.files import link_or_copy, whole_file

STATE_PREFIX = "state."
ELEMENT_BYTES = {"Bool": 1, "Int8": 1, "UInt8": 1, "Int16": 2, "UInt16": 2, "Float16": 2, "BFloat16": 2, "Int32": 4,
                 "UInt32": 4, "Float32": 4, "Int64": 8, "UInt64": 8, "Float64": 8}
CRC_MARK, CRC_BYTES = b"crc_num", 17  # what save_checkpoint(crc_check=True) adds at the end
BEST, LAST = "best", "last"
RECORDS = ("curves.csv", "curves.png", "report.html", "best.npz", "tensorboard", "profile")  # what else a run leaves


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read."""

    path: Path
    network: dict[str, Tensor]
    state: dict[str, Tensor]  # without the prefix
    metadata: CheckpointMetadata = CheckpointMetadata()
    digest: str = ""  # of the file

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that it was trained with, as far as it is known."""
        return self.metadata.config

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, if the checkpoint tells them."""
        return self.metadata.classes or None

    @property
    def training(self) -> TrainingMetadata | None:
        """How far its run was; None for a checkpoint that no run of this project wrote."""
        return self.metadata.training


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and the JSON beside it, if there is one.

    Raises:
        UserError: the file is missing, empty, damaged (its digest is not the JSON's) or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    metadata = read_metadata(path)
    try:
        digest, is_empty = file_digest(path), path.stat().st_size == 0
    except OSError as error:
        raise UserError(f"{path}: cannot read this checkpoint: {error.strerror}") from error
    if is_empty:
        raise UserError(f"{path}: this checkpoint is empty; use another one")
    if metadata.sha256 not in {"", digest}:
        raise UserError(f"{path}: this checkpoint is damaged: it is not the file that {metadata_path(path).name} "
                        "describes; use another one")
    try:
        _check_layout(path.read_bytes())
        values = ms.load_checkpoint(str(path))
    except Exception as error:  # MindSpore raises what its parsers raise
        raise UserError(f"{path}: not a MindSpore checkpoint, or a damaged one "
                        f"({first_line(error)})") from error
    state = {name: value for name, value in values.items() if name.startswith(STATE_PREFIX)}
    network = {name: value for name, value in values.items() if name not in state}
    return Checkpoint(path, network, {name.removeprefix(STATE_PREFIX): value for name, value in state.items()},
                      metadata, digest)


def _check_layout(content: bytes) -> None:
    """See that each tensor has as many bytes as its shape says: MindSpore copies without a look at that.

    Raises:
        ValueError: one has not, or there is something other than tensors. Or what the parser raises.
    """
    values = CheckpointProto.FromString(content[:-CRC_BYTES] if content[-CRC_BYTES:].startswith(CRC_MARK) else content)
    for name, group in itertools.groupby(values.value, key=lambda value: value.tag):  # large tensors come in slices
        slices = [value.tensor for value in group]
        dims = [] if list(slices[-1].dims) == [0] else list(slices[-1].dims)  # how MindSpore writes a scalar
        wanted = ELEMENT_BYTES.get(slices[-1].tensor_type, 0) * math.prod(dims)
        if not wanted or min(dims, default=1) < 0 or sum(len(part.tensor_content) for part in slices) != wanted:
            raise ValueError(f"{name} is no tensor, or has not the bytes of its shape")


def write_checkpoint(path: Path, network: Mapping[str, Tensor], state: Mapping[str, Tensor],
                     metadata: CheckpointMetadata) -> None:
    """Write a checkpoint, then its JSON with its digest, each whole or not at all."""
    values = {**network, **{STATE_PREFIX + name: value for name, value in state.items()}}
    with whole_file(path) as temporary:
        try:
            ms.save_checkpoint([{"name": name, "data": value} for name, value in values.items()], str(temporary))
        except RuntimeError as error:
            raise UserError(f"{path}: cannot write this checkpoint: {first_line(error)}") from error
        digest = file_digest(temporary)
    write_metadata(dataclasses.replace(metadata, sha256=digest), path)


@dataclass(frozen=True)
class Retention:
    """Which numbered checkpoints of a run are kept."""

    latest: int  # the newest so many
    best: int = 0  # those of the best so many epochs
    every: int = 0  # those of every so manieth epoch; 0 for none


class CheckpointFolder:
    """The checkpoints of one run: numbered ones, `best` and `last`. It removes none but this run's own.

    Args:
        path: the folder.
        retention: what to keep besides `best` and `last`.
    """

    def __init__(self, path: Path, retention: Retention) -> None:
        self.path = path
        self._retention = retention
        self._written: list[tuple[Path, TrainingMetadata]] = []  # oldest first

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Take over the checkpoints of the run that this one is of; mend `best` and `last`, which are written last."""
        newest = checkpoint.training
        if newest is None:
            return
        described = [(path, _training_or_none(path)) for path in self.path.glob("mobilenetv2*-*_*.ckpt")]
        found = [(path, training) for path, training in described
                 if training and training.run_id == newest.run_id and training.step <= newest.step]
        self._written = sorted(found, key=lambda entry: entry[1].step)
        if checkpoint.path in {path for path, _ in found}:
            self._name_latest(checkpoint.path, newest)

    def set_aside_earlier_run(self) -> None:
        """Move what an earlier run left here into a folder of the present date."""
        left = [file for pattern in ("mobilenetv2*-*_*.ckpt", f"{BEST}.ckpt", f"{LAST}.ckpt")
                for file in self.path.glob(pattern)]
        left = [file for found in left for file in (found, metadata_path(found)) if file.is_file()]
        left += [file for name in RECORDS if (file := self.path / name).exists()]
        if not left:
            return
        date = time.strftime("earlier-%Y%m%d-%H%M%S")
        names = (date, *(f"{date}-{n}" for n in range(2, 100)))  # several runs may begin in one second
        aside = next(folder for name in names if not (folder := self.path / name).exists())
        try:
            aside.mkdir()
            for file in left:
                file.rename(aside / file.name)
        except OSError as error:
            raise UserError(f"{aside}: cannot set an earlier run's checkpoints aside: {error.strerror}") from error
        print(f"{self.path}: an earlier run's checkpoints are now in {aside.name}/")

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
            print(f"warning: no checkpoint this time, training goes on: {error}", file=sys.stderr)
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
        by_score = sorted(whole, key=lambda entry: entry[1].metrics.get("top1", -1.0), reverse=True)
        every = self._retention.every
        kept = [self._written[-1], *whole[-self._retention.latest:], *by_score[:self._retention.best],
                *((path, training) for path, training in whole if every and training.epoch % every == 0)]
        return {path for path, _ in kept}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") \
            else hashlib.sha256(file.read()).hexdigest()


def _training_or_none(path: Path) -> TrainingMetadata | None:
    try:
        return read_metadata(path).training
    except UserError:
        return None
