"""Reads the tensors of a file that `torch.save` wrote, without PyTorch, and without running what the file asks for.

Such a file has a pickle that describes tensors, and the raw bytes of the tensors. A pickle can call any function while
it is read. This reader knows the few names that tensors need. An object of any other name, as the optimizer or the
`argparse.Namespace` of a training checkpoint, is passed over: an empty `PassedOver` takes its place.

The two formats are described by `torch/serialization.py` of PyTorch 2: a zip archive (since 1.6) with `data.pkl` and a
`data/<key>` for each storage, and the older stream of five pickles followed by the storages.
"""
import io
import math
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from src.errors import UserError, first_line, list_some
from src.safe_pickle import PassedOver, RefusedError, TolerantUnpickler

OLD_MAGIC = 0x1950A86A20F9469CFC6C
OLD_VERSION = 1001
STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?", "ComplexFloatStorage": "<c8", "ComplexDoubleStorage": "<c16",
}
LISTED = 3  # names that an error shows
DEPTH = 8  # of dictionaries in dictionaries; a damaged file may have one that is in itself
ENCRYPTED = 1  # a flag of an entry of a zip archive


def read_torch_file(path: Path) -> dict[str, Any]:
    """The content of a file of `torch.save`: a dictionary whose tensors are arrays; bfloat16 ones become float32.

    Raises:
        UserError: the file is missing, damaged, or holds something other than a dictionary.
    """
    try:
        with path.open("rb") as file:
            read = _read_zip if zipfile.is_zipfile(file) else _read_old
            file.seek(0)
            values = _arrays(read(file))
    except RefusedError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read this file: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle raises many types of error
        raise UserError(f"{path}: not a PyTorch file, or a damaged one ({type(error).__name__}: "
                        f"{first_line(error)})") from error
    if isinstance(values, PassedOver):
        raise UserError(f"{path}: holds an object of {values.name}, of which nothing is run here; save the network's "
                        "state_dict()")
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no dictionary of tensors, but a {type(values).__name__}; save the network's "
                        "state_dict()")
    return values


@dataclass(frozen=True)
class _StorageType:
    dtype: str


@dataclass
class _Storage:
    """The elements of one or more tensors. In the old format they come after the tensors."""

    dtype: str
    size: int
    values: np.ndarray | None = None

    def fill(self, content: bytes) -> None:
        width = 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize
        if len(content) != width * self.size:
            raise ValueError(f"a storage of {self.size} elements has {len(content)} bytes")
        if self.dtype == "bfloat16":  # the upper half of a float32
            self.values = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            self.values = np.frombuffer(content, self.dtype)


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """A copy in row-major order. Strides come from the file: nothing outside the storage is touched."""
        values = self.storage.values
        if values is None or len(self.shape) != len(self.strides) or min((self.offset, *self.shape, *self.strides)) < 0:
            raise ValueError("a tensor without a storage, or of an impossible shape")
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, values.dtype)
        if math.prod(self.shape) > len(values):  # strides of 0: a small file that fills the memory
            raise ValueError("a tensor has more elements than its storage")
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if last >= len(values):
            raise ValueError("a tensor reaches beyond its storage")
        steps = tuple(stride * values.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(values[self.offset:], self.shape, steps).copy()


def _rebuild_tensor(storage: object, offset: int, shape: tuple[int, ...], strides: tuple[int, ...],
                    *_rest: object) -> _Tensor | PassedOver:
    if isinstance(storage, PassedOver):  # of a type that no network here has
        return storage
    if not isinstance(storage, _Storage):
        raise TypeError("a tensor of something other than a storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_parameter(tensor: object, *_rest: object) -> object:
    return tensor


def _rebuild_from_type(rebuild: Callable[..., object], _type: object, arguments: tuple, _state: object) -> object:
    """A tensor with attributes of its own."""
    return rebuild(*arguments)


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    **{("torch", name): _StorageType(dtype) for name, dtype in STORAGES.items()},
}


class _WeightsUnpickler(TolerantUnpickler):
    def __init__(self, file: BinaryIO, storage: Callable[[str, str, int], _Storage]) -> None:
        super().__init__(file, ALLOWED, encoding="utf-8")
        self._storage = storage

    def persistent_load(self, pid: Any) -> _Storage | PassedOver:  # noqa: ANN401 - whatever the pickle says
        kind, storage_type, key, _location, size = pid[:5]
        if isinstance(storage_type, type) and issubclass(storage_type, PassedOver):
            return storage_type()
        if kind != "storage" or not isinstance(storage_type, _StorageType) or size < 0 or any(pid[5:]):
            raise RefusedError("refers to something other than a plain storage")
        return self._storage(str(key), storage_type.dtype, int(size))


def _arrays(values: object, depth: int = 0) -> object:
    """The same dictionaries, with their tensors as arrays."""
    if isinstance(values, _Tensor):
        return values.array()
    if not isinstance(values, Mapping) or depth > DEPTH:
        return values
    return {name: _arrays(value, depth + 1) if isinstance(name, str) else value for name, value in values.items()}


def _read_zip(file: BinaryIO) -> object:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        if any(entry.flag_bits & ENCRYPTED for entry in entries.values()):
            raise RefusedError("is an encrypted zip archive; unpack it with its password first")
        if "data.pkl" not in entries:
            raise RefusedError(f"is a zip archive, but not one of torch.save: it holds "
                               f"{list_some(archive.namelist(), LISTED) or 'nothing'}")
        if any(name.startswith("code/") for name in entries):
            raise RefusedError("is a TorchScript program; save the network's state_dict()")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise RefusedError("is compressed, which PyTorch never does")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise RefusedError("was written on a big-endian machine")
        storages: dict[str, _Storage] = {}

        def storage(key: str, dtype: str, size: int) -> _Storage:
            if key not in storages:
                storages[key] = _Storage(dtype, size)
                storages[key].fill(archive.read(entries[f"data/{key}"]))
            return storages[key]

        return _WeightsUnpickler(io.BytesIO(archive.read(entries["data.pkl"])), storage).load()


def _read_old(file: BinaryIO) -> object:
    storages: dict[str, _Storage] = {}

    def storage(key: str, dtype: str, size: int) -> _Storage:
        return storages.setdefault(key, _Storage(dtype, size))

    def load() -> Any:  # noqa: ANN401 - whatever was pickled
        return _WeightsUnpickler(file, storage).load()

    if (load(), load()) != (OLD_MAGIC, OLD_VERSION):
        raise ValueError("neither a zip archive nor the older format")
    load()  # facts about the machine that wrote it
    values = load()
    for key in load():
        if str(key) not in storages:
            raise RefusedError("has tensors of a type that is not read; save the network's state_dict() alone")
        known = storages[str(key)]
        size = int.from_bytes(file.read(8), "little")
        if size != known.size:
            raise ValueError(f"a storage of {known.size} elements has {size}")
        known.fill(file.read(size * (2 if known.dtype == "bfloat16" else np.dtype(known.dtype).itemsize)))
    return values
