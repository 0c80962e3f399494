"""Checks every image before a run, so that a bad image is named at once and does not end the run hours later.

The results are remembered with each file's size and time. Pillow decodes the images: MindSpore's own operator accepts
some truncated images, and leaves `abnormal_image.*` files behind for those that it refuses.
"""
import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from src.cache_folder import cache_folder
from src.data.image_folder import ImageFolder
from src.distributed.collectives import any_over_ranks
from src.distributed.world import World
from src.errors import UserError, first_line, list_some
from src.files import atomic_write
from src.json_records import read_json
from src.log import logger
from src.model_utils.config import Config
from src.names import escape_name

SUPPORTED_FORMATS = {"JPEG", "PNG", "BMP", "TIFF"}  # formats that MindSpore's Decode reads, whatever the file's ending
LISTED = 5  # bad images that a message names
ROTATED = "rotated"  # remembered for an image whose EXIF data says to rotate it

Findings = dict[str, str]  # file name to fault, or to ROTATED


def scan_checked(root: Path, config: Config, world: World, training: bool) -> ImageFolder:
    """List a folder and treat its bad images as `bad_images` says.

    Rank 0 checks first. The other ranks wait for it and read the remembered results.
    """
    folder = ImageFolder.scan(root)
    _check_names(folder)
    if world.is_main_process:
        folder = check_images(folder, config.bad_images, training)
    any_over_ranks(False, world)
    return folder if world.is_main_process else check_images(folder, config.bad_images, training)


def _check_names(folder: ImageFolder) -> None:
    """Refuse folder names that are not UTF-8: MindSpore's reader does not read them. File names may be any bytes."""
    for name in (str(folder.root), *folder.classes):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{escape_name(name)}: MindSpore reads no folder whose name is not UTF-8; rename it"
                            + ("" if name == str(folder.root) else f" in {folder.root}")) from None


def check_images(folder: ImageFolder, choice: str, training: bool) -> ImageFolder:
    """The folder to use: complete, without its bad images, or with other images in their place.

    Args:
        folder: the images to check.
        choice: `bad_images`. "error" stops. "skip" leaves bad images out. "ignore" does not check. "replace" takes the
            next image of the class in training, so that the number of steps stays; in evaluation it is "skip", so
            that no image counts twice.
        training: whether the folder is for training.

    Raises:
        UserError: there are bad images and `choice` is "error"; or a class has no good image.
    """
    if choice == "ignore":
        return folder
    findings = find_faults(folder)
    rotated = sum(fault == ROTATED for fault in findings.values())
    if rotated:
        logger.warning(f"{folder.root}: {rotated} images are stored turned, with EXIF data that says so; they are used "
                       "as they are stored")
    faults = {name: fault for name, fault in findings.items() if fault != ROTATED}
    if not faults:
        return folder
    named = list_some([f"{escape_name(name)}: {fault}" for name, fault in faults.items()], LISTED, separator="; ")
    if choice == "error":
        raise UserError(f"{folder.root}: {len(faults)} bad images: {named}; remove or mend them, or use "
                        "--bad_images skip")
    logger.warning(f"{folder.root}: {len(faults)} bad images left out: {named}")
    return _without(folder, faults, replace=training and choice == "replace")


def find_faults(folder: ImageFolder) -> Findings:
    """The bad and rotated images of a folder. Checks only those that are new or changed since the last check."""
    memory_path = cache_folder("pictures") / f"{hashlib.sha256(os.fsencode(folder.root)).hexdigest()[:32]}.json"
    memory = _remembered(memory_path)
    stamps = [_stamp(folder.root / name) for name in folder.files]
    unknown = [(name, stamp) for name, stamp in zip(folder.files, stamps, strict=True)
               if memory.get(name, [None])[:1] != [stamp]]
    if unknown:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            faults = tqdm(pool.map(lambda entry: image_fault(folder.root / entry[0]), unknown), total=len(unknown),
                          desc="checking images", disable=None, leave=False)
            memory |= {name: [stamp, fault] for (name, stamp), fault in zip(unknown, faults, strict=True)}
        with atomic_write(memory_path) as temporary:
            temporary.write_text(json.dumps(memory), encoding="utf-8")
    return {name: memory[name][1] for name in folder.files if memory[name][1]}


def image_fault(path: Path) -> str:
    """A text that says what is wrong with an image; ROTATED; or an empty text."""
    try:
        if path.stat().st_size == 0:
            return "empty"
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.format not in SUPPORTED_FORMATS:
                    return f"{image.format}, which MindSpore does not read"
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in {0, 1}
                image.draft("RGB", (1, 1))  # JPEG: the coarsest scale finds the same faults and is faster
                image.load()
    except Image.UnidentifiedImageError:
        return "not an image"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return "too large"
    except Exception as error:  # decoders raise many types of error
        return f"cannot be read ({first_line(error)})"
    return ROTATED if turned else ""


def _without(folder: ImageFolder, faults: Mapping[str, str], replace: bool) -> ImageFolder:
    good = np.array([name not in faults for name in folder.files])
    empty = set(range(len(folder.classes))) - set(folder.labels[good].tolist())
    if empty:
        raise UserError(f"{folder.root}: class {folder.classes[min(empty)]} has no good image; add some, or remove "
                        "its folder")
    chosen = np.flatnonzero(good)
    if replace:
        same_class = [chosen[folder.labels[chosen] == label] for label in folder.labels]
        chosen = np.array([index if good[index] else others[np.searchsorted(others, index) % len(others)]
                           for index, others in enumerate(same_class)])
    return dataclasses.replace(folder, files=tuple(folder.files[index] for index in chosen),
                               labels=folder.labels[chosen], rows=folder.rows[chosen])


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _remembered(path: Path) -> dict[str, list[str]]:
    """The remembered results; none if the file cannot be read, so that all images are checked again."""
    try:
        memory = read_json(path)
    except UserError:
        return {}
    well_formed = isinstance(memory, dict) and all(
        isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)
        for entry in memory.values())
    return memory if well_formed else {}
