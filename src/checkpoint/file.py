"""Reads and writes checkpoints: a file of parameters, and a JSON with the same stem that describes it.

The parameters of the network have their own names, so that a checkpoint is ready for evaluation and export. The names
of what only training needs begin with `state.`. src/checkpoint/record.py declares the JSON.
"""
import dataclasses
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
from src.confidence import Confidence
from src.errors import UserError, first_line
from src.files import atomic_write, file_digest

STATE_PREFIX = "state."
ELEMENT_BYTES = {"Bool": 1, "Int8": 1, "UInt8": 1, "Int16": 2, "UInt16": 2, "Float16": 2, "BFloat16": 2, "Int32": 4,
                 "UInt32": 4, "Float32": 4, "Int64": 8, "UInt64": 8, "Float64": 8}
CRC_MARK, CRC_BYTES = b"crc_num", 17  # what save_checkpoint(crc_check=True) adds at the end


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint and of its JSON."""

    path: Path
    network: dict[str, Tensor]
    state: dict[str, Tensor]  # without the prefix
    metadata: CheckpointMetadata = CheckpointMetadata()
    digest: str = ""  # of the file

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the training; empty if unknown."""
        return self.metadata.config

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; None if unknown."""
        return self.metadata.classes or None

    @property
    def confidence(self) -> Confidence | None:
        """The temperature and the threshold for these weights; None if unknown."""
        return self.metadata.confidence

    @property
    def training(self) -> TrainingMetadata | None:
        """The state of the run that wrote it; None if no run of this project did."""
        return self.metadata.training


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and the JSON beside it, if there is one.

    Raises:
        UserError: the file is missing, empty, damaged (its digest is not that of the JSON) or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, not a checkpoint' if path.is_dir() else 'no such checkpoint'}")
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
    except Exception as error:  # MindSpore passes on the errors of its parsers
        raise UserError(f"{path}: not a MindSpore checkpoint, or a damaged one "
                        f"({first_line(error)})") from error
    state = {name: value for name, value in values.items() if name.startswith(STATE_PREFIX)}
    network = {name: value for name, value in values.items() if name not in state}
    return Checkpoint(path, network, {name.removeprefix(STATE_PREFIX): value for name, value in state.items()},
                      metadata, digest)


def _check_layout(content: bytes) -> None:
    """Check that each tensor has the number of bytes of its shape: MindSpore copies without this check.

    Raises:
        ValueError: a tensor has not, or a value is no tensor. The parser may raise other errors.
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
