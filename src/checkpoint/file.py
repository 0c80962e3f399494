"""Checkpoints: one file of parameters and a JSON of the same stem that says what they are.

A checkpoint holds the network under its parameters' own names, ready for evaluation and export, and under `state.` what
only a training run needs. Its JSON is declared in src/checkpoint/record.py.
"""
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Tensor
from mindspore.train.checkpoint_pb2 import Checkpoint as CheckpointProto

from src.checkpoint.names import metadata_path
from src.checkpoint.record import CheckpointMetadata, TrainingMetadata, read_metadata, write_metadata
from src.errors import UserError, first_line
from src.files import atomic_write

STATE_PREFIX = "state."
ELEMENT_BYTES = {"Bool": 1, "Int8": 1, "UInt8": 1, "Int16": 2, "UInt16": 2, "Float16": 2, "BFloat16": 2, "Int32": 4,
                 "UInt32": 4, "Float32": 4, "Int64": 8, "UInt64": 8, "Float64": 8}
CRC_MARK, CRC_BYTES = b"crc_num", 17  # what save_checkpoint(crc_check=True) adds at the end


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
    with atomic_write(path) as temporary:
        try:
            ms.save_checkpoint([{"name": name, "data": value} for name, value in values.items()], str(temporary))
        except RuntimeError as error:
            raise UserError(f"{path}: cannot write this checkpoint: {first_line(error)}") from error
        digest = file_digest(temporary)
    write_metadata(dataclasses.replace(metadata, sha256=digest), path)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") \
            else hashlib.sha256(file.read()).hexdigest()
