"""Unpacks CIFAR-10 or CIFAR-100 to an image folder.

    python tools/prepare_cifar.py --source cifar-10-binary.tar.gz --output cifar10

The source is one of the archives of https://www.cs.toronto.edu/~kriz/cifar.html: cifar-10-binary.tar.gz,
cifar-100-binary.tar.gz, or the versions for Python, cifar-10-python.tar.gz and cifar-100-python.tar.gz, whose code is
not run. Images become {train,val}/<class>/<number>.png; the test batch is val. CIFAR-100's classes are the 100
fine ones.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.data.formats.cifar import prepare_cifar
from src.errors import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, type=Path, help="archive, .tar.gz")
    parser.add_argument("--output", required=True, type=Path, help="image folder to make")
    options = parser.parse_args(argv)
    for part, images in prepare_cifar(options.source, options.output).items():
        print(f"{options.output / part}: {images} images")


if __name__ == "__main__":
    run_command(main)
