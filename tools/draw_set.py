"""Draws a data set: surfaces with eight kinds of pattern, or lines of text in ten fonts.

    python tools/draw_set.py --kind textures --output textures
    python tools/draw_set.py --kind fonts --output fonts

For recipes to be tried on pictures that are neither photos nor digits. Sizes, angles, colours, text and noise are
random; the same `--seed` draws the same pictures with the same versions of NumPy and Pillow. The fonts are those that
come with Matplotlib.
"""
import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.errors import run_command
from src.files import atomic_folder

TEXTURE_SIDE = 160  # pixels
TEXT_SIZE = (200, 150)
CHARACTERS = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHJKLMNPRSTUVW0123456789"]
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral",
         "STIXGeneralBol", "cmr10", "cmss10", "cmtt10")
IMAGES = {"textures": {"train": 20, "val": 40}, "fonts": {"train": 30, "val": 30}}  # of each class

Drawer = Callable[[Generator], np.ndarray]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the data set that the command line names."""
    parser = argparse.ArgumentParser(description="A data set of drawn pictures.")
    parser.add_argument("--kind", required=True, choices=IMAGES)
    parser.add_argument("--output", required=True, type=Path, help="folder to make; it must not hold anything yet")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    draw_set(options.kind, options.output, options.seed)
    print(" ".join(f"{part}: {count} images of each class" for part, count in IMAGES[options.kind].items()))


def draw_set(kind: str, output: Path, seed: int) -> None:
    """Write the image folder, whole or not at all.

    Raises:
        UserError: `output` exists and holds something, or cannot be written.
    """
    random = np.random.default_rng(seed)
    drawers = texture_drawers() if kind == "textures" else font_drawers()
    with atomic_folder(output) as unfinished:
        for path, draw in pictures(drawers, IMAGES[kind]):
            place = unfinished / path
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(random).clip(0, 255).astype(np.uint8)).save(place, quality=88)


def pictures(drawers: Mapping[str, Drawer], counts: Mapping[str, int]) -> Iterator[tuple[Path, Drawer]]:
    """Where each picture goes, and what draws it."""
    for label, draw in drawers.items():
        for part, count in counts.items():
            for number in range(count):
                yield Path(part) / label / f"{number:03d}.jpg", draw


# ----------------------------------------------------------------------------------------------------------------------
# Textures
# ----------------------------------------------------------------------------------------------------------------------

def smooth_noise(random: Generator, scale: int) -> np.ndarray:
    """Numbers of 0 to 1 that change over about `scale` pixels."""
    cells = TEXTURE_SIDE // scale + 2
    image = Image.fromarray((255 * random.random((cells, cells))).astype(np.uint8))
    return np.asarray(image.resize((TEXTURE_SIDE, TEXTURE_SIDE), Image.Resampling.BICUBIC)) / 255


def texture_drawers() -> dict[str, Drawer]:
    """A drawer for each pattern: -1 to 1 at each pixel, from coordinates that are turned, bent and scaled at random."""
    wave = 2 * np.pi

    def bricks(u: np.ndarray, v: np.ndarray, _: Generator) -> np.ndarray:
        row = np.floor(v)
        joint = (np.abs(v % 1 - 0.5) > 0.42) | (np.abs((u / 2 + row % 2 / 2) % 1 - 0.5) > 0.45)
        return np.where(joint, -1.0, 1.0)

    def rings(u: np.ndarray, v: np.ndarray, random: Generator) -> np.ndarray:
        middle = random.uniform(-5, 15, 2)
        return np.sin(wave * 1.2 * np.hypot(u - middle[0], v - middle[1]))

    def wood(u: np.ndarray, _: np.ndarray, random: Generator) -> np.ndarray:
        return np.sin(wave * (u / 2 + 2.5 * smooth_noise(random, 40)))

    def clouds(_u: np.ndarray, _v: np.ndarray, random: Generator) -> np.ndarray:
        layers = [smooth_noise(random, scale) for scale in (32, 16, 8)]
        return 2 * (layers[0] + layers[1] / 2 + layers[2] / 4) / 1.75 - 1

    def grain(_u: np.ndarray, _v: np.ndarray, random: Generator) -> np.ndarray:
        return 2 * smooth_noise(random, 3) - 1

    return {name: functools.partial(coloured, pattern) for name, pattern in {
        "bricks": bricks, "clouds": clouds, "grain": grain, "rings": rings, "wood": wood,
        "checks": lambda u, v, _: np.sign(np.sin(wave * 0.6 * u) * np.sin(wave * 0.6 * v)),
        "dots": lambda u, v, _: np.cos(wave * 0.7 * u) + np.cos(wave * 0.7 * v) - 0.8,
        "stripes": lambda u, v, _: np.sin(wave * u),
    }.items()}


def coloured(pattern: Callable[[np.ndarray, np.ndarray, Generator], np.ndarray], random: Generator) -> np.ndarray:
    """A pattern between two random colours, with more or less contrast, stains and noise."""
    y, x = np.mgrid[:TEXTURE_SIDE, :TEXTURE_SIDE] / TEXTURE_SIDE
    angle, frequency = random.uniform(0, np.pi), random.uniform(8, 14)
    bend = 0.06 * (smooth_noise(random, 20) - 0.5)
    u = frequency * (x * np.cos(angle) + y * np.sin(angle) + bend)
    v = frequency * (y * np.cos(angle) - x * np.sin(angle) + bend)
    value = pattern(u, v, random) * random.uniform(0.4, 1) + 0.5 * (smooth_noise(random, 5) - 0.5)
    share = (value[..., None] + 1) / 2
    one, other = random.integers(0, 256, (2, 3))
    return one * (1 - share) + other * share + random.normal(0, 14, share.shape[:2] + (3,))


# ----------------------------------------------------------------------------------------------------------------------
# Fonts
# ----------------------------------------------------------------------------------------------------------------------

def font_drawers() -> dict[str, Drawer]:
    """A drawer for each font."""
    from matplotlib import get_data_path  # half a second to import; the option errors should not wait for it

    folder = Path(get_data_path()) / "fonts" / "ttf"
    return {name: functools.partial(text, folder / f"{name}.ttf") for name in FONTS}


def text(font: Path, random: Generator) -> np.ndarray:
    """Seven dark characters on light ground, a little turned, with noise."""
    light, dark = (tuple(map(int, random.integers(*bounds, 3))) for bounds in ((150, 256), (0, 120)))
    picture = Image.new("RGB", TEXT_SIZE, light)
    place = float(random.integers(0, 40)), float(random.integers(10, 90))
    ImageDraw.Draw(picture).text(place, "".join(random.choice(CHARACTERS, 7)), fill=dark,
                                 font=ImageFont.truetype(str(font), int(random.integers(22, 48))))
    turned = picture.rotate(random.uniform(-15, 15), fillcolor=light)
    return np.asarray(turned) + random.normal(0, 8, (*TEXT_SIZE[::-1], 3))


if __name__ == "__main__":
    run_command(main)
