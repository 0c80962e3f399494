"""Splits an image folder into a training and a validation part.

The split depends only on the file names, a seed, and which images are kept together. So it is the same on every
machine, and a new image changes little.
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
from src.data.near_duplicates import DISTANCE, OFF, join_all, read_looks, scenes
from src.distributed.world import ALONE, World
from src.errors import UserError, list_some
from src.files import atomic_folder, check_space
from src.json_records import read_json
from src.log import logger
from src.names import composed, escape_name, unescape_name

RECORD = ".split.json"  # in the output folder: the file and part of each image
LISTED = 5  # classes that a line names


@dataclass(frozen=True)
class Kept:
    """The images that stay together. Files are relative to the root."""

    units: np.ndarray  # N numbers: images of the same one stay together
    duplicates: Sequence[Sequence[str]]  # groups of files of the same content
    scenes: Sequence[Sequence[str]]  # groups of files that look alike
    distance: int  # bits of the hash that may differ in a scene
    groups: Mapping[str, int]  # given name of a group to its number of images
    of_one_scene: Sequence[str]  # classes whose images all look alike, so that their scene was divided
    in_several: set[int]  # the units with the same content in several classes


@dataclass(frozen=True)
class Split:
    """The part of each image, and what was kept together."""

    parts: Mapping[str, str]  # file to "train" or "val"
    kept: Kept


def plan_split(folder: ImageFolder, val_share: float, seed: int, groups: Mapping[str, str] | None = None,
               distance: int = DISTANCE) -> Split:
    """Choose `val_share` of each class for validation: at least one image, never all.

    Images of the same content, of one scene (src/data/near_duplicates.py) and of one group go to the same part. Files
    with the same content in several classes go to train, for at least one of their classes is wrong.

    Args:
        folder: the images.
        val_share: above 0 and below 1.
        seed: another one gives another split.
        groups: the name of the group of some of the files.
        distance: bits that may differ in the hashes of two images of one scene; -1 for no scenes.

    Raises:
        UserError: a class has too few images, or groups of images, to be in both parts.
    """
    kept = keep_together(folder, groups, distance)
    held_out = np.isin(kept.units, _choose(folder, kept.units, kept.in_several, val_share, seed))
    return Split(dict(zip(folder.files, np.where(held_out, "val", "train").tolist(), strict=True)), kept)


def plan_folds(folder: ImageFolder, folds: int, seed: int, kept: Kept) -> np.ndarray:
    """The fold of each image: N numbers from 0, such that the folds have as equal parts of each class as can be.

    Args:
        folder: the images.
        folds: how many.
        seed: another one gives other folds.
        kept: what stays together, in one fold.

    Raises:
        UserError: there are too few images, or groups of images, for so many folds; or all images of a class are in
            one group, so that one fold would have nothing to learn the class from.
    """
    members = _by_rank(folder, kept.units, seed)
    if len(members) < folds:
        raise UserError(f"--folds {folds}: {folder.root} has {len(folder)} images in {len(members)} groups of images "
                        f"that stay together; use at most {len(members)} folds")
    counts = np.bincount(folder.labels, minlength=len(folder.classes))
    taken, found = np.zeros((folds, len(counts)), np.int64), np.zeros(len(folder), np.int64)
    for group in sorted(members.values(), key=len, reverse=True):  # single images even out what groups leave uneven
        of_group = np.bincount(folder.labels[group], minlength=len(counts))
        crowded = (taken * of_group / np.maximum(1, counts)).sum(axis=1)
        fold = np.lexsort((taken.sum(axis=1), crowded))[0]
        taken[fold] += of_group
        found[group] = fold
    unlearnt = np.flatnonzero(((taken == counts) & (counts > 0)).any(axis=0))
    if len(unlearnt):
        raise UserError(f"--folds {folds}: all images of class {folder.classes[unlearnt[0]]} would be in one fold, so "
                        "that its network could not learn the class; add images that differ, or leave the class out")
    return found


def keep_together(folder: ImageFolder, groups: Mapping[str, str] | None = None, distance: int = DISTANCE) -> Kept:
    """What has to stay together when the images are split; the arguments are those of `plan_split`."""
    paths = {folder.root / file: position for position, file in enumerate(folder.files)}
    copies = [[paths[path] for path in group] for group in find_duplicates(paths)]
    names = {name: number for number, name in enumerate(dict.fromkeys((groups or {}).values()), len(folder))}
    given = np.array([names[groups[file]] if groups and file in groups else position
                      for position, file in enumerate(folder.files)])
    alone = np.arange(len(folder))
    units = join_all([alone, _number_groups(copies, len(folder)), given])
    alike = scenes(read_looks(folder), distance) if distance != OFF else alone
    of_one_scene = [label for label in range(len(folder.classes)) if _is_one(join_all([units, alike]), folder, label)
                    and not _is_one(units, folder, label)]
    alike = np.where(np.isin(folder.labels, of_one_scene), len(folder) + alone, alike)
    units = join_all([units, alike])
    files = np.array(folder.files, object)
    return Kept(
        units=units,
        duplicates=[files[group].tolist() for group in copies],
        scenes=[files[group].tolist() for group in _members(alike) if len(group) > 1],
        distance=distance, groups=Counter((groups or {}).values()),
        of_one_scene=[folder.classes[label] for label in of_one_scene],
        in_several={int(units[group[0]]) for group in copies if len(set(folder.labels[group])) > 1})


def _number_groups(groups: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """The group of each of `size` positions: its number is the first position in it."""
    found = np.arange(size)
    for group in groups:
        found[group] = group[0]
    return found


def _members(numbers: np.ndarray) -> list[np.ndarray]:
    """The positions of each group, the groups in the order of their numbers."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)


def _is_one(units: np.ndarray, folder: ImageFolder, label: int) -> bool:
    """Whether all images of a class are in one unit."""
    return len(set(units[folder.labels == label])) == 1


def _choose(folder: ImageFolder, units: np.ndarray, in_several: set[int], val_share: float, seed: int) -> list[int]:
    """The units that validate, of those that are not in `in_several`."""
    counts = np.bincount(folder.labels, minlength=len(folder.classes))
    wanted = np.minimum(np.round(val_share * counts).astype(np.int64), counts - 1)
    members = {unit: group for unit, group in _by_rank(folder, units, seed).items() if unit not in in_several}
    sizes = {unit: Counter(folder.labels[group].tolist()) for unit, group in members.items()}
    chosen, taken = [], np.zeros_like(counts)

    def take(unit: int) -> None:
        chosen.append(unit)
        for label, images in sizes[unit].items():
            taken[label] += images

    for unit, of_unit in sizes.items():
        if all(taken[label] + images <= wanted[label] for label, images in of_unit.items()):
            take(unit)
    for label in np.flatnonzero(taken == 0).tolist():
        if taken[label]:
            continue  # by a unit of an earlier class
        possible = [unit for unit, of_unit in sizes.items() if label in of_unit
                    and all(taken[other] + images < counts[other] for other, images in of_unit.items())]
        if not possible:
            raise UserError(f"{folder.root}: class {folder.classes[label]} has too few images to be split: it needs "
                            "two that differ, are not in one group, and of which one is in no other class; add some, "
                            "or leave the class out")
        take(min(possible, key=lambda unit: len(members[unit])))
    return chosen


def _by_rank(folder: ImageFolder, units: np.ndarray, seed: int) -> dict[int, np.ndarray]:
    """The positions of each unit, by its number, in an order that follows from the seed and the files' names alone."""
    members = {int(units[group[0]]): group for group in _members(units)}
    rank = {unit: hashlib.sha256(os.fsencode(f"{seed}\0{min(folder.files[position] for position in group)}")).digest()
            for unit, group in members.items()}
    return {unit: members[unit] for unit in sorted(members, key=rank.__getitem__)}


def describe_kept(kept: Kept) -> list[str]:
    """What was kept together, a line for each kind; none if there is nothing."""
    lines = []
    if kept.groups:
        lines.append(f"kept together: {sum(kept.groups.values())} images of {len(kept.groups)} groups")
    if kept.scenes:
        lines.append(f"kept together: {sum(map(len, kept.scenes))} images of {len(kept.scenes)} scenes, which look "
                     f"alike (at most {kept.distance} of 64 bits of their hashes differ)")
    if kept.of_one_scene:
        lines.append("all images of a class look alike, and are split all the same: "
                     + list_some(list(map(escape_name, kept.of_one_scene)), LISTED))
    return lines


def hold_out(folder: ImageFolder, val_share: float, seed: int, world: World = ALONE,
             groups: Mapping[str, str] | None = None) -> tuple[ImageFolder, ImageFolder]:
    """The images to train on and those to validate on, as `plan_split` chooses them.

    Raises:
        UserError: as `plan_split`.
    """
    split = plan_split(folder, val_share, seed, groups)
    if world.is_main_process:
        for line in describe_kept(split.kept):
            logger.info(f"{folder.root}: {line}")
    is_val = np.array([split.parts[file] == "val" for file in folder.files])
    return folder.select(np.flatnonzero(~is_val)), folder.select(np.flatnonzero(is_val))


def hold_out_fold(folder: ImageFolder, folds: int, fold: int, seed: int,
                  groups: Mapping[str, str] | None = None) -> tuple[ImageFolder, ImageFolder]:
    """The images of the other folds to train on, and those of a fold, from 1, to validate on.

    Raises:
        UserError: as `plan_folds`.
    """
    kept = keep_together(folder, groups)
    for line in describe_kept(kept):
        logger.info(f"{folder.root}: {line}")
    is_held_out = plan_folds(folder, folds, seed, kept) == fold - 1
    return folder.part(np.flatnonzero(~is_held_out)), folder.part(np.flatnonzero(is_held_out))


def write_split(folder: ImageFolder, split: Split, output: Path, link: bool) -> bool:
    """Copy or link the images to `output/{train,val}/<class>`, whole or not at all. The source is not changed.

    Returns False if `output` already has this split, so that nothing was written.

    Raises:
        UserError: `output` has other files, another split, or a split with missing files; or there is not enough room,
            or links cannot be made.
    """
    output = output.absolute()
    sizes = {file: (folder.root / file).stat().st_size for file in folder.files}
    targets = _targets(folder, split)
    if (output / RECORD).is_file():
        _check_earlier(output, folder.root, split, sizes, targets)
        return False
    if not link:
        check_space(output, sizes.values(), "a copy of the images", "choose a disk with more room, or --link")
    with atomic_folder(output) as temporary:
        for file in tqdm(folder.files, unit="image", disable=None):
            target = temporary / targets[file]
            target.parent.mkdir(parents=True, exist_ok=True)
            if link:
                _link(folder.root / file, target)
            else:
                shutil.copy2(folder.root / file, target)  # keeps the time
        record = {escape_name(file): part for file, part in split.parts.items()}
        (temporary / RECORD).write_text(json.dumps(record), encoding="utf-8")
    return True


def _targets(folder: ImageFolder, split: Split) -> dict[str, str]:
    """Where each image goes, `part/<class>/<image>`; images of a list may be elsewhere now, and keep their folders."""
    targets = {}
    for position, file in enumerate(folder.files):
        name = folder.class_of(position)
        steps = [step for step in Path(file).parts if step not in {"/", ".."}]
        is_below_class = len(steps) > 1 and composed(steps[0]) == name
        targets[file] = "/".join([split.parts[file], *([] if is_below_class else [name]), *steps])
        if "/" in name:
            raise UserError(f"{folder.root}: class {name} cannot be a folder, because of the slash in its name; "
                            "change the list")
    if len(set(targets.values())) < len(folder):
        raise UserError(f"{folder.root}: an image is in the list twice, or two images would get one name; change the "
                        "list")
    return targets


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise UserError(f"{source}: cannot be linked: {error.strerror}; leave out --link, or put the output on the "
                        "same disk") from error


def _check_earlier(output: Path, root: Path, split: Split, sizes: Mapping[str, int],
                   targets: Mapping[str, str]) -> None:
    try:
        earlier = read_json(output / RECORD)
    except UserError as error:
        raise UserError(f"{error}; name another folder") from None
    if not isinstance(earlier, dict) or {unescape_name(file): part for file, part in earlier.items()} != split.parts:
        raise UserError(f"{output}: holds a split of other images, or with another share or seed; name another "
                        "folder, or remove it")
    for file, target in targets.items():
        copy = output / target
        if not copy.is_file() or copy.stat().st_size != sizes[file]:
            raise UserError(f"{copy}: is no longer the copy of {root / file}; name another folder, or remove {output}")
