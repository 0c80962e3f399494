"""What an image is, by its content, and its pixels as they should be: upright, 8-bit RGB.

MindSpore's decoder reads ordinary JPEG, PNG, BMP and TIFF files right, and they go to it as they are. All other images
are rewritten before (src/data/image_cache.py), as `rewrite_reason` says. Pillow reads them, HEIC with pillow-heif.

It is also a part of ModelArts' inference packages (src/deployment/modelarts_package.py). So it imports nothing of this
project, and runs on Python 3.7.
"""
from __future__ import annotations

import contextlib
import functools
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

# A file with such an ending is taken for an image: one that cannot be read is an error, not left out as another file.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".webp",
                 ".heic", ".heif", ".hif", ".avif", ".gif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm")
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "HEIF", "GIF", "JPEG2000", "PPM")  # Pillow's
LOSSY_FORMATS = {"JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JPEG2000"}
LARGEST_AS_IT_IS = 89_478_485  # pixels; a larger image would take over 256 MB of each thread that decodes
LARGEST = 1_000_000_000  # pixels
PLAIN_MODES = {"JPEG": {"L", "RGB"}, "MPO": {"L", "RGB"}, "PNG": {"1", "L", "P", "RGB"}, "BMP": {"1", "L", "P", "RGB"},
               "TIFF": {"L", "RGB"}}
PLAIN_TIFF_COMPRESSION = {"raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"}
JPEG_START = b"\xff\xd8"
MARKER, START_OF_SCAN, MARKERS_ALONE = 0xFF, 0xDA, {0x00, 0x01, *range(0xD0, 0xDA)}  # ITU T.81, table B.1
ALPHA_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}
WHITE = (255, 255, 255, 255)
FROM_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class TooLargeError(ValueError):
    """An image has more than `LARGEST` pixels."""

    def __init__(self) -> None:
        super().__init__(f"too large, over {LARGEST // 10 ** 6:,} megapixels")


def open_image(path: Path | BinaryIO) -> Image.Image:
    """Open an image file. Its pixels are read later, by `load`, `to_rgb` and the like.

    Raises:
        PIL.UnidentifiedImageError: it is no image, or of a kind that is not read.
        TooLargeError: it has more pixels than are read.
        Exception: its header is damaged; Pillow raises many types of error.
    """
    image = Image.open(path, formats=_formats())
    if image.width * image.height > LARGEST:
        image.close()
        raise TooLargeError
    return image


@functools.lru_cache(maxsize=None)  # noqa: UP033 - Python 3.7 has no functools.cache
def _formats() -> tuple[str, ...]:
    """The formats to read. Makes Pillow ready for them."""
    warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata, which do not matter here
    Image.MAX_IMAGE_PIXELS = None  # `open_image` has a limit of its own: phones make images that are over Pillow's
    with contextlib.suppress(ImportError):  # then HEIC files are bad images, as of any kind that is not read
        import pillow_heif
        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(form for form in FORMATS if form in Image.OPEN)


def is_image(path: Path) -> bool:
    """Whether a file is one of the images of a data set: by its ending, else by its content."""
    if path.name.lower().endswith(IMAGE_ENDINGS):
        return True
    try:
        with open_image(path):
            return True
    except TooLargeError:
        return True
    except Exception:  # Pillow raises many types of error
        return False


def orientation(image: Image.Image) -> int:
    """How an image is stored, by EXIF: 1 is upright, 2 to 8 are mirrored or turned. 1 if EXIF is missing or damaged.

    Of a PNG that is not loaded only EXIF data before the pixels are seen.
    """
    try:
        # Not `image.getexif()`: it loads a PNG, and an error of that would be taken for one of EXIF here.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises many types of error
        return 1
    return found if found in FROM_ORIENTATION else 1


def rewrite_reason(image: Image.Image) -> str:
    """Why MindSpore's decoder must not get an image as it is, in a word or two; empty if it reads it right.

    Raises:
        Exception: the image is damaged; Pillow raises many types of error.
    """
    if image.format not in PLAIN_MODES:
        return str(image.format)
    if image.format == "PNG":
        image.load()  # EXIF data may stand behind the pixels
    if image.width * image.height > LARGEST_AS_IT_IS:
        return f"over {LARGEST_AS_IT_IS // 10 ** 6} megapixels"
    if orientation(image) != 1:
        return "turned"
    if has_alpha(image):
        return "" if image.format != "TIFF" and _is_opaque(image) else "transparent"
    is_plain = image.mode in PLAIN_MODES[image.format] and (image.format != "TIFF" or _is_plain_tiff(image))
    return "" if is_plain else f"{image.format} of {image.mode}"


def has_alpha(image: Image.Image) -> bool:
    """Whether an image may have transparent pixels."""
    return image.mode in ALPHA_MODES or "transparency" in image.info


def _is_opaque(image: Image.Image) -> bool:
    """Whether no pixel is transparent. Reads the pixels."""
    return image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def _is_plain_tiff(image: Image.Image) -> bool:
    tags = image.tag_v2  # type: ignore[attr-defined]  # of Pillow's TIFF images
    bits = tags.get(ExifTags.Base.BitsPerSample, (1,))
    return set(bits) == {8} and image.info.get("compression") in PLAIN_TIFF_COMPRESSION \
        and tags.get(ExifTags.Base.PhotometricInterpretation) in {1, 2} \
        and tags.get(ExifTags.Base.PlanarConfiguration, 1) == 1


def to_rgb(image: Image.Image, shorter_side: int = 0) -> Image.Image:
    """The first frame of an image, upright, as 8-bit RGB, with transparency on white.

    Args:
        image: of `open_image`.
        shorter_side: pixels. A larger image is reduced to it; 0 for never.

    Raises:
        Exception: the image is damaged; Pillow raises many types of error.
    """
    if shorter_side and shorter_side < min(image.size) and image.mode in {"L", "RGB"}:
        scale = shorter_side / min(image.size)
        image.draft(image.mode, (round(image.width * scale), round(image.height * scale)))  # JPEG: decodes coarsely
    image.load()
    turn = FROM_ORIENTATION.get(orientation(image))  # 1 from here on for TIFF, which Pillow turns when it loads it
    rgb = _as_rgb(image)
    if shorter_side and shorter_side < min(rgb.size):
        scale = shorter_side / min(rgb.size)
        rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.LANCZOS)
    return rgb if turn is None else rgb.transpose(turn)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if has_alpha(image):
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), coloured).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits as uint8.

    uint16 is scaled by its range. Other types do not tell their range: it is the least of 0 to 1 (of floats), 0 to 255
    and 0 to 65535 that holds all values, else that of the values.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        low, high = 0.0, 65535.0
    else:
        values = np.nan_to_num(values.astype(np.float64))
        least, most = float(values.min()), float(values.max())
        ranges = [1.0] * (values.dtype.kind == "f") + [255.0, 65535.0]
        high = next((top for top in ranges if most <= top), most)
        low = 0.0 if least >= 0 and most <= 65535 else least
    return np.rint((values.astype(np.float64) - low) * (255 / max(high - low, 1e-12))).clip(0, 255).astype(np.uint8)


def has_cut_header(content: np.ndarray) -> bool:
    """Whether a JPEG ends before its pixels begin: MindSpore's decoder then waits for ever, or divides by zero.

    Args:
        content: the bytes of a file of any kind, uint8.
    """
    data = content.data
    if data[:2] != JPEG_START:
        return False
    position = 2
    while position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != MARKER or marker == MARKER:  # padding, or what the decoder passes over, too
            position += 1
        elif marker in MARKERS_ALONE:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2:position + 4], "big")
            if marker == START_OF_SCAN:
                return position > len(data)
    return True


def thumbnail(path: Path, side: int) -> Image.Image:
    """A small RGB version of an image, at most `side` pixels wide and high.

    Raises:
        Exception: as `open_image` and `to_rgb`.
    """
    with open_image(path) as image:
        if image.mode in {"L", "RGB"}:
            image.draft(image.mode, (2 * side, 2 * side))
        small = to_rgb(image)
    small.thumbnail((side, side))
    return small
