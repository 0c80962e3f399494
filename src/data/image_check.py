"""Checks every image before a run, so that a bad image is named at once and does not end the run hours later.

The results are remembered with each file's size and time (src/data/check_memory.py). Pillow decodes the images:
MindSpore's own operator accepts some truncated images, and leaves `abnormal_image.*` files behind for those that it
refuses. The check also makes the copies of images that MindSpore does not read right (src/data/image_cache.py).
"""
import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from src.data.check_memory import CheckMemory, Finding
from src.data.image_cache import GB, copies_folder, limit_cache, longest_shorter_side, rewrite
from src.data.image_folder import ImageFolder, LeftOut
from src.data.images import TooLargeError, open_image, rewrite_reason
from src.data.sources import Source
from src.data.transforms import train_sizes
from src.distributed.world import World
from src.errors import UserError, first_line, list_some
from src.files import atomic_write
from src.log import logger
from src.model_utils.config import Config
from src.names import escape_name

LISTED = 5  # files of a kind that a message names


def scan_checked(source: Source, config: Config, world: World, training: bool) -> ImageFolder:
    """List images and treat bad ones as `bad_images` says. The ranks share the check, and wait in no collective."""
    folder = source.scan()
    if world.is_main_process:
        for line in describe_left_out(folder):
            logger.info(f"{folder.root}: {line}")
    return check_images(folder, config, training)


def describe_left_out(folder: ImageFolder) -> list[str]:
    """What a folder has besides images, as one line, and a line for each of its notes."""
    return [*list_left_out(folder.left_out), *folder.notes]


def list_left_out(left_out: LeftOut) -> list[str]:
    """A line that counts files by the reason why they are left out, with the first names; none if there are none."""
    kinds = [f"{len(names)} {kind} ({list_some(sorted(map(escape_name, names)), LISTED)})"
             for kind, names in left_out.items()]
    return [f"left out: {'; '.join(kinds)}"] if kinds else []


def check_images(folder: ImageFolder, config: Config, training: bool) -> ImageFolder:
    """The folder to use: complete, without its bad images, or with other images in their place.

    Args:
        folder: the images to check.
        config: `bad_images` "error" stops. "skip" leaves bad images out. "ignore" does not check, and makes no copies.
            "replace" takes the next image of the class in training, so that the number of steps stays; in evaluation
            it is "skip", so that no image counts twice.
        training: whether the folder is for training.

    Raises:
        UserError: there are bad images and `bad_images` is "error"; or a class has no good image.
    """
    choice = config.bad_images
    if choice == "ignore":
        return folder
    side = longest_shorter_side(max(config.image_size, *train_sizes(config)))
    findings = check_files(folder, side)
    if copies := [finding.copy for finding in findings.values() if finding.copy]:
        size = limit_cache(copies, config.image_cache_gb)
        logger.info(f"{folder.root}: {describe_copies(findings.values(), size, config.image_cache_gb)}")
        folder = dataclasses.replace(folder, copies=tuple(findings.get(name, Finding()).copy for name in folder.files))
    faults = {name: finding.fault for name, finding in findings.items() if finding.fault}
    if config.left_out_file:
        _write_left_out(folder, faults, Path(config.left_out_file))
    if not faults:
        return folder
    named = list_some([f"{escape_name(name)}: {fault}" for name, fault in faults.items()], LISTED, separator="; ")
    if choice == "error":
        raise UserError(f"{folder.root}: {len(faults)} bad images: {named}; remove or mend them, or use "
                        "--bad_images skip" + ("" if config.left_out_file or len(faults) <= LISTED else
                                               "; --left_out_file FILE lists all of them"))
    logger.warning(f"{folder.root}: {len(faults)} bad images left out: {named}")
    return _without(folder, faults, replace=training and choice == "replace")


def describe_copies(findings: Iterable[Finding], size: int, limit_gb: float) -> str:
    """How many images are read from copies, and why; and the size of all copies, in bytes, beside its limit."""
    reasons = Counter(finding.reason for finding in findings if finding.copy)
    return (f"{reasons.total()} images are read from rewritten copies "
            f"({', '.join(f'{count} {reason}' for reason, count in reasons.most_common())}) in {copies_folder()}, "
            f"which has {size / GB:.3g} of {limit_gb:g} GB")


def _write_left_out(folder: ImageFolder, faults: Mapping[str, str], path: Path) -> None:
    """Write all files that are left out, with the reasons, in place of those that the file had for this folder."""
    reasons = {name: kind for kind, names in folder.left_out.items() for name in names} | dict(faults)
    own = {escape_name(folder.root / name): reasons.get(name) for name in (*reasons, *folder.files)}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    lines = [line for line in lines if line.partition("\t")[0] not in own]
    lines += sorted(f"{name}\t{reason}" for name, reason in own.items() if reason)
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def check_files(folder: ImageFolder, shorter_side: int) -> dict[str, Finding]:
    """The findings about the files of a folder that are bad or have a copy, by their names.

    Checks only those that are new or changed since the last check. Processes that check one folder at the same time
    share the work.
    """
    memory = CheckMemory(folder, shorter_side)
    findings, unknown = memory.look_up()
    if not len(unknown):
        return findings
    check = functools.partial(check_file, copies=copies_folder(), shorter_side=shorter_side)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, \
            tqdm(total=len(unknown), desc="checking images", disable=None, leave=False) as bar:
        for count in memory.check(unknown, lambda portion: list(pool.map(
                check, [folder.root / folder.files[position] for position in portion]))):
            bar.update(count)
    return memory.look_up()[0]


def check_file(path: Path, copies: Path, shorter_side: int) -> Finding:
    """Decode an image, and make its copy if MindSpore needs one.

    Args:
        path: of the image.
        copies: the folder for copies.
        shorter_side: of `longest_shorter_side`.

    Raises:
        UserError: the copy cannot be written.
    """
    try:
        if path.stat().st_size == 0:
            return Finding("empty")
        with open_image(path) as image:
            if not (reason := rewrite_reason(image)):
                image.draft("RGB", (1, 1))  # JPEG: the coarsest scale finds the same faults and is faster
                image.load()
                return Finding()
        return Finding(reason=reason, copy=str(rewrite(path, copies, shorter_side)))
    except UserError:
        raise
    except Exception as error:  # decoders raise many types of error
        return Finding(_fault(error))


def _fault(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return str(error) if isinstance(error, TooLargeError) else f"cannot be read ({first_line(error)})"


def _without(folder: ImageFolder, faults: Mapping[str, str], replace: bool) -> ImageFolder:
    good = np.array([name not in faults for name in folder.files])
    empty = set(folder.labels.tolist()) - set(folder.labels[good].tolist())
    if empty:
        raise UserError(f"{folder.root}: class {folder.classes[min(empty)]} has no good image; add some, or remove "
                        "its folder")
    chosen = np.flatnonzero(good)
    if replace:
        same_class = [chosen[folder.labels[chosen] == label] for label in folder.labels]
        chosen = np.array([index if good[index] else others[np.searchsorted(others, index) % len(others)]
                           for index, others in enumerate(same_class)])
    return folder.select(chosen)
