"""Converts weights of a MobileNetV2 from another project to a checkpoint of this project.

    python tools/convert_weights.py --source mobilenet_v2.pth --output mobilenetv2.ckpt

docs/weights.md lists the kinds of files; PyTorch need not be installed. Width and number of classes are those of the
weights. All commands read such files themselves, too: the checkpoint is smaller than a training checkpoint of PyTorch,
and has a digest.
"""
import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.checkpoint.file import write_checkpoint
from src.checkpoint.pretrained import open_pretrained
from src.errors import UserError, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser(description="Weights of a MobileNetV2 to a checkpoint of this project.")
    parser.add_argument("--source", required=True, type=Path, help="weights of another project, or a checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="checkpoint to write, .ckpt")
    options = parser.parse_args(argv)
    if options.output.suffix != ".ckpt":
        raise UserError(f"{options.output}: name the output with the ending .ckpt")

    checkpoint = open_pretrained(options.source)
    metadata = dataclasses.replace(checkpoint.metadata, training=None)  # the state of a run stays behind
    write_checkpoint(options.output, checkpoint.network, {}, metadata)
    print(f"{options.output}: {len(checkpoint.network)} parameters from {options.source.name}")


if __name__ == "__main__":
    run_command(main)
