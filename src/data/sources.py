"""Where a data set's images come from: the folders in a `dataset_path`, a list of images, or an archive of either."""
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from src.data.formats.tar_archive import unpack_tar
from src.data.formats.zip_archive import unpack
from src.data.image_folder import EVAL_FOLDERS, ImageFolder
from src.data.lists import TEST, TRAIN, VAL, read_list
from src.errors import UserError
from src.files import atomic_write
from src.log import logger
from src.turns import one_at_a_time

TEST_FOLDERS = ("test",)
UNPACKERS = {".zip": unpack, **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), unpack_tar)}
ADVICE = "free some room, or unpack it elsewhere and name that folder"


@dataclass(frozen=True)
class Source:
    """A folder of classes, or a part of a list of images."""

    path: Path
    part: str = ""  # of a list: TRAIN, VAL or TEST; empty for all of it

    def scan(self) -> ImageFolder:
        """List the images.

        Raises:
            UserError: there are none, or they cannot be listed.
        """
        return self._scan_list() if self.path.is_file() else ImageFolder.scan(self.path)

    def _scan_list(self) -> ImageFolder:
        found = read_list(self.path)
        by_class: dict[str, list[str]] = {entry.label: [] for entry in found.entries}  # every part has all classes
        for entry in found.entries:
            if self.part in {"", entry.part}:
                by_class[entry.label].append(entry.file)
        for files in by_class.values():
            files.sort(key=os.fsencode)
        return dataclasses.replace(ImageFolder.of(found.root, by_class), left_out=found.left_out)


def train_source(dataset_path: str) -> Source:
    """The images to train on: `dataset_path/train` if there is one, else `dataset_path` itself; of a list, its part."""
    path = _given(dataset_path)
    return Source(path, TRAIN) if path.is_file() else Source(_child(path, (TRAIN,)) or path)


def eval_source(dataset_path: str) -> Source:
    """The images to score: the validation part of `dataset_path` if there is one, else all of it."""
    path = _given(dataset_path)
    if path.is_file():
        parts = read_list(path).parts
        if VAL in parts:
            return Source(path, VAL)
        if len(parts) == 1:
            return Source(path)
    elif (child := _child(path, EVAL_FOLDERS)) or not _child(path, (TRAIN,)):
        return Source(child or path)
    raise UserError(f"{path}: has train/ but no val/; name the folder of images to score itself")


def validation_source(dataset_path: str, eval_dataset_path: str) -> Source | None:
    """The images to validate on: `eval_dataset_path`, else the validation part of the data set, else None."""
    return eval_source(eval_dataset_path) if eval_dataset_path else _part(dataset_path, VAL, EVAL_FOLDERS)


def test_source(dataset_path: str, test_dataset_path: str) -> Source | None:
    """The images to test on: `test_dataset_path`, else the test part of the data set, else None."""
    if not test_dataset_path:
        return _part(dataset_path, TEST, TEST_FOLDERS)
    path = _given(test_dataset_path)
    if path.is_file():
        return Source(path, TEST if TEST in read_list(path).parts else "")
    return Source(_child(path, TEST_FOLDERS) or path)


def _part(dataset_path: str, part: str, names: tuple[str, ...]) -> Source | None:
    train = train_source(dataset_path).path
    if train.is_file():
        return Source(train, part) if part in read_list(train).parts else None
    child = _child(train.resolve().parent, names) if train.resolve().name == TRAIN else None
    return Source(child) if child else None


def _given(path: str) -> Path:
    """The folder or list at a path; an archive is unpacked."""
    if not path:
        raise UserError("no images named: give --dataset_path FOLDER")
    given = Path(path)
    ending = next((ending for ending in UNPACKERS if given.name.lower().endswith(ending)), "")
    return _unpacked(given, ending) if ending and given.is_file() else given


def _unpacked(archive: Path, ending: str) -> Path:
    """The folder beside an archive with its content, which is unpacked once.

    Raises:
        UserError: it cannot be unpacked, there is a folder of that name with something else, or another process that
            unpacks it made no progress for too long.
    """
    target = archive.with_name(archive.name[:-len(ending)])
    mark = archive.with_name(f".{target.name}.unpacked")  # says which archive the folder was made of
    status = archive.stat()
    content = f"{archive.name} {status.st_size} {status.st_mtime_ns}\n"
    if not target.exists():
        try:
            with one_at_a_time(archive.with_name(f".{target.name}.lock"), f"unpacks {archive}") as progress:
                if not target.exists():  # no other rank has unpacked it meanwhile
                    logger.info(f"unpacking {archive} to {target}")
                    with atomic_write(mark) as temporary:
                        temporary.write_text(content, encoding="utf-8")
                    return UNPACKERS[ending](archive, target, ADVICE, progress)
        except OSError as error:
            raise UserError(f"{error.filename or target}: cannot be written: {error.strerror or error}; "
                            f"{ADVICE}") from error
    if not mark.is_file() or mark.read_text(encoding="utf-8", errors="replace") != content:
        raise UserError(f"{target}: is there already, and was not made of the present {archive.name}; name the "
                        "folder itself as the data set, or remove it")
    return target


def _child(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)
