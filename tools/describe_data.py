"""Describes a data set before training.

    python tools/describe_data.py --dataset_path photos --output photos.png

It prints for train and val (or for one folder of classes): images per class, their sizes, formats and colours, bad
files, images that are in both parts, and images of val that look like one of train. It reads only headers, and to
compare two parts each image once at a small size. --check decodes every image, as train.py does before it begins.
Results are remembered. The output file is a figure of all that, with samples of each class and the pairs that look
alike.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.data.near_duplicates import DISTANCE, check_distance
from src.data.sources import train_source, validation_source
from src.data.stats import collect_stats, describe, find_overlap
from src.errors import UserError, run_command
from src.reports.data_summary import draw_summary


def main(argv: Sequence[str] | None = None) -> None:
    """Describe as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", required=True, help="folder of classes, or one that holds train and val")
    parser.add_argument("--output", type=Path, help="image to draw, .png")
    parser.add_argument("--scene_distance", type=int, default=DISTANCE,
                        help="bits of 64 that may differ in the perceptual hashes of images that look alike "
                             f"(default {DISTANCE}); -1: do not look for them")
    parser.add_argument("--check", action="store_true", help="decode every image")
    options = parser.parse_args(argv)
    if options.output and options.output.suffix.lower() != ".png":
        raise UserError(f"{options.output}: name the image with the ending .png")

    check_distance(options.scene_distance)

    train = train_source(options.dataset_path)
    val = validation_source(options.dataset_path, "")
    sources = {"train": train, "val": val} if val else {train.path.name: train}
    parts = {name: collect_stats(source.scan(), options.check) for name, source in sources.items()}
    overlap = None
    if val:
        overlap = find_overlap(parts["train"].folder, parts["val"].folder, options.scene_distance)
    print(describe(parts, options.check, overlap))
    if options.output:
        draw_summary(parts, options.output, overlap)
        print(f"\n{options.output}: the same as an image")


if __name__ == "__main__":
    run_command(main)
