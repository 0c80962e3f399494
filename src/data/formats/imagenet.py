"""ImageNet (ILSVRC2012) as an image folder, out of the archives that image-net.org gives.

The training archive has a tar file for each class, named by the class's WordNet number (wnid). The validation archive
is flat. The development kit has the labels of its images, as numbers from 1 to 1000 (ILSVRC2012_ID) in another order
than that of the wnids: https://image-net.org/challenges/LSVRC/2012/ and the kit's readme.txt.
"""
import contextlib
import io
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from src.data.formats.tar_archive import Member, compressed_members, tar_members
from src.data.images import IMAGE_ENDINGS
from src.errors import UserError, first_line
from src.files import atomic_write, check_space, lock, temporary_folder
from src.json_records import KEY, make_record, to_json
from src.names import escape_line

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
META, GROUND_TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
PARTS = ("train", "val")
CLASSES = 1000
IMAGES = {"train": 1_281_167, "val": 50_000}  # of the whole data set
RECORD = ".prepared.jsonl"  # a line per finished class, in the image folder
LARGEST_KIT_FILE = 64 * 2 ** 20  # bytes
BLOCK_MARGIN = 1.02  # files of 110 KB take a little more on a disk than in a tar file


@dataclass(frozen=True)
class Devkit:
    """The classes and labels of the development kit."""

    words: Mapping[str, str]  # of each wnid, sorted by wnid, so that a class's index is its position
    val_labels: tuple[str, ...]  # wnid of each validation image


@dataclass(frozen=True)
class _ClassSource:
    """Where the images of a class are."""

    archive: Path
    size: int  # bytes of the archive that belong to the class
    members: Callable[[], Sequence[Member]]


def prepare_imagenet(source: Path, output: Path, parts: Sequence[str], workers: int) -> dict[str, int]:
    """Write `output/<part>/<wnid>/*.JPEG` and `output/classes.txt`; returns the number of images of each part.

    A class folder gets its name when all of its images are in it, so an interrupted run continues with the next class.
    Existing folders are counted again. The archives are not changed.

    Args:
        source: folder of the archives.
        output: image folder, new or of an earlier run.
        parts: some of `PARTS`.
        workers: classes that are written at the same time.

    Raises:
        UserError: an archive is missing, damaged or not what it should be; `output` holds something else; a finished
            folder was changed; or the disk has no room.
    """
    devkit = read_devkit(source / DEVKIT)
    listed = {"train": _train_sources, "val": _val_sources}
    sources = {part: listed[part](source, devkit) for part in parts}
    try:
        with _Record.opened(output) as record:
            to_do = {part: {wnid: found for wnid, found in sources[part].items()
                            if not record.is_finished(part, wnid, found.size)} for part in parts}
            sizes = [int(found.size * BLOCK_MARGIN) for wanted in to_do.values() for found in wanted.values()]
            check_space(output, sizes, "unpacking the images")
            with atomic_write(output / "classes.txt") as temporary:
                temporary.write_text("".join(f"{wnid} {words}\n" for wnid, words in devkit.words.items()),
                                     encoding="utf-8")
            for part in parts:
                _write_classes(output / part, to_do[part], len(sources[part]), record, workers)
            return {part: _total(source, part, record, len(devkit.words)) for part in parts}
    except OSError as error:
        raise UserError(f"{error.filename or output}: cannot be written: {error.strerror or error}; the same command "
                        "goes on when that is mended") from error


def read_devkit(path: Path) -> Devkit:
    """Classes and validation labels out of the development kit.

    meta.mat lists the 1000 classes and, after them, the synsets above them, which have children and no images.

    Raises:
        UserError: the kit is missing, damaged or another one.
    """
    files = compressed_members(path, {META, GROUND_TRUTH}, LARGEST_KIT_FILE)
    for name in (META, GROUND_TRUTH):
        if name not in files:
            raise UserError(f"{path}: has no data/{name} in it; it is not the kit of tasks 1 and 2 of ILSVRC2012")
    try:
        synsets = _synsets(files[META])
    except Exception as error:  # the reader raises many types of error
        raise UserError(f"{path}: cannot read data/{META} in it ({type(error).__name__}: "
                        f"{first_line(error)}); download it anew") from error
    wnids = {number: wnid for number, wnid, _ in synsets}
    if sorted(wnids) != list(range(1, len(synsets) + 1)) or len(set(wnids.values())) != len(synsets) \
            or not all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids.values()):
        raise UserError(f"{path}: the classes of data/{META} in it are not numbered from 1 with a wnid each; download "
                        "it anew")
    try:
        labels = tuple(wnids[int(line)] for line in files[GROUND_TRUTH].split())
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: data/{GROUND_TRUTH} in it has a line that is no class: {error}") from None
    return Devkit(dict(sorted((wnid, words) for _, wnid, words in synsets)), labels)


def _synsets(content: bytes) -> list[tuple[int, str, str]]:
    """Number, wnid and words of each class in meta.mat."""
    from scipy.io import loadmat  # imported here: it takes a third of a second

    table = np.atleast_1d(loadmat(io.BytesIO(content), squeeze_me=True, variable_names=["synsets"])["synsets"])
    return [(int(row["ILSVRC2012_ID"]), str(row["WNID"]), escape_line(str(row["words"]))) for row in table
            if int(row["num_children"]) == 0]


def _train_sources(source: Path, devkit: Devkit) -> dict[str, _ClassSource]:
    archive = source / TRAIN
    classes = {}
    for member in tar_members(archive):
        wnid = member.name.removesuffix(".tar")
        if wnid not in devkit.words or wnid in classes:
            raise UserError(f"{archive}: '{member.name}' in it is not the tar file of one of the "
                            f"{len(devkit.words)} classes that {DEVKIT} names")
        classes[wnid] = _ClassSource(archive, member.size, partial(tar_members, archive, member))
    if missing := sorted(devkit.words.keys() - classes.keys()):
        raise UserError(f"{archive}: lacks {len(missing)} of {len(devkit.words)} classes, among them {missing[0]}; "
                        "download it anew")
    return {wnid: classes[wnid] for wnid in devkit.words}


def _val_sources(source: Path, devkit: Devkit) -> dict[str, _ClassSource]:
    archive = source / VAL
    members: dict[str, list[Member]] = {wnid: [] for wnid in devkit.words}
    seen = set()
    for member in tar_members(archive):
        number = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", member.name)
        if number is None or not 1 <= int(number[1]) <= len(devkit.val_labels) or member.name in seen:
            raise UserError(f"{archive}: '{member.name}' in it is not one of the {len(devkit.val_labels)} images "
                            f"that {DEVKIT} labels")
        seen.add(member.name)
        members[devkit.val_labels[int(number[1]) - 1]].append(member)
    if len(seen) != len(devkit.val_labels):
        raise UserError(f"{archive}: has {len(seen)} of {len(devkit.val_labels)} images in it; download it anew")
    return {wnid: _ClassSource(archive, sum(member.size for member in found), partial(tuple, found))
            for wnid, found in members.items() if found}


@dataclass(frozen=True)
class _Finished:
    """The record of a class that is written."""

    part: str
    wnid: str = field(metadata={KEY: "class"})
    images: int = field(metadata={KEY: "pictures"})
    bytes: int
    archive_bytes: int


class _Record:
    """The finished classes of an image folder. A class is noted before its folder gets its name."""

    def __init__(self, output: Path, file: BinaryIO) -> None:
        self._output, self._file, self._lock = output, file, threading.Lock()
        self._noted: dict[tuple[str, str], _Finished] = {}
        for line in file:
            with contextlib.suppress(ValueError, RecursionError, UserError):  # an incomplete line after a power failure
                entry = make_record(_Finished, json.loads(line), f"{output / RECORD}: no finished class")
                self._noted[entry.part, entry.wnid] = entry

    @classmethod
    @contextlib.contextmanager
    def opened(cls, output: Path) -> Iterator["_Record"]:
        """The record of a folder, for this process alone."""
        if output.exists() and not (output / RECORD).is_file() and not (output.is_dir() and not any(output.iterdir())):
            raise UserError(f"{output}: already exists and was not made by this tool; name another folder")
        output.mkdir(parents=True, exist_ok=True)
        with (output / RECORD).open("a+b") as file:
            if not lock(file.fileno()):
                raise UserError(f"{output}: another process is writing here; wait for it")
            file.seek(0)
            yield cls(output, file)

    def is_finished(self, part: str, wnid: str, archive_bytes: int) -> bool:
        """Whether the folder of a class exists. It must then have the files that were written."""
        folder = self._output / part / wnid
        if not folder.exists():
            return False
        noted = self._noted.get((part, wnid))
        if noted is None:
            raise UserError(f"{folder}: was not made by this tool; remove it, and start again")
        if noted.archive_bytes != archive_bytes:
            raise UserError(f"{folder}: was made from another archive; name another folder")
        sizes = [entry.stat().st_size for entry in os.scandir(folder)]
        if (len(sizes), sum(sizes)) != (noted.images, noted.bytes):
            raise UserError(f"{folder}: holds {len(sizes)} files of {sum(sizes):,} bytes, but {noted.images} of "
                            f"{noted.bytes:,} bytes were written; remove this folder, and start again")
        return True

    def note(self, entry: _Finished) -> None:
        """Write to the disk that a class is finished. Safe to call from any thread."""
        with self._lock:
            self._noted[entry.part, entry.wnid] = entry
            # The line before may be incomplete.
            self._file.write(f"\n{json.dumps(to_json(entry))}\n".encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def images(self, part: str) -> int:
        """How many images the finished classes of a part have."""
        return sum(entry.images for entry in self._noted.values() if entry.part == part)


def _write_classes(folder: Path, sources: Mapping[str, _ClassSource], total: int, record: _Record,
                   workers: int) -> None:
    folder.mkdir(exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        try:
            written = [pool.submit(_write_class, folder / wnid, source, record) for wnid, source in sources.items()]
            for future in tqdm(as_completed(written), desc=folder.name, initial=total - len(sources), total=total,
                               unit="class", disable=None):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # classes that have begun are finished, and count
            raise


def _write_class(folder: Path, source: _ClassSource, record: _Record) -> None:
    members = source.members()
    odd = next((member.name for member in members if not member.name.lower().endswith(IMAGE_ENDINGS)), None)
    if odd is not None or not members or len({member.name for member in members}) != len(members):
        raise UserError(f"{source.archive}: the images of {folder.name} in it are not all there once, or not "
                        f"images alone{f' ({odd})' if odd else ''}; download it anew")
    with temporary_folder(folder) as temporary:
        with source.archive.open("rb") as file:
            for member in members:
                _write_image(file, member, temporary / member.name)
        sizes = [entry.stat().st_size for entry in os.scandir(temporary)]
        if (len(sizes), sum(sizes)) != (len(members), sum(member.size for member in members)):
            raise UserError(f"{temporary}: not all that was written is there; start again")
        record.note(_Finished(folder.parent.name, folder.name, len(sizes), sum(sizes), source.size))
        temporary.rename(folder)


def _write_image(archive: BinaryIO, member: Member, path: Path) -> None:
    content = os.pread(archive.fileno(), member.size, member.offset)
    if len(content) != member.size:
        raise UserError(f"{archive.name}: ends within {member.name}; download it anew")
    path.write_bytes(content)
    os.utime(path, (member.time, member.time))  # so that unpacking again gives the same data set


def _total(source: Path, part: str, record: _Record, classes: int) -> int:
    """The number of images of a part. With all 1000 classes it must be the number of ImageNet."""
    images = record.images(part)
    if classes == CLASSES and images != IMAGES[part]:
        archive = source / {"train": TRAIN, "val": VAL}[part]
        raise UserError(f"{archive}: has {images:,} images in it, and ILSVRC2012 has {IMAGES[part]:,}; they were "
                        "written, but this is not the whole data set")
    return images
