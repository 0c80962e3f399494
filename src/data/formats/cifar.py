"""CIFAR-10 and CIFAR-100 as image folders, out of the archives of https://www.cs.toronto.edu/~kriz/cifar.html.

That page describes both versions: the binary one, of records of one label byte (CIFAR-100: a coarse one and the label)
and 3 x 32 x 32 bytes of pixels; and the one for Python, of pickles. The pickles are read without running their code.
"""
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from src.data.formats.tar_archive import compressed_members
from src.errors import UserError, first_line
from src.files import atomic_folder, check_space
from src.safe_pickle import RefusedError, RestrictedUnpickler

SIDE = 32  # pixels
PIXELS = 3 * SIDE * SIDE
LARGEST_FILE = 512 * 2 ** 20  # bytes; CIFAR-100's train is of 154 MB

Parsed = TypeVar("Parsed")
Batch = tuple[np.ndarray, np.ndarray]  # N x 3072 uint8, all red before all green before all blue; N labels


@dataclass(frozen=True)
class Layout:
    """The files of one of the archives."""

    train: tuple[str, ...]  # files
    test: str
    meta: str  # file of the class names
    label_bytes: int = 0  # of a binary record; the last one is the label
    label_key: str = ""  # of a pickle
    names_key: str = ""


LAYOUTS = (
    Layout(tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin", "batches.meta.txt", label_bytes=1),
    Layout(("train.bin",), "test.bin", "fine_label_names.txt", label_bytes=2),
    Layout(tuple(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta", label_key="labels",
           names_key="label_names"),
    Layout(("train",), "test", "meta", label_key="fine_labels", names_key="fine_label_names"),
)


def prepare_cifar(archive: Path, output: Path) -> dict[str, int]:
    """Write `output/{train,val}/<class>/<number>.png`, whole or not at all; returns the number of images of each part.

    The test batch becomes val. Images are numbered in the order of the archive, which is the same in both versions.

    Raises:
        UserError: the archive is missing, damaged, not CIFAR or calls for code; or `output` exists and is not empty.
    """
    classes, batches = read_cifar(archive)
    counts = {part: sum(len(labels) for _, labels in found) for part, found in batches.items()}
    check_space(output, [1] * sum(counts.values()), "CIFAR's images")
    with atomic_folder(output) as folder, tqdm(total=sum(counts.values()), unit="image", disable=None) as bar:
        for part, found in batches.items():
            for name in classes:
                (folder / part / name).mkdir(parents=True)
            number = 0
            for pixels, labels in found:
                for row, label in zip(pixels.reshape(-1, 3, SIDE, SIDE), labels, strict=True):
                    image = Image.fromarray(np.ascontiguousarray(row.transpose(1, 2, 0)))
                    image.save(folder / part / classes[label] / f"{number:05d}.png")
                    number += 1
                    bar.update()
    return counts


def read_cifar(archive: Path) -> tuple[list[str], dict[str, list[Batch]]]:
    """The names of the classes, and the batches of train and val."""
    wanted = {name for layout in LAYOUTS for name in (*layout.train, layout.test, layout.meta)}
    files = compressed_members(archive, wanted, LARGEST_FILE)
    layout = next((layout for layout in LAYOUTS if layout.meta in files), None)
    if layout is None:
        raise UserError(f"{archive}: is no archive of CIFAR-10 or CIFAR-100; it has no file with the names of classes")
    if missing := [name for name in (*layout.train, layout.test) if name not in files]:
        raise UserError(f"{archive}: has no {missing[0]} in it; download it anew")
    classes = _parsed(archive, layout.meta, _class_names, layout, files[layout.meta])
    batches: dict[str, list[Batch]] = {}
    for part, names in {"train": layout.train, "val": (layout.test,)}.items():
        batches[part] = []
        for name in names:
            pixels, labels = _parsed(archive, name, _batch, layout, files[name])
            if labels.ndim != 1 or not len(labels) or labels.min() < 0 or labels.max() >= len(classes):
                raise UserError(f"{archive}: {name} in it has labels of no class, or no images; download it anew")
            batches[part].append((pixels, labels))
    return classes, batches


def _parsed(archive: Path, name: str, parse: Callable[[Layout, bytes], Parsed], layout: Layout,
            content: bytes) -> Parsed:
    try:
        return parse(layout, content)
    except RefusedError as error:
        raise UserError(f"{archive}: {name} in it {error}; take the binary version of the archive") from None
    except Exception as error:  # a damaged pickle raises many types of error
        raise UserError(f"{archive}: {name} in it is damaged ({type(error).__name__}: {first_line(error)}); download "
                        "it anew") from error


def _class_names(layout: Layout, content: bytes) -> list[str]:
    names = [str(name) for name in _unpickled(content)[layout.names_key]] if layout.names_key \
        else content.decode("ascii").split()
    if not names or len(set(names)) != len(names) or not all(re.fullmatch(r"\w[\w -]*", name) for name in names):
        raise ValueError("names that are missing, double or cannot be a folder's")
    return names


def _batch(layout: Layout, content: bytes) -> Batch:
    if layout.label_bytes:
        rows = np.frombuffer(content, np.uint8).reshape(-1, layout.label_bytes + PIXELS)
        return rows[:, layout.label_bytes:], rows[:, layout.label_bytes - 1]
    values = _unpickled(content)
    labels = np.array(values[layout.label_key], np.int64)
    return values["data"].pixels.reshape(len(labels), PIXELS), labels


# ---- pickles

class _Type:
    """Stands for numpy.dtype, of which CIFAR has one."""

    def __init__(self, name: str, *_rest: object) -> None:
        if name != "u1":
            raise RefusedError(f"has numbers of type {name!r}, which CIFAR has not,")

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which bytes do not have."""


class _Array:
    """Stands for numpy.ndarray: takes its bytes and nothing else."""

    pixels: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _version, shape, kind, is_fortran, content = state
        if not isinstance(kind, _Type):
            raise RefusedError("has an array of something other than bytes")
        if isinstance(content, str):  # texts and bytes are the same to Python 2
            content = content.encode("latin-1")
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(*_arguments: object) -> _Array:
    return _Array()


ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
}


def _unpickled(content: bytes) -> dict[str, Any]:
    """A dictionary that Python 2 wrote; its texts become latin-1, which keeps every byte."""
    values = RestrictedUnpickler(io.BytesIO(content), ALLOWED, encoding="latin-1").load()
    if not isinstance(values, dict):
        raise TypeError("no dictionary")
    return values
