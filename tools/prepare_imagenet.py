"""Unpacks the archives of ImageNet (ILSVRC2012) to an image folder.

    python tools/prepare_imagenet.py --source downloads --output imagenet

The source is a folder with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, as
image-net.org gives them. They become imagenet/{train,val}/<wnid>/*.JPEG, and classes.txt with a line per class in the
order of their indices: wnid and words. Every class is counted against its archive, and the whole against ImageNet's
1,281,167 and 50,000. An interrupted command continues when it is started again. It needs 150 GB, besides the archives.
"""
import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.data.formats.imagenet import PARTS, prepare_imagenet
from src.errors import UserError, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, type=Path, help="folder of the archives")
    parser.add_argument("--output", required=True, type=Path, help="image folder to make, or to go on with")
    parser.add_argument("--part", choices=("all", *PARTS), default="all",
                        help="val: only what scoring needs, without the training archive (default all)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)),
                        help="classes written at the same time; 1 for a spinning disk (default: the cores)")
    options = parser.parse_args(argv)
    if options.workers < 1:
        raise UserError(f"--workers must be at least 1, not {options.workers}")

    parts = PARTS if options.part == "all" else (options.part,)
    for part, images in prepare_imagenet(options.source, options.output, parts, options.workers).items():
        print(f"{options.output / part}: {images} images")


if __name__ == "__main__":
    run_command(main)
