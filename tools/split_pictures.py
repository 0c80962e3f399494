r"""Splits a folder of images by class, photos/<class>/*.jpg, or a list, into a training and a validation part.

    python tools/split_pictures.py --source photos --output fruit --val_share 0.2

makes fruit/train/<class> and fruit/val/<class>, with the same share of each class. The images are copied, or with
--link get a second name without taking room; the source stays as it is. Which images validate follows from their
names and --seed. Files of the same content stay on one side and are reported. Images that look alike, as of one scene,
stay on one side, too, and so do those of a group:

    python tools/split_pictures.py --source photos --output fruit --group_pattern 'plant\d+'
    python tools/split_pictures.py --source photos.csv --output fruit --group_column plant
"""
import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.data.groups import find_groups
from src.data.image_check import describe_left_out
from src.data.near_duplicates import DISTANCE, check_distance
from src.data.sources import Source
from src.data.split import describe_kept, plan_split, write_split
from src.errors import UserError, run_command
from src.names import escape_name

LISTED = 20  # groups of duplicates that are shown


def main(argv: Sequence[str] | None = None) -> None:
    """Split as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, type=Path, help="folder of one folder of images per class, or a "
                                                                   "list of images with labels")
    parser.add_argument("--output", required=True, type=Path, help="folder to make")
    parser.add_argument("--val_share", type=float, default=0.2, help="part of each class to validate on (default 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="another one gives another split (default 0)")
    parser.add_argument("--link", action="store_true", help="hard links instead of copies, on the same disk")
    grouping = parser.add_mutually_exclusive_group()
    grouping.add_argument("--group_pattern", help="regular expression: images with the same match in their paths, "
                                                  "<class>/<image>, stay together")
    grouping.add_argument("--group_column", help="images with the same value in this column of the list stay together")
    parser.add_argument("--scene_distance", type=int, default=DISTANCE,
                        help="bits of 64 that may differ in the perceptual hashes of two images of one scene "
                             f"(default {DISTANCE}); -1: only files of the same content are of one scene")
    options = parser.parse_args(argv)
    if not 0 < options.val_share < 1:
        raise UserError(f"--val_share must be between 0 and 1, not {options.val_share}")
    check_distance(options.scene_distance)

    folder = Source(options.source).scan()
    if options.source.is_dir() and options.output.absolute().is_relative_to(folder.root):
        raise UserError(f"{options.output}: lies in the folder that is to be split; name one outside of {folder.root}")
    groups = find_groups(folder.files, options.source, options.group_pattern, options.group_column)
    for line in describe_left_out(folder):
        print(f"{folder.root}: {line}")
    split = plan_split(folder, options.val_share, options.seed, groups, options.scene_distance)
    class_of = {file: folder.class_of(position) for position, file in enumerate(folder.files)}
    report_duplicates(split.kept.duplicates, class_of)
    for line in describe_kept(split.kept):
        print(line)
    written = write_split(folder, split, options.output, options.link)
    counts = Counter(split.parts.values())
    print(f"{options.output}: {counts['train']} images to train and {counts['val']} to validate on, of "
          f"{len(folder.classes)} classes{'' if written else '; all of it was there already'}")


def report_duplicates(groups: Sequence[Sequence[str]], class_of: Mapping[str, str]) -> None:
    """Print groups of identical files, first those in several classes: one of their classes is wrong."""
    in_several = [group for group in groups if len({class_of[file] for file in group}) > 1]
    for group in [*in_several, *(group for group in groups if group not in in_several)][:LISTED]:
        what = "the same image in several classes, kept to train on" if group in in_several else "the same image"
        print(f"{what}: {' = '.join(map(escape_name, group))}")
    if len(groups) > LISTED:
        print(f"and {len(groups) - LISTED} more such groups")
    if in_several:
        print(f"warning: {len(in_several)} images are in several classes; put that right and split anew",
              file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
