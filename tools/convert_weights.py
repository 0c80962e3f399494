"""Converts weights of a PyTorch MobileNetV2 to a checkpoint of this project.

    python tools/convert_weights.py --source mobilenet_v2.pth --output mobilenetv2.ckpt

Reads state dicts with the key names of torchvision (`mobilenet_v2`) or timm (`mobilenetv2_100` and its other widths),
as `.pth` (PyTorch need not be installed) or `.safetensors`. Width and number of classes are those of the weights.
Both libraries train on RGB images normalised as src/data/transforms.py does.
"""
import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from mindspore import Tensor
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.checkpoint.file import write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.checkpoint.torch_file import read_torch_file
from src.errors import UserError, first_line, list_some, run_command
from src.mobilenetV2 import INVERTED_RESIDUALS, LAST_CHANNELS, STEM_CHANNELS, MobileNetV2, make_divisible
from src.utils import LISTED, Mismatch

PUBLISHED_WIDTHS = (1.0, 1.4, 1.3, 0.75, 0.5, 0.35)
STATISTICS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
COUNTER = ".num_batches_tracked"  # PyTorch's count of training steps; nothing here reads it

Layer = tuple[str, str, str]  # this project's convolution with batch norm, the source's convolution, its batch norm


def main(argv: Sequence[str] | None = None) -> None:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser(description="Weights of a PyTorch MobileNetV2 to a checkpoint of this project.")
    parser.add_argument("--source", required=True, type=Path, help=".pth or .safetensors, keys as torchvision or timm")
    parser.add_argument("--output", required=True, type=Path, help="checkpoint to write, .ckpt")
    options = parser.parse_args(argv)
    if options.output.suffix != ".ckpt":
        raise UserError(f"{options.output}: name the output with the ending .ckpt")

    source = read_source(options.source)
    width_mult, weights = convert(source, options.source)
    classes = weights["head.classifier.bias"].shape[0]
    metadata = CheckpointMetadata(config={"width_mult": width_mult, "num_classes": classes}, source=options.source.name)
    write_checkpoint(options.output, {name: Tensor(value) for name, value in weights.items()}, {}, metadata)
    print(f"{options.output}: MobileNetV2 {width_mult}, {classes} classes, {len(weights)} parameters "
          f"from {options.source.name}")


def read_source(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of a `.pth` or `.safetensors` file.

    Raises:
        UserError: the file is missing, of another kind or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".pth":
        return read_torch_file(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a .pth or a .safetensors file")
    try:
        return load_file(path)
    except Exception as error:  # the reader documents none of its exceptions
        raise UserError(f"{path}: not a safetensors file of numbers, or a damaged one ({first_line(error)})") from error


def convert(source: Mapping[str, np.ndarray], where: object) -> tuple[float, dict[str, np.ndarray]]:
    """The width multiplier of a foreign state dict, and its weights as float32 under this project's names.

    Raises:
        UserError: a weight is missing, unexpected or of another shape; the text lists them by the source's names.
    """
    if "classifier.1.weight" in source or "features.0.0.weight" in source:
        layers, classifier = list(torchvision_layers()), "classifier.1"
    elif "conv_stem.weight" in source:
        layers, classifier = list(timm_layers()), "classifier"
    else:
        raise UserError(f"{where}: has neither torchvision's keys (features.0.0.weight) nor timm's (conv_stem.weight) "
                        f"for MobileNetV2, but {list_some(sorted(source), LISTED)}")
    names = {f"{ours}.conv.weight": f"{conv}.weight" for ours, conv, _ in layers}
    names |= {f"{ours}.bn.{mine}": f"{norm}.{theirs}" for ours, _, norm in layers
              for mine, theirs in STATISTICS.items()}
    names |= {f"head.classifier.{kind}": f"{classifier}.{kind}" for kind in ("weight", "bias")}

    width_mult = nearest_width({ours: len(source[f"{conv}.weight"]) for ours, conv, _ in layers
                                if np.ndim(source.get(f"{conv}.weight", 0))})
    bias = source.get(f"{classifier}.bias")
    network = MobileNetV2(max(1, bias.size) if bias is not None else 1000, width_mult)
    mismatch = Mismatch.between({names[parameter.name]: parameter for parameter in network.get_parameters()},
                                {name: value for name, value in source.items() if not name.endswith(COUNTER)})
    if mismatch:
        raise UserError(f"{where}: is no MobileNetV2 {width_mult}: {mismatch}")
    return width_mult, {parameter.name: source[names[parameter.name]].astype(np.float32)
                        for parameter in network.get_parameters()}


def nearest_width(channels: Mapping[str, int]) -> float:
    """The width multiplier with which most layers have these output channels; preferably a published one."""
    candidates = [*PUBLISHED_WIDTHS, *(hundredths / 100 for hundredths in range(35, 141))]
    return max(candidates, key=lambda width: sum(wanted == channels.get(layer)
                                                 for layer, wanted in output_channels(width)))


def output_channels(width_mult: float) -> Iterator[tuple[str, int]]:
    """The output channels of the stem, the last layer and the projection of every block."""
    yield "backbone.stem", make_divisible(STEM_CHANNELS * width_mult)
    yield "backbone.last", make_divisible(LAST_CHANNELS * max(1.0, width_mult))
    stages = (c for _, c, repetitions, _ in INVERTED_RESIDUALS for _ in range(repetitions))
    for block, c in enumerate(stages):
        yield f"backbone.blocks.{block}.project", make_divisible(c * width_mult)


def torchvision_layers() -> Iterator[Layer]:
    """Layers by the names of torchvision's models/mobilenetv2.py."""
    yield "backbone.stem", "features.0.0", "features.0.1"
    expansions = [t for t, _, repetitions, _ in INVERTED_RESIDUALS for _ in range(repetitions)]
    for block, expand_ratio in enumerate(expansions):
        ours, theirs = f"backbone.blocks.{block}", f"features.{block + 1}.conv"
        activated = ["expand", "depthwise"] if expand_ratio != 1 else ["depthwise"]
        for i, layer in enumerate(activated):
            yield f"{ours}.{layer}", f"{theirs}.{i}.0", f"{theirs}.{i}.1"
        yield f"{ours}.project", f"{theirs}.{len(activated)}", f"{theirs}.{len(activated) + 1}"
    yield "backbone.last", f"features.{len(expansions) + 1}.0", f"features.{len(expansions) + 1}.1"


def timm_layers() -> Iterator[Layer]:
    """Layers by the names of timm's models/_efficientnet_blocks.py, blocks counted within their stage."""
    yield "backbone.stem", "conv_stem", "bn1"
    block = 0
    for stage, (expand_ratio, _, repetitions, _) in enumerate(INVERTED_RESIDUALS):
        for i in range(repetitions):
            ours, theirs = f"backbone.blocks.{block}", f"blocks.{stage}.{i}"
            layers = [("expand", "conv_pw"), ("depthwise", "conv_dw"), ("project", "conv_pwl")] if expand_ratio != 1 \
                else [("depthwise", "conv_dw"), ("project", "conv_pw")]
            for n, (layer, conv) in enumerate(layers, 1):
                yield f"{ours}.{layer}", f"{theirs}.{conv}", f"{theirs}.bn{n}"
            block += 1
    yield "backbone.last", "conv_head", "bn2"


if __name__ == "__main__":
    run_command(main)
