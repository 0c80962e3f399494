"""Labelled images: the files of an image folder, `root/<class>/<image>`, or those that a list names."""
import dataclasses
import functools
import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from src.data.class_order import class_order
from src.data.image_cache import blank_image, encoded_image
from src.data.images import IMAGE_ENDINGS, is_image
from src.errors import UserError
from src.files import size_and_time
from src.names import escape_name

EVAL_FOLDERS = ("val", "valid", "validation", "validation_preprocess")  # the last is the ancestor's name
SYSTEM_FILES = {"__MACOSX", "Thumbs.db", "desktop.ini"}  # besides those that begin with a dot
HIDDEN, OTHER, NO_CLASS, EMPTY, CIRCLE, SPECIAL = (
    "hidden", "no image", "in no class folder", "class folder without an image", "link in a circle", "no file")

STAT_THREADS = 16  # they wait for a disk or a network
STAT_PORTION = 2000  # files; Python's numbers of a million files would take ten times as much memory as the array

LeftOut = Mapping[str, Sequence[str]]  # why, to the names of files


@dataclass(frozen=True)
class ImageFolder:
    """Images with their labels, sorted by class and name.

    In a folder a class is a visible folder with at least one image in it or below. Its index is its position in the
    sorted class names. Links are followed. A class name is in Unicode's form NFC, whatever form the folder's name has.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]  # relative to the root
    labels: np.ndarray  # class index of each file, int32
    copies: tuple[str, ...] = ()  # of each file: the path of its rewritten copy, empty for none; () if there are none
    left_out: LeftOut = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # sentences about what was found
    part_of: "tuple[ImageFolder, np.ndarray] | None" = field(default=None, repr=False, compare=False)  # see `part`

    def __len__(self) -> int:
        return len(self.files)

    @classmethod
    def scan(cls, root: Path) -> "ImageFolder":
        """List a folder.

        Raises:
            UserError: the folder does not exist, cannot be read, or has no class with an image in it.
        """
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; --dataset_path needs a folder with one folder per class")
        left_out: dict[str, list[str]] = defaultdict(list)
        try:
            found = _scan_classes(root, left_out)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot read this folder: {error.strerror}") from None
        if not found and any(map(has_mindrecords, (root, *(root / name for name in ("train", *EVAL_FOLDERS))))):
            raise UserError(f"{root}: no images here, but MindRecord files; make an image folder of them with "
                            f"python tools/unpack_mindrecord.py --source {root} --output FOLDER")
        if not found:
            raise UserError(f"{root}: no images here; expected {root}/<class>/<image>")
        by_class: dict[str, list[str]] = defaultdict(list)
        for name in class_order(found):
            by_class[unicodedata.normalize("NFC", name)] += found[name]
        notes = [f"class {escape_name(name)} has several folders, whose names differ only in Unicode's form"
                 for name in by_class if sum(unicodedata.normalize("NFC", other) == name for other in found) > 1]
        return dataclasses.replace(cls.of(root, by_class), left_out=left_out, notes=tuple(notes))

    @classmethod
    def of(cls, root: Path, by_class: Mapping[str, Sequence[str]]) -> "ImageFolder":
        """The images with these names, relative to `root`, of each class."""
        classes = class_order(by_class)
        return cls(
            root=root.resolve(),
            classes=classes,
            files=tuple(file for name in classes for file in by_class[name]),
            labels=np.repeat(np.arange(len(classes), dtype=np.int32), [len(by_class[name]) for name in classes]),
        )

    def select(self, positions: Sequence[int] | np.ndarray) -> "ImageFolder":
        """The images at these positions, in this order; the classes stay."""
        return dataclasses.replace(
            self, files=tuple(self.files[position] for position in positions), labels=self.labels[positions],
            copies=tuple(self.copies[position] for position in positions) if self.copies else (), part_of=None)

    def part(self, positions: np.ndarray) -> "ImageFolder":
        """As `select`. The part knows the whole folder and its own positions there: what is computed of the whole
        folder once then serves all of its parts.
        """
        return dataclasses.replace(self.select(positions), part_of=(self, positions))

    def encoded(self, position: int) -> np.ndarray:
        """The bytes, uint8, that MindSpore decodes for the image at a position: its own, or those of its copy.

        Raises:
            OSError: the image cannot be read.
        """
        return encoded_image(self.root / self.files[position], self.copies[position] if self.copies else "")

    def blank(self, position: int) -> np.ndarray:
        """The bytes of a blank image of the same size as that of `encoded`.

        Raises:
            Exception: the image's header cannot be read; Pillow raises many types of error.
        """
        return blank_image(self.root / self.files[position], self.copies[position] if self.copies else "")

    def class_of(self, position: int) -> str:
        """Name of the class of the image at a position."""
        return self.classes[self.labels[position]]

    @functools.cached_property
    def stats(self) -> np.ndarray:
        """N x 2 int64: size in bytes and time of the last change in ns of each file; -1 and the error's number."""
        root = os.fspath(self.root)

        def stats(begin: int) -> np.ndarray:
            return np.array([size_and_time(f"{root}/{name}") for name in self.files[begin:begin + STAT_PORTION]],
                            np.int64)

        with ThreadPoolExecutor(STAT_THREADS) as pool:
            return np.concatenate([np.empty((0, 2), np.int64), *pool.map(stats, range(0, len(self), STAT_PORTION))])

    def stamp(self, position: int) -> str:
        """A text that changes with a file: its size and time, or why it cannot be asked."""
        size, time_changed = self.stats[position].tolist()
        return os.strerror(time_changed) if size < 0 else f"{size} {time_changed}"

    def keys(self) -> np.ndarray:
        """N uint64: hashes of name, size and time of each file."""
        return np.fromiter((int.from_bytes(hashlib.blake2b(line, digest_size=8).digest(), "little")
                            for line in self._stat_lines()), np.uint64, len(self))

    def digest(self) -> str:
        """A hash of the names, sizes and times of all files.

        Raises:
            UserError: a file is gone.
        """
        for position in np.flatnonzero(self.stats[:, 0] < 0):
            raise UserError(f"{self.root / self.files[position]}: cannot be read: "
                            f"{os.strerror(self.stats[position, 1])}")
        hasher = hashlib.sha256()
        for line in self._stat_lines():
            hasher.update(line)
        return hasher.hexdigest()

    def _stat_lines(self) -> Iterator[bytes]:
        for begin in range(0, len(self), STAT_PORTION):
            end = begin + STAT_PORTION
            for name, (size, time_changed) in zip(self.files[begin:end], self.stats[begin:end].tolist(), strict=True):
                yield os.fsencode(f"{name}\0{size}\0{time_changed}\n")


def _scan_classes(root: Path, left_out: dict[str, list[str]]) -> dict[str, list[str]]:
    """The images below each class folder, sorted by their bytes as MindSpore sorts them."""
    found = {}
    for entry in os.scandir(root):
        if _hidden(entry.name):
            left_out[HIDDEN].append(entry.name)
        elif not entry.is_dir():
            left_out[NO_CLASS].append(entry.name)
        elif images := sorted(_images(entry.path, f"{entry.name}/", (_identity(root), _identity(entry)),
                                        left_out), key=os.fsencode):
            found[entry.name] = images
        else:
            left_out[EMPTY].append(entry.name)
    return found


def _images(folder: str, prefix: str, parents: tuple[tuple[int, int], ...],
            left_out: dict[str, list[str]]) -> Iterator[str]:
    """Names of the images in a folder and below, with a prefix."""
    for entry in os.scandir(folder):
        file = f"{prefix}{entry.name}"
        if _hidden(entry.name):
            left_out[HIDDEN].append(file)
        elif entry.is_dir():
            if _identity(entry) in parents:
                left_out[CIRCLE].append(file)
            else:
                yield from _images(entry.path, f"{file}/", (*parents, _identity(entry)), left_out)
        elif not entry.is_file() and not (entry.is_symlink() and _ends_like_an_image(entry.name)):
            left_out[SPECIAL].append(file)
        elif _ends_like_an_image(entry.name) or is_image(Path(entry.path)):
            yield file  # also a broken link that ends like an image: the check will name it
        else:
            left_out[OTHER].append(file)


def images_below(folder: Path) -> tuple[list[str], LeftOut]:
    """The images in a folder and below, relative to it, and what else there is.

    Raises:
        UserError: the folder, or one below, cannot be read.
    """
    left_out: dict[str, list[str]] = defaultdict(list)
    try:
        return list(_images(str(folder), "", (_identity(folder),), left_out)), left_out
    except OSError as error:
        raise UserError(f"{error.filename}: cannot read this folder: {error.strerror}") from None


def _ends_like_an_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS)


def _identity(entry: os.DirEntry | Path) -> tuple[int, int]:
    """What tells a folder from every other one on this machine."""
    status = entry.stat()
    return status.st_dev, status.st_ino


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FILES


def mindrecords(folder: Path) -> list[Path]:
    """The MindRecord files directly in a folder, without their index files. The names of shards end in a number."""
    return sorted(path for path in folder.iterdir() if re.search(r"\.mindrecord\d*$", path.name) and path.is_file()
                  and not _hidden(path.name))


def has_mindrecords(folder: Path) -> bool:
    """Whether the folder exists and has a MindRecord file in it."""
    return folder.is_dir() and bool(mindrecords(folder))
