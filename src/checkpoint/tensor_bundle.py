"""Reads checkpoints of TensorFlow without TensorFlow: NAME.index and NAME.data-00000-of-00001.

The index is a sorted table of LevelDB (its doc/table_format.md), whose values are messages of
tensorflow/core/protobuf/tensor_bundle.proto; the tensors lie in the data files. All checksums are checked.
"""
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.checkpoint.crc32c import masked_crc32c
from src.errors import UserError, first_line

INDEX_ENDING = bytes.fromhex("57fb808b247547db")
FOOTER, TRAILER = 48, 5  # bytes; the trailer of a block: the kind of its compression, and its checksum
DATA_NAME = re.compile(r"(.+)\.data-\d{5}-of-\d{5}")
TYPES = {1: "<f4", 2: "<f8", 14: "<u2", 19: "<f2"}  # of tensorflow/core/framework/types.proto; others are passed over
BFLOAT16 = 14
NUM_SHARDS, ENDIANNESS = 1, 2  # fields of BundleHeaderProto
DTYPE, SHAPE, SHARD_ID, OFFSET, SIZE, CHECKSUM, SLICES = range(1, 8)  # fields of BundleEntryProto

Message = dict[int, list]  # values by the number of the field


class _DamagedError(Exception):
    pass


@dataclass(frozen=True)
class _Entry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def index_path(path: Path) -> Path:
    """The index of a checkpoint that is named by its index, by one of its data files, or by what these begin with."""
    if found := DATA_NAME.fullmatch(path.name):
        return path.with_name(f"{found[1]}.index")
    beside = path.with_name(f"{path.name}.index")
    return beside if beside.is_file() and not path.exists() else path


def read_tensor_bundle(path: Path) -> dict[str, np.ndarray]:
    """The named tensors of real numbers of a checkpoint; bfloat16 ones become float32.

    Args:
        path: of the index.

    Raises:
        UserError: a file is missing or damaged, or a tensor is stored in parts.
    """
    try:
        entries, num_shards = _entries(path.read_bytes())
        files = [path.with_name(f"{path.stem}.data-{shard:05d}-of-{num_shards:05d}") for shard in range(num_shards)]
        shards = [np.memmap(file, np.uint8, "r") for file in files]
        if sum(entry.size for entry in entries.values()) > sum(map(len, shards)):
            raise _DamagedError("its tensors are larger than its data")
        return {name: _tensor(name, entry, shards[entry.shard]) for name, entry in entries.items()}
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot read this part of a TensorFlow checkpoint: "
                        f"{error.strerror}; the .index and .data files must be in one folder") from error
    except (_DamagedError, ValueError, IndexError) as error:
        raise UserError(f"{path}: not a TensorFlow checkpoint that can be read, or a damaged one "
                        f"({first_line(error)})") from error


def _entries(content: bytes) -> tuple[dict[str, _Entry], int]:
    """The tensors of real numbers by name, and the number of data files."""
    if content[-len(INDEX_ENDING):] != INDEX_ENDING or len(content) < FOOTER:
        raise _DamagedError("its index is cut off")
    footer = content[-FOOTER:]
    _, at = _handle(footer, 0)  # of the metaindex, which is empty
    index, _ = _handle(footer, at)
    rows = [row for _, handle in _block(content, *index) for row in _block(content, *_handle(handle, 0)[0])]
    if not rows or rows[0][0] != b"":
        raise _DamagedError("it has no header")
    header = _message(rows[0][1])
    if header.get(ENDIANNESS, [0])[0]:
        raise _DamagedError("its numbers are big-endian")
    num_shards = header.get(NUM_SHARDS, [0])[0]
    if not 1 <= num_shards <= len(rows):
        raise _DamagedError(f"it says that it has {num_shards} data files")
    found = {}
    for name, value in rows[1:]:
        message = _message(value)
        if message.get(DTYPE, [0])[0] not in TYPES:
            continue
        if SLICES in message:
            raise _DamagedError(f"{name.decode()} is stored in parts; save it whole")
        dims = [_message(dim).get(1, [0])[0] for shape in message.get(SHAPE, [])
                for dim in _message(shape).get(2, [])]
        shard, offset, size = (message.get(field, [0])[0] for field in (SHARD_ID, OFFSET, SIZE))
        if shard >= num_shards:
            raise _DamagedError(f"{name.decode()} is in a file that it does not have")
        found[name.decode()] = _Entry(message[DTYPE][0], tuple(dims), shard, offset, size,
                                      int.from_bytes(message.get(CHECKSUM, [b""])[0], "little"))
    return found, num_shards


def _tensor(name: str, entry: _Entry, shard: np.ndarray) -> np.ndarray:
    content = np.array(shard[entry.offset:entry.offset + entry.size])
    if len(content) != entry.size or masked_crc32c(content) != entry.checksum:
        raise _DamagedError(f"the checksum of {name} is not that of its data")
    values = content.view(TYPES[entry.dtype])
    if entry.dtype == BFLOAT16:  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(entry.shape)


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block of the table."""
    block, trailer = content[offset:offset + size], content[offset + size:offset + size + TRAILER]
    if len(trailer) != TRAILER or trailer[0] != 0:
        raise _DamagedError("its index is compressed or cut off")
    if masked_crc32c(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise _DamagedError("the checksum of its index is not that of its content")
    restarts = int.from_bytes(block[-4:], "little")
    end, at, key = len(block) - 4 - 4 * restarts, 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at:at + own]
        yield key, block[at + own:at + own + length]
        at += own + length


def _handle(content: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where the next handle begins."""
    offset, at = _varint(content, at)
    size, at = _varint(content, at)
    return (offset, size), at


def _message(content: bytes) -> Message:
    """The fields of a message of protocol buffers; groups, which these messages do not have, are an error."""
    found: Message = {}
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(content, at)
        elif kind in {1, 2, 5}:
            length = {1: 8, 5: 4}.get(kind)
            if length is None:
                length, at = _varint(content, at)
            value, at = content[at:at + length], at + length
        else:
            raise _DamagedError("its index has an unknown field")
        found.setdefault(tag >> 3, []).append(value)
    return found


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, and where the next value begins."""
    number = 0
    for shift in range(0, 64, 7):
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise _DamagedError("its index has a number of more than 64 bits")
