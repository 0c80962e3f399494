"""Rewritten copies of images that MindSpore does not read right, in a cache folder. The originals are never touched.

A copy's name is the hash of the image's content, so that an image is rewritten once, wherever it is. A copy that is
missing is made again when it is read: the folder may be emptied at any time.
"""
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from src.cache_folder import cache_folder
from src.data.blank_image import LONGEST_JPEG_SIDE, blank_like
from src.data.images import LOSSY_FORMATS, has_cut_header, open_image, to_rgb
from src.errors import UserError
from src.files import atomic_write

LEAST_SHORTER_SIDE = 1024  # pixels
JPEG_QUALITY = 98  # 95 changes the probability of a class by up to 0.02, 98 by up to 0.01
GB = 10 ** 9


def longest_shorter_side(image_size: int) -> int:
    """The shorter side, in pixels, to which larger images are reduced in their copies.

    The smallest random crop has 0.08 of an image's area, so 0.28 of its side: of four times the network's input it is
    never enlarged.
    """
    return max(LEAST_SHORTER_SIDE, 4 * image_size)


def copies_folder() -> Path:
    """The folder of all copies."""
    return cache_folder("images")


def rewrite(path: Path, folder: Path, shorter_side: int) -> Path:
    """Make the copy of an image if there is none; returns its path.

    It is a JPEG if the image's own format loses detail, too, else a PNG.

    Args:
        path: of the image.
        folder: of `copies_folder`.
        shorter_side: of `longest_shorter_side`.

    Raises:
        UserError: the copy cannot be written.
        Exception: as `open_image` and `to_rgb`.
    """
    with open_image(path) as image:
        is_jpeg = image.format in LOSSY_FORMATS
        name = f"{hashlib.sha256(path.read_bytes()).hexdigest()[:40]}-{shorter_side}{'.jpg' if is_jpeg else '.png'}"
        target = folder / name[:2] / name
        if target.is_file():
            return target
        pixels = to_rgb(image, shorter_side)
        with atomic_write(target) as temporary:
            if is_jpeg and max(pixels.size) <= LONGEST_JPEG_SIDE:
                pixels.save(temporary, "JPEG", quality=JPEG_QUALITY, subsampling=0)
            else:
                pixels.save(temporary, "PNG", compress_level=3)
    return target


def encoded_image(path: Path, copy: str) -> np.ndarray:
    """The bytes that MindSpore decodes: those of the copy at the path `copy`, or the image's own if it is empty.

    Raises:
        OSError: the image cannot be read.
        UserError: a copy was missing and cannot be written, or the image is so short that MindSpore would crash.
    """
    return _of_image_or_copy(_content, path, copy)


def blank_image(path: Path, copy: str) -> np.ndarray:
    """The bytes of a blank image of the size of what `encoded_image` gives.

    Raises:
        UserError: a copy was missing and cannot be written.
        Exception: as `open_image`.
    """
    return _of_image_or_copy(blank_like, path, copy)


def _content(path: Path) -> np.ndarray:
    content = np.fromfile(path, np.uint8)
    if has_cut_header(content):
        raise UserError(f"{path}: ends before its pixels begin")
    return content


def _of_image_or_copy(read: Callable[[Path], np.ndarray], path: Path, copy: str) -> np.ndarray:
    if not copy:
        return read(path)
    try:
        return read(Path(copy))
    except FileNotFoundError:
        return read(rewrite(path, Path(copy).parents[1], _shorter_side(Path(copy))))


def is_copy_for(copy: Path, shorter_side: int) -> bool:
    """Whether a copy exists and was made for this `shorter_side`."""
    return copy.is_file() and _shorter_side(copy) == shorter_side


def _shorter_side(copy: Path) -> int:
    return int(copy.stem.rpartition("-")[2])


def limit_cache(needed: Collection[str], limit_gb: float) -> int:
    """Remove the copies that were not needed for longest while all of them together are over the limit.

    Args:
        needed: paths of copies to keep.
        limit_gb: in GB of 1e9 bytes.

    Returns:
        The size of all copies that are left, in bytes.

    Raises:
        UserError: the needed copies alone are over the limit.
    """
    folder, now = copies_folder(), time.time_ns()
    for copy in needed:
        os.utime(copy, ns=(now, now))
    copies = []
    for path in folder.glob("??/*-*.*"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            status = path.stat()
            copies.append((status.st_mtime_ns, status.st_size, path))
    total, own = (sum(size for time_used, size, _ in copies if time_used >= since) for since in (0, now))
    if own > limit_gb * GB:
        raise UserError(f"{folder}: the rewritten images take {own / GB:.3g} GB, more than image_cache_gb "
                        f"{limit_gb:g}; allow more with --image_cache_gb, or store the images as ordinary JPEG or PNG")
    for time_used, size, path in sorted(copies):
        if total <= limit_gb * GB or time_used >= now:
            break
        path.unlink(missing_ok=True)
        total -= size
    return total
