"""Splits an image folder into a training and a validation part.

The split depends only on the file names and a seed. So it is the same on every machine, and a new image changes little.
"""
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from src.data.duplicates import find_duplicates
from src.data.image_folder import ImageFolder
from src.errors import UserError
from src.files import atomic_folder, check_space
from src.json_records import read_json
from src.names import escape_name, unescape_name

RECORD = ".split.json"  # in the output folder: the file and part of each image


@dataclass(frozen=True)
class Split:
    """The part of each image, and the images that exist several times."""

    parts: Mapping[str, str]  # file, relative to the root, to "train" or "val"
    duplicates: Sequence[Sequence[str]]  # groups of files of the same content


def plan_split(folder: ImageFolder, val_share: float, seed: int) -> Split:
    """Choose `val_share` of each class for validation: at least one image, never all.

    Files with the same content go to the same part. If they are in several classes, at least one class is wrong, and
    they go to train.

    Raises:
        UserError: a class has too few different images.
    """
    names = {folder.root / file: file for file in folder.files}
    duplicates = [[names[path] for path in group] for group in find_duplicates(names)]
    unit_of = {file: tuple(group) for group in duplicates for file in group}
    units: dict[str, set[tuple[str, ...]]] = {name: set() for name in folder.classes}
    in_several: set[tuple[str, ...]] = set()
    class_of = {file: folder.classes[label] for file, label in zip(folder.files, folder.labels, strict=True)}
    for file in folder.files:
        unit = unit_of.get(file, (file,))
        units[class_of[file]].add(unit)
        if len({class_of[member] for member in unit}) > 1:
            in_several.add(unit)
    counts = Counter(class_of.values())
    held_out: set[str] = set()
    for name, of_class in units.items():
        free = sorted(of_class - in_several, key=lambda unit: hashlib.sha256(
            os.fsencode(f"{seed}\0{min(unit)}")).digest())
        if not free or len(of_class) < 2:
            raise UserError(f"{folder.root}: class {name} has too few images to be split: it needs two that differ "
                            "and of which one is in no other class; add some, or leave the class out")
        wanted = min(round(val_share * counts[name]), counts[name] - 1)
        chosen = 0
        for unit in free:
            if chosen + len(unit) <= wanted:
                held_out.update(unit)
                chosen += len(unit)
        if not chosen:
            smallest: tuple[str, ...] = min(free, key=len)
            held_out.update(smallest)
    return Split({file: "val" if file in held_out else "train" for file in folder.files}, duplicates)


def hold_out(folder: ImageFolder, val_share: float, seed: int) -> tuple[ImageFolder, ImageFolder]:
    """The images to train on and those to validate on, as `plan_split` chooses them.

    Raises:
        UserError: as `plan_split`.
    """
    parts = plan_split(folder, val_share, seed).parts
    is_val = np.array([parts[file] == "val" for file in folder.files])
    return folder.select(np.flatnonzero(~is_val)), folder.select(np.flatnonzero(is_val))


def write_split(folder: ImageFolder, split: Split, output: Path, link: bool) -> bool:
    """Copy or link the images to `output/{train,val}/<class>`, whole or not at all. The source is not changed.

    Returns False if `output` already has this split, so that nothing was written.

    Raises:
        UserError: `output` has other files, another split, or a split with missing files; or there is not enough room,
            or links cannot be made.
    """
    output = output.absolute()
    if output.is_relative_to(folder.root):
        raise UserError(f"{output}: lies in the folder that is to be split; name one outside of {folder.root}")
    sizes = {file: (folder.root / file).stat().st_size for file in folder.files}
    if (output / RECORD).is_file():
        _check_earlier(output, folder.root, split, sizes)
        return False
    if not link:
        check_space(output, sizes.values(), "a copy of the images", "choose a disk with more room, or --link")
    with atomic_folder(output) as temporary:
        for file in tqdm(folder.files, unit="image", disable=None):
            target = temporary / split.parts[file] / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if link:
                _link(folder.root / file, target)
            else:
                shutil.copy2(folder.root / file, target)  # keeps the time
        record = {escape_name(file): part for file, part in split.parts.items()}
        (temporary / RECORD).write_text(json.dumps(record), encoding="utf-8")
    return True


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise UserError(f"{source}: cannot be linked: {error.strerror}; leave out --link, or put the output on the "
                        "same disk") from error


def _check_earlier(output: Path, root: Path, split: Split, sizes: Mapping[str, int]) -> None:
    try:
        earlier = read_json(output / RECORD)
    except UserError as error:
        raise UserError(f"{error}; name another folder") from None
    if not isinstance(earlier, dict) or {unescape_name(file): part for file, part in earlier.items()} != split.parts:
        raise UserError(f"{output}: holds a split of other images, or with another share or seed; name another "
                        "folder, or remove it")
    for file, part in split.parts.items():
        copy = output / part / file
        if not copy.is_file() or copy.stat().st_size != sizes[file]:
            raise UserError(f"{copy}: is no longer the copy of {root / file}; name another folder, or remove {output}")
