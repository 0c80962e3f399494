"""Unpacks MindRecord files to an image folder, to train or evaluate on.

    python tools/unpack_mindrecord.py --source imagenet_mindrecord --output imagenet

The source is a folder of *.mindrecord files with their .db files, or one with such folders train and val.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.data.formats.mindrecord import unpack_mindrecord
from src.errors import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Unpack as the command line says."""
    parser = argparse.ArgumentParser(description="MindRecord files as an image folder.")
    parser.add_argument("--source", required=True, type=Path, help="folder of *.mindrecord files, or of train and val")
    parser.add_argument("--output", required=True, type=Path, help="image folder to make")
    options = parser.parse_args(argv)
    print(f"unpacked to {unpack_mindrecord(options.source, options.output)}")


if __name__ == "__main__":
    run_command(main)
