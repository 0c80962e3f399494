"""Image folders, `root/<class>/<image>`, and the training and validation folders in a `dataset_path`."""
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.data.class_order import class_order
from src.errors import UserError

# What MindSpore's Decode reads; it refuses gif and webp.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
EVAL_FOLDERS = ("val", "validation_preprocess")  # the second is the ancestor's name


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder, sorted by class and name.

    A class is a visible folder with at least one image. Its index is its position in the sorted class names. Hidden
    files, other files and folders inside a class are ignored.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]  # relative to the root
    labels: np.ndarray  # class index of each file, int32
    rows: np.ndarray  # position of each file in MindSpore's ImageFolderDataset, which also counts hidden images
    extensions: tuple[str, ...]  # endings that occur, in upper or lower case as they are
    times: tuple[int, ...]  # last change of each class folder, in ns

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
        try:
            found = {entry.name: _images(entry.path) for entry in os.scandir(root)
                     if entry.is_dir() and not _hidden(entry.name)}
        except OSError as error:
            raise UserError(f"{error.filename}: cannot read this folder: {error.strerror}") from None
        classes = class_order(name for name, images in found.items() if not all(map(_hidden, images)))
        if not classes and any(map(has_mindrecords, (root, *(root / name for name in ("train", *EVAL_FOLDERS))))):
            raise UserError(f"{root}: no images here, but MindRecord files; make an image folder of them with "
                            f"python tools/unpack_mindrecord.py --source {root} --output FOLDER")
        if not classes:
            raise UserError(f"{root}: no images here; expected {root}/<class>/<image>, "
                            f"with an ending of {' '.join(IMAGE_EXTENSIONS)}")
        listed = [(f"{name}/{image}", label) for label, name in enumerate(classes) for image in found[name]]
        rows = [row for row, (file, _) in enumerate(listed) if not _hidden(file.rpartition("/")[2])]
        return cls(
            root=root.resolve(),
            classes=classes,
            files=tuple(listed[row][0] for row in rows),
            labels=np.array([listed[row][1] for row in rows], np.int32),
            rows=np.array(rows, np.int64),
            extensions=tuple(sorted({"." + file.rpartition(".")[2] for file, _ in listed})),
            times=_times(root, classes),
        )

    def check_unchanged(self) -> None:
        """Check that the images are still the listed ones: MindSpore lists the folder again for every epoch.

        Raises:
            UserError: images were added or removed.
        """
        try:
            if _times(self.root, self.classes) == self.times:
                return
            found = ImageFolder.scan(self.root)
            rows = dict(zip(found.files, found.rows.tolist(), strict=True))
        except (OSError, UserError):
            rows = {}
        moved = [file for file, row in zip(self.files, self.rows.tolist(), strict=True) if rows.get(file) != row]
        if moved:
            raise UserError(f"{self.root}: images have come or gone since the run began, {moved[0]} or one before "
                            "it; leave the folder alone while a run uses it, and start again")

    def digest(self) -> str:
        """A hash of the names, sizes and times of all files."""
        hasher = hashlib.sha256()
        for name in self.files:
            status = (self.root / name).stat()
            hasher.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        return hasher.hexdigest()


def _times(root: Path, classes: tuple[str, ...]) -> tuple[int, ...]:
    return tuple((root / name).stat().st_mtime_ns for name in classes)


def mindrecords(folder: Path) -> list[Path]:
    """The MindRecord files directly in a folder, without their index files. The names of shards end in a number."""
    return sorted(path for path in folder.iterdir() if re.search(r"\.mindrecord\d*$", path.name) and path.is_file()
                  and not _hidden(path.name))


def has_mindrecords(folder: Path) -> bool:
    """Whether the folder exists and has a MindRecord file in it."""
    return folder.is_dir() and bool(mindrecords(folder))


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _images(folder: str) -> list[str]:
    """Names of the images directly in a folder, also hidden ones, sorted by their bytes as MindSpore does."""
    entries = [entry for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGE_EXTENSIONS)]
    for entry in entries:
        if not entry.is_file():
            raise UserError(f"{entry.path}: ends like an image but is no file; rename or remove it")
    return sorted((entry.name for entry in entries), key=os.fsencode)


def train_root(dataset_path: str) -> Path:
    """The folder of training classes: `dataset_path/train` if there is one, else `dataset_path` itself."""
    return _child(_given(dataset_path), ("train",)) or _given(dataset_path)


def eval_root(dataset_path: str) -> Path:
    """The folder to evaluate: `dataset_path/val` if there is one, else `dataset_path` itself."""
    root = _given(dataset_path)
    child = _child(root, EVAL_FOLDERS)
    if child is None and _child(root, ("train",)):
        raise UserError(f"{root}: has train/ but no val/; name the folder of images to score itself")
    return child or root


def validation_root(dataset_path: str, eval_dataset_path: str) -> Path | None:
    """The validation folder: `eval_dataset_path`, else `val` beside the training folder, else None."""
    if eval_dataset_path:
        return eval_root(eval_dataset_path)
    train = train_root(dataset_path)
    return _child(train.resolve().parent, EVAL_FOLDERS) if train.resolve().name == "train" else None


def _given(path: str) -> Path:
    if not path:
        raise UserError("no images named: give --dataset_path FOLDER")
    return Path(path)


def _child(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)
