"""Install what writes another project's format, into an environment of its own.

    python tools/install_converter.py TFLITE
    python tools/install_converter.py LITE --python /usr/bin/python3.7

The packages come from PyPI, in the versions that src/deployment/converters/*.txt pin, and are kept in the cache folder.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.cache_folder import cache_folder
from src.deployment.conversion import CONVERTERS
from src.environments import make_environment
from src.errors import UserError, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Install what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file_format", choices=CONVERTERS, help="format to write with export.py --file_format")
    parser.add_argument("--python", default="", help="Python to make the environment with (default: this one, or one "
                                                     "on PATH where another version is needed: 3.7 for LITE, 3.11 for "
                                                     "TFLITE)")
    options = parser.parse_args(argv)
    converter = CONVERTERS[options.file_format]
    try:
        python = make_environment(converter.environment, cache_folder("converters"), print, options.python)
    except UserError as error:
        raise UserError(f"{options.file_format}: {converter.title} cannot be installed: {error}") from error
    print(f"{options.file_format}: {converter.title} is installed in {python.parents[1]}")


if __name__ == "__main__":
    run_command(main)
