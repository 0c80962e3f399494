"""Packs an image folder into MindRecord files, with the same classes and class indices.

    python tools/pack_mindrecord.py --dataset_path photos --output photos_mindrecord

Images stay as they are, byte for byte, in files of about 1 GB: train/train.mindrecord and val/val.mindrecord with an
index beside each, or pictures.mindrecord for a folder of classes alone. tools/unpack_mindrecord.py reverses this.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.data.formats.mindrecord_writer import pack_mindrecord
from src.data.sources import train_source, validation_source
from src.errors import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Pack as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", required=True, help="folder of classes, or one that holds train and val")
    parser.add_argument("--output", required=True, type=Path, help="folder to make")
    options = parser.parse_args(argv)

    sources = {"train": train_source(options.dataset_path), "val": validation_source(options.dataset_path, "")}
    parts = {part: source.scan() for part, source in sources.items() if source}
    for part, files in pack_mindrecord(parts, options.output).items():
        print(f"{options.output}: {len(parts[part])} images of {len(parts[part].classes)} classes from "
              f"{parts[part].root} in {files} files")


if __name__ == "__main__":
    run_command(main)
