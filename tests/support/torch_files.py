"""Files as `torch.save` writes them, made without PyTorch: stand-ins pickle under the names of its classes."""
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Storage:
    def __init__(self, kind: type, values: np.ndarray, key: str) -> None:
        self.kind, self.values, self.key = kind, values, key


def stand_in_torch(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stand-ins that pickle under the names that PyTorch's classes have."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "HalfStorage", "BFloat16Storage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2() -> None:
        """Only its name counts."""

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    torch._utils = utils  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return types.SimpleNamespace(torch=torch, rebuild=_rebuild_tensor_v2)


class TorchTensor:
    def __init__(self, names: types.SimpleNamespace, storage: Storage, offset: int, shape: tuple[int, ...],
                 strides: tuple[int, ...]) -> None:
        self.arguments: tuple = (storage, offset, shape, strides, False, OrderedDict())
        self.rebuild = names.rebuild

    def __reduce__(self) -> tuple:
        return self.rebuild, self.arguments


class Pickler(pickle.Pickler):
    old = False

    def persistent_id(self, obj: object) -> tuple | None:
        if not isinstance(obj, Storage):
            return None
        pid = ("storage", obj.kind, obj.key, "cpu", obj.values.size)
        return (*pid, None) if self.old else pid


class OldPickler(Pickler):
    old = True


def pickled(value: object, pickler: type[Pickler] = Pickler) -> bytes:
    buffer = io.BytesIO()
    pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def write_zip(path: Path, value: object, storages: list[Storage], **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        archive.writestr("archive/byteorder", b"little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.values.tobytes())
        for name, content in more.items():
            archive.writestr(f"archive/{name}", content)
    return path


def write_old(path: Path, value: object, storages: list[Storage]) -> Path:
    parts = [pickled(part, OldPickler) for part in (
        0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, [storage.key for storage in storages])]
    content = b"".join(len(s.values).to_bytes(8, "little") + s.values.tobytes() for s in storages)
    path.write_bytes(b"".join(parts) + content)
    return path


KINDS = {"<f4": "FloatStorage", "<f2": "HalfStorage", "<i8": "LongStorage", "<u2": "BFloat16Storage"}


def torch_state(names: types.SimpleNamespace, value: Any, storages: list[Storage] | None = None  # noqa: ANN401
                ) -> tuple[Any, list[Storage]]:
    """The same dictionaries with their arrays as tensors, in storages of their own. uint16 is taken for bfloat16."""
    storages = [] if storages is None else storages
    if isinstance(value, dict):
        return OrderedDict((key, torch_state(names, item, storages)[0]) for key, item in value.items()), storages
    if not isinstance(value, np.ndarray):
        return value, storages
    storages.append(Storage(getattr(names.torch, KINDS[value.dtype.str]), value.ravel(), str(len(storages))))
    strides = tuple(stride // value.itemsize for stride in value.strides)
    return TorchTensor(names, storages[-1], 0, value.shape, strides), storages
