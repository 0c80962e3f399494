"""Converts weights of a MobileNetV2 from another project, or for another project.

    python tools/convert_weights.py --source mobilenet_v2.pth --output mobilenetv2.ckpt
    python tools/convert_weights.py --source checkpoint/best.ckpt --to torchvision --output mobilenet_v2.pth
    python tools/convert_weights.py --source checkpoint/best.ckpt --to timm --output model.safetensors

Without --to it writes a checkpoint of this project. `torchvision` and `timm` are whose names are written; the ending of
the output, .pth or .safetensors, tells the format. `safetensors` is that format with this project's names.
docs/weights.md lists the kinds of files that are read; PyTorch need not be installed. All commands read them, too.
"""
import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.checkpoint.file import Checkpoint, write_checkpoint
from src.checkpoint.foreign_writer import SAFETENSORS_ENDING, write_foreign
from src.checkpoint.namings import OURS, PYTORCH, TIMM, TORCHVISION
from src.checkpoint.pretrained import open_pretrained
from src.errors import UserError, run_command

TARGETS = {"torchvision": TORCHVISION, "timm": TIMM, "safetensors": OURS}


def main(argv: Sequence[str] | None = None) -> None:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser(description="Weights of a MobileNetV2 from or for another project.")
    parser.add_argument("--source", required=True, help="a checkpoint, weights of another project, or `imagenet`")
    parser.add_argument("--to", choices=TARGETS, help="who is to read the output; by default this project")
    parser.add_argument("--output", required=True, type=Path, help=".ckpt; with --to .pth or .safetensors")
    parser.add_argument("--keep_background", action="store_true",
                        help="keep the class that TF-slim and Hugging Face have before the 1000 of ImageNet")
    options = parser.parse_args(argv)
    if options.to is None and options.output.suffix != ".ckpt":
        raise UserError(f"{options.output}: name the output with the ending .ckpt, or say --to {'|'.join(TARGETS)}")
    if options.to == "safetensors" and options.output.suffix != SAFETENSORS_ENDING:
        raise UserError(f"{options.output}: name the output with the ending {SAFETENSORS_ENDING}")

    checkpoint = open_pretrained(options.source, options.keep_background)
    if options.to:
        check_convention(checkpoint)
        weights = {name: value.asnumpy() for name, value in checkpoint.network.items()}
        write_foreign(options.output, weights, TARGETS[options.to])
    else:
        metadata = dataclasses.replace(checkpoint.metadata, training=None)  # the state of a run stays behind
        write_checkpoint(options.output, checkpoint.network, {}, metadata)
    print(f"{options.output}: {len(checkpoint.network)} parameters from {options.source}")


def check_convention(checkpoint: Checkpoint) -> None:
    """Raise UserError if another project's network would compute something else with these weights."""
    for key, usual in dataclasses.asdict(PYTORCH).items():
        if (own := checkpoint.config.get(key, usual)) != usual:
            raise UserError(f"{checkpoint.path}: its network has {key} {own}, and those of PyTorch {usual}, so these "
                            "weights would score less there; leave out --to, or export.py --file_format ONNX")


if __name__ == "__main__":
    run_command(main)
