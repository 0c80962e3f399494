"""The paper's widths and image sizes as a Markdown table: parameters, multiply-adds, and published accuracy.

    python tools/network_table.py

Parameters and multiply-adds are counted in this project's network for 1000 classes. The top-1 on ImageNet is that of
TF-slim's checkpoints, by the paper's authors:
https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet/README.md
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.errors import run_command
from src.mobilenetV2 import MobileNetV2
from src.training.dry_run import multiply_adds

CLASSES = 1000
PUBLISHED_TOP1 = {  # per cent, by width and image size
    0.35: {224: 60.3, 192: 58.2, 160: 55.7, 128: 50.8, 96: 45.5},
    0.5: {224: 65.4, 192: 63.9, 160: 61.0, 128: 57.7, 96: 51.2},
    0.75: {224: 69.8, 192: 68.7, 160: 66.4, 128: 63.2, 96: 58.8},
    1.0: {224: 71.8, 192: 70.7, 160: 68.8, 128: 65.3, 96: 60.3},
    1.3: {224: 74.4},
    1.4: {224: 75.0},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    print(table())


def table() -> str:
    """A row for each of the 22 combinations."""
    lines = ["| `--width_mult` | `--image_size` | parameters, million | multiply-adds, million | top-1, %, TF-slim |",
             "|---|---|---|---|---|"]
    for width, by_size in PUBLISHED_TOP1.items():
        network = MobileNetV2(CLASSES, width)
        parameters = sum(parameter.size for parameter in network.trainable_params())
        lines += [f"| {width} | {size} | {parameters / 1e6:.3f} | {multiply_adds(network, size) / 1e6:.0f} | {top1} |"
                  for size, top1 in by_size.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
