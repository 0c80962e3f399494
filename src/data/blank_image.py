"""Blank images that stand for others: MindSpore's random operators draw the same numbers for images of one size."""
import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image

from src.data.images import open_image

LONGEST_JPEG_SIDE = 65500  # pixels
KEPT = 1024  # blank images in memory, of a few KB each


def blank_like(path: Path) -> np.ndarray:
    """The bytes, uint8, of a blank image with the width and height of an image, of which the header alone is read.

    Raises:
        Exception: as `open_image`.
    """
    with open_image(path) as image:
        return _blank(*image.size)


@functools.lru_cache(KEPT)
def _blank(width: int, height: int) -> np.ndarray:
    encoded = io.BytesIO()
    Image.new("L", (width, height)).save(encoded, "JPEG" if max(width, height) <= LONGEST_JPEG_SIDE else "PNG")
    return np.frombuffer(encoded.getvalue(), np.uint8)
