"""Makes a real data set from an installed package: scikit-learn's handwritten digits as an image folder.

    python tools/make_digits.py --output digits

1797 images of 8x8 grey pixels (E. Alpaydin, C. Kaynak: "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, CC BY 4.0) become `digits/{train,val}/<digit>/<number>.png` of 32x32, a fifth of each digit in val.
The split is the same on every machine.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.errors import run_command
from src.files import atomic_folder

SIZE = 32  # pixels; the smallest size for the network's stride of 32
VALIDATION_SHARE = 0.2
SPLIT_SEED = 0


def main(argv: Sequence[str] | None = None) -> None:
    """Make the data set as the command line says."""
    parser = argparse.ArgumentParser(description="scikit-learn's handwritten digits as an image folder.")
    parser.add_argument("--output", required=True, type=Path, help="folder to make; it must not hold anything yet")
    counts = make_digits(parser.parse_args(argv).output)
    print(" ".join(f"{part}: {count} images" for part, count in counts.items()))


def make_digits(output: Path) -> dict[str, int]:
    """Write the image folder, whole or not at all; returns the number of images in train and val.

    Raises:
        UserError: `output` exists and holds something, or cannot be written.
    """
    from sklearn.datasets import load_digits  # seconds to import; the option errors should not wait for it

    counts = {"train": 0, "val": 0}
    with atomic_folder(output) as unfinished:
        digits = load_digits()
        for number, part in enumerate(split(digits.target)):
            folder = unfinished / part / str(digits.target[number])
            folder.mkdir(parents=True, exist_ok=True)
            image(digits.images[number]).save(folder / f"{number:04d}.png")
            counts[part] += 1
    return counts


def split(labels: np.ndarray) -> list[str]:
    """For each label "train" or "val": a fifth of each class, drawn from a fixed seed, goes to val."""
    parts = ["train"] * len(labels)
    random = np.random.default_rng(SPLIT_SEED)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        for number in members[:round(VALIDATION_SHARE * len(members))]:
            parts[number] = "val"
    return parts


def image(strokes: np.ndarray) -> Image.Image:
    """An 8x8 array of 0 (paper) to 16 (ink) as a smooth image, white on black."""
    grey = np.rint(strokes * (255 / 16)).astype(np.uint8)
    return Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    run_command(main)
