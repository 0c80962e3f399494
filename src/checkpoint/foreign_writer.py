"""Writes weights as other projects read them: under their names, in PyTorch's format or as safetensors.

PyTorch's format is described by `torch/serialization.py` of PyTorch 2; src/checkpoint/torch_file.py reads it.
"""
import io
import pickle  # noqa: S403 - written only
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from src.checkpoint.namings import MINDSPORE, OURS, TORCH, Naming
from src.errors import UserError
from src.files import atomic_write

TORCH_ENDINGS, SAFETENSORS_ENDING = (".pth", ".pt", ".bin"), ".safetensors"


def write_foreign(path: Path, weights: Mapping[str, np.ndarray], naming: Naming) -> None:
    """Write weights under the names of `naming`; the ending of `path` tells the format.

    Args:
        path: `.safetensors`; or `.pth`, `.pt`, `.bin`, which are the same.
        weights: by this project's names, float32. The classifier may be missing.
        naming: whose names to write.

    Raises:
        UserError: the ending is none of these, the classifier has another form, or the file cannot be written.
    """
    renamed = _renamed(path, weights, naming)
    if path.suffix == SAFETENSORS_ENDING:
        with atomic_write(path) as temporary:
            save_file(renamed, temporary, metadata={"format": "np" if naming is OURS else "pt"})
    elif path.suffix in TORCH_ENDINGS:
        with atomic_write(path) as temporary:
            _write_torch(temporary, renamed)
    else:
        raise UserError(f"{path}: name the output with the ending {SAFETENSORS_ENDING} or {', '.join(TORCH_ENDINGS)}")


def _renamed(path: Path, weights: Mapping[str, np.ndarray], naming: Naming) -> dict[str, np.ndarray]:
    names = naming.backbone_names(MINDSPORE if naming is OURS else TORCH)
    names |= {f"{OURS.classifiers[0]}.{kind}": f"{naming.classifiers[0]}.{kind}" for kind in ("weight", "bias")}
    if others := weights.keys() - names.keys():
        raise UserError(f"{path}: {naming.name} has no name for {min(others)}; the classifier is of another form")
    return {names[name]: np.ascontiguousarray(value, "<f4") for name, value in weights.items()}


@dataclass(frozen=True)
class _Name:
    """A name in a pickle. It is written as it is; nothing of that name need exist here."""

    module: str
    name: str

    def __call__(self) -> None:
        """Only so that a pickle may call it."""


@dataclass(frozen=True)
class _Storage:
    key: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(int(np.prod(self.shape[axis + 1:])) for axis in range(len(self.shape)))
        return _Name("torch._utils", "_rebuild_tensor_v2"), (self.storage, 0, self.shape, strides, False, OrderedDict())


class _Pickler(pickle._Pickler):
    """The pickler in Python: the one in C writes names of what exists only."""

    def persistent_id(self, obj: object) -> tuple[Any, ...] | None:
        if not isinstance(obj, _Storage):
            return None
        return "storage", _Name("torch", "FloatStorage"), obj.key, "cpu", obj.size

    def save(self, obj: object, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())  # type: ignore[attr-defined]
        else:
            super().save(obj, save_persistent_id)  # type: ignore[misc]


def _write_torch(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    tensors = OrderedDict((name, _Tensor(_Storage(str(key), value.size), value.shape))
                          for key, (name, value) in enumerate(arrays.items()))
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(tensors)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, value in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{key}", value.tobytes())
        archive.writestr("archive/version", "3\n")
