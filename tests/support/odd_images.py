"""One photo in every kind of file that cameras, phones, scanners, the web and archives make of it.

    python tests/support/odd_images.py FOLDER

writes all of them.
"""
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageDraw

ORIENTATION = 0x0112
SIZE = (96, 64)  # not square, and no side is like another one
STORED = {  # how an image is stored for each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class OddImage:
    """A file, and the pixels that it must be read as."""

    content: bytes
    expected: Image.Image
    tolerance: float = 0.0  # mean absolute difference of the pixels, 0 to 255
    reason: str = ""  # why it is read from a copy; empty if it is read as it is


def photo() -> Image.Image:
    """A smooth scene with a sharp corner, in colours that no turn, mirror or exchange of channels leaves the same."""
    x, y = np.meshgrid(np.linspace(0, 1, SIZE[0]), np.linspace(0, 1, SIZE[1]))
    scene = Image.fromarray((255 * np.stack([x, y, (1 - x) * (1 - y)], axis=2)).astype(np.uint8))
    ImageDraw.Draw(scene).ellipse((8, 8, 40, 30), fill=(200, 60, 30))
    return scene


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    """EXIF data with an orientation."""
    found = Image.Exif()
    found[ORIENTATION] = orientation
    return found


def oriented(scene: Image.Image, orientation: int) -> Image.Image:
    """The scene as a camera stores it that says this orientation."""
    return scene.transpose(STORED[orientation]) if orientation in STORED else scene


def odd_images(scene: Image.Image | None = None) -> dict[str, OddImage]:
    """All kinds of files of an RGB image, by file name; of `photo` unless another one is given."""
    scene = scene or photo()
    grey, palette = scene.convert("L"), scene.quantize(64)
    found = {"plain.jpg": OddImage(encoded(scene, "JPEG", quality=95, subsampling=0), scene, 3)}
    found |= _as_they_are(scene, grey, palette)
    found |= _turned(scene)
    found |= _transparent(scene)
    found |= _deep(scene, grey)
    found |= _other_formats(scene, grey, palette)
    return found


def _as_they_are(scene: Image.Image, grey: Image.Image, palette: Image.Image) -> dict[str, OddImage]:
    jpeg: Callable[..., bytes] = lambda image, **options: encoded(image, "JPEG", quality=95, **options)  # noqa: E731
    bilevel = scene.convert("1")
    opaque = scene.convert("RGBA")
    found = {
        "progressive.jpeg": OddImage(jpeg(scene, progressive=True), scene, 3),
        "subsampled.JPG": OddImage(jpeg(scene, subsampling=2), scene, 4),
        "restarts.jpe": OddImage(jpeg(scene, restart_marker_rows=1), scene, 3),
        "commented.jfif": OddImage(jpeg(scene, comment=b"a comment"), scene, 3),
        "no_ending": OddImage(jpeg(scene), scene, 3),
        "wrong_ending.png": OddImage(jpeg(scene), scene, 3),
        "upright_exif.jpg": OddImage(jpeg(scene, exif=exif(1)), scene, 3),
        "impossible_exif.jpg": OddImage(jpeg(scene, exif=exif(9)), scene, 3),
        "damaged_exif.jpg": OddImage(jpeg(scene, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), scene, 3),
        "profile.jpg": OddImage(jpeg(scene, icc_profile=ImageCms.ImageCmsProfile(
            ImageCms.createProfile("sRGB")).tobytes()), scene, 3),
        "film_behind_it.jpg": OddImage(jpeg(scene) + b"\0\0\0\x18ftypmp42" + bytes(500), scene, 3),
        "grey.jpg": OddImage(jpeg(grey), grey, 3),
        "two_frames.jpg": OddImage(encoded(scene, "MPO", quality=95, save_all=True,
                                           append_images=[grey.convert("RGB")]), scene, 3),
        "colours.png": OddImage(encoded(scene, "PNG"), scene),
        "grey.png": OddImage(encoded(grey, "PNG"), grey),
        "palette.png": OddImage(encoded(palette, "PNG"), palette),
        "palette_of_4_bits.png": OddImage(encoded(scene.quantize(16), "PNG", bits=4), scene.quantize(16)),
        "bilevel.png": OddImage(encoded(bilevel, "PNG"), bilevel),
        "opaque.png": OddImage(encoded(opaque, "PNG"), scene),
        "opaque_grey.png": OddImage(encoded(scene.convert("LA"), "PNG"), grey),
        "animated.apng": OddImage(encoded(scene, "PNG", save_all=True, append_images=[grey.convert("RGB")]), scene),
        "colours.bmp": OddImage(encoded(scene, "BMP"), scene),
        "colours_of_32_bits.bmp": OddImage(encoded(opaque, "BMP"), scene),
        "grey.bmp": OddImage(encoded(grey, "BMP"), grey),
        "palette.bmp": OddImage(encoded(palette, "BMP"), palette),
        "bilevel.bmp": OddImage(encoded(bilevel, "BMP"), bilevel),
        "colours.tif": OddImage(encoded(scene, "TIFF"), scene),
        "grey.tiff": OddImage(encoded(grey, "TIFF"), grey),
        "two_pages.tif": OddImage(encoded(scene, "TIFF", save_all=True, append_images=[grey]), scene),
        "name with spaces é.jpg": OddImage(jpeg(scene), scene, 3),
    }
    for compression in "tiff_lzw", "tiff_adobe_deflate", "packbits":
        found[f"{compression}.tif"] = OddImage(encoded(scene, "TIFF", compression=compression), scene)
    return found


def _turned(scene: Image.Image) -> dict[str, OddImage]:
    found = {f"orientation_{n}.jpg": OddImage(
        encoded(oriented(scene, n), "JPEG", quality=95, subsampling=0, exif=exif(n)), scene, 4, "turned")
        for n in range(2, 9)}
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    found["turned_by_xmp.jpg"] = OddImage(
        encoded(oriented(scene, 6), "JPEG", quality=95, subsampling=0, xmp=xmp), scene, 4, "turned")
    found["turned_and_grey.jpg"] = OddImage(encoded(oriented(scene.convert("L"), 8), "JPEG", quality=95, exif=exif(8)),
                                            scene.convert("L"), 4, "turned")
    found["turned.png"] = OddImage(encoded(oriented(scene, 6), "PNG", exif=exif(6)), scene, 0, "turned")
    found["turned.tif"] = OddImage(encoded(oriented(scene, 3), "TIFF", tiffinfo={ORIENTATION: 3}), scene, 0, "turned")
    found["turned.webp"] = OddImage(encoded(oriented(scene, 8), "WEBP", lossless=True, exif=exif(8)), scene, 3, "WEBP")
    return found


def _transparent(scene: Image.Image) -> dict[str, OddImage]:
    """The left half shows; the rest is transparent, with other colours behind, and so white."""
    size = scene.size
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    on_white = Image.composite(scene, Image.new("RGB", size, "white"), mask)
    see_through = scene.copy()
    see_through.putalpha(mask)
    grey = scene.convert("L")
    grey.putalpha(mask)
    of_palette = scene.quantize(64)
    shown = of_palette.convert("RGBA")
    first = np.asarray(of_palette) == 0
    shown.putalpha(Image.fromarray(np.where(first, 0, 255).astype(np.uint8)))
    palette_on_white = Image.alpha_composite(Image.new("RGBA", size, "white"), shown).convert("RGB")
    return {
        "transparent.png": OddImage(encoded(see_through, "PNG"), on_white, 0, "transparent"),
        "transparent_grey.png": OddImage(encoded(grey, "PNG"), Image.composite(
            scene.convert("L"), Image.new("L", size, 255), mask), 0, "transparent"),
        "transparent_palette.png": OddImage(encoded(of_palette, "PNG", transparency=0), palette_on_white, 0,
                                            "transparent"),
        "transparent.gif": OddImage(encoded(of_palette, "GIF", transparency=0), palette_on_white, 0, "GIF"),
        "transparent.tif": OddImage(encoded(see_through, "TIFF"), on_white, 0, "transparent"),
        "transparent.avif": OddImage(encoded(see_through, "AVIF", quality=95), on_white, 6, "AVIF"),
        "transparent.webp": OddImage(encoded(see_through, "WEBP", lossless=True, exact=True), on_white, 3, "WEBP"),
    }


def _deep(scene: Image.Image, grey: Image.Image) -> dict[str, OddImage]:
    """More than 8 bits for a pixel of grey, and inks."""
    values = np.asarray(grey)
    deep = Image.fromarray(values.astype(np.uint16) * 257)
    fractions, counts = Image.fromarray(values.astype(np.float32) / 255), Image.fromarray(values.astype(np.int32) * 257)
    gaps = values.astype(np.float32) / 255
    gaps[0, 0] = np.nan
    return {
        "grey_of_16_bits.png": OddImage(encoded(deep, "PNG"), grey, 0.1, "PNG of I;16"),
        "grey_of_16_bits.tif": OddImage(encoded(deep, "TIFF"), grey, 0.1, "TIFF of I;16"),
        "grey_of_32_bits.tif": OddImage(encoded(counts, "TIFF"), grey, 0.1, "TIFF of I"),
        "floats.tif": OddImage(encoded(fractions, "TIFF"), grey, 0.1, "TIFF of F"),
        "floats_to_255.tif": OddImage(encoded(Image.fromarray(values.astype(np.float32)), "TIFF"), grey, 0.1,
                                      "TIFF of F"),
        "floats_with_gaps.tif": OddImage(encoded(Image.fromarray(gaps), "TIFF"), grey, 0.1, "TIFF of F"),
        "inks.jpg": OddImage(encoded(scene.convert("CMYK"), "JPEG", quality=95), scene, 4, "JPEG of CMYK"),
        "big.tif": OddImage(encoded(scene, "TIFF", big_tiff=True), scene),
        "grey_of_16_bits.pgm": OddImage(encoded(deep, "PPM"), grey, 0.1, "PPM"),
        "floats.pfm": OddImage(encoded(fractions, "PPM"), grey, 0.1, "PPM"),
        "lab.tif": OddImage(encoded(scene.convert("LAB"), "TIFF"), scene, 3, "TIFF of LAB"),
        "inks.tif": OddImage(encoded(scene.convert("CMYK"), "TIFF"), scene, 0, "TIFF of CMYK"),
        "jpeg_in_tiff.tif": OddImage(encoded(scene, "TIFF", compression="jpeg", quality=95), scene, 4, "TIFF of RGB"),
        "bilevel.tif": OddImage(encoded(scene.convert("1"), "TIFF"), scene.convert("1"), 0, "TIFF of 1"),
        "fax.tif": OddImage(encoded(scene.convert("1"), "TIFF", compression="group4"), scene.convert("1"), 0,
                            "TIFF of 1"),
        "palette.tif": OddImage(encoded(scene.quantize(64), "TIFF"), scene.quantize(64), 0, "TIFF of P"),
    }


def _other_formats(scene: Image.Image, grey: Image.Image, palette: Image.Image) -> dict[str, OddImage]:
    found = {
        "lossy.webp": OddImage(encoded(scene, "WEBP", quality=95), scene, 5, "WEBP"),
        "lossless.webp": OddImage(encoded(scene, "WEBP", lossless=True), scene, 3, "WEBP"),
        "animated.webp": OddImage(encoded(scene, "WEBP", lossless=True, save_all=True,
                                          append_images=[grey.convert("RGB")]), scene, 3, "WEBP"),
        "webp_named.jpg": OddImage(encoded(scene, "WEBP", lossless=True), scene, 3, "WEBP"),
        "colours.gif": OddImage(encoded(palette, "GIF"), palette, 0, "GIF"),
        "animated.gif": OddImage(encoded(palette, "GIF", save_all=True, append_images=[grey.quantize(32)]), palette, 0,
                                 "GIF"),
        "colours.dib": OddImage(encoded(scene, "DIB"), scene, 0, "DIB"),
        "colours.avif": OddImage(encoded(scene, "AVIF", quality=95), scene, 5, "AVIF"),
        "lossless.jp2": OddImage(encoded(scene, "JPEG2000"), scene, 3, "JPEG2000"),
        "codestream.j2k": OddImage(encoded(scene, "JPEG2000", no_jp2=True), scene, 3, "JPEG2000"),
        "colours.ppm": OddImage(encoded(scene, "PPM"), scene, 0, "PPM"),
        "grey.pgm": OddImage(encoded(grey, "PPM"), grey, 0, "PPM"),
        "bilevel.pbm": OddImage(encoded(scene.convert("1"), "PPM"), scene.convert("1"), 0, "PPM"),
        "webp_without_ending": OddImage(encoded(scene, "WEBP", lossless=True), scene, 3, "WEBP"),
        "gif.unknown": OddImage(encoded(palette, "GIF"), palette, 0, "GIF"),
    }
    try:
        import pillow_heif
    except ImportError:
        return found
    pillow_heif.register_heif_opener()
    found["IMG_0001.HEIC"] = OddImage(encoded(scene, "HEIF", quality=95), scene, 5, "HEIF")
    found["turned.heic"] = OddImage(encoded(oriented(scene, 6), "HEIF", quality=95, exif=exif(6).tobytes()), scene, 5,
                                    "HEIF")
    return found


def not_images() -> dict[str, bytes]:
    """Files that are images by their ending and cannot be read."""
    jpeg, png = encoded(photo(), "JPEG"), encoded(photo(), "PNG")
    size = jpeg.index(b"\xff\xc0") + 5  # of height and width, in its frame header
    return {"empty.jpg": b"", "page.jpg": b"<html>not found</html>", "cut.jpg": jpeg[:-200], "cut.png": png[:-200],
            "cut.webp": encoded(photo(), "WEBP")[:-300], "cut.gif": encoded(photo().quantize(64), "GIF")[:200],
            "cut.tif": encoded(photo(), "TIFF")[:2000], "cut_in_its_header.jpg": jpeg[:300],
            "too_large.jpg": jpeg[:size] + b"\xff\x00\xff\x00" + jpeg[size + 4:],
            "zip.heic": b"PK\3\4" + bytes(100)}


def write(folder: Path) -> None:
    """Write all kinds to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in odd_images().items():
        (folder / name).write_bytes(image.content)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
