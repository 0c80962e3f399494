"""The names that other projects give the parameters of MobileNetV2."""
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from src.mobilenetV2 import INVERTED_RESIDUALS

MINDSPORE = {name: name for name in ("gamma", "beta", "moving_mean", "moving_variance")}
TORCH = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


class Layer(NamedTuple):
    """A convolution with its batch norm."""

    ours: str
    conv: str  # the other project's convolution
    norm: str  # the other project's batch norm


@dataclass(frozen=True)
class Naming:
    """The names of one project."""

    name: str
    layers: tuple[Layer, ...]
    classifiers: tuple[str, ...]  # the project's own, then those of its other versions

    def backbone_names(self, norm: dict[str, str]) -> dict[str, str]:
        """This project's names of the backbone's parameters, with the other project's.

        Args:
            norm: what the other project's library calls the parameters of a batch norm: `MINDSPORE` or `TORCH`.
        """
        names = {}
        for layer in self.layers:
            names[f"{layer.ours}.conv.weight"] = f"{layer.conv}.weight"
            names |= {f"{layer.ours}.bn.{mine}": f"{layer.norm}.{theirs}" for mine, theirs in norm.items()}
        return names


def _blocks() -> Iterator[tuple[str, list[str]]]:
    """Each block, with its layers in the order of computation."""
    expansions = [t for t, _, repetitions, _ in INVERTED_RESIDUALS for _ in range(repetitions)]
    for block, expand_ratio in enumerate(expansions):
        yield f"backbone.blocks.{block}", ["expand"] * (expand_ratio != 1) + ["depthwise", "project"]


def our_layers() -> Iterator[Layer]:
    """Layers by the names of src/mobilenetV2.py."""
    layers = ["backbone.stem", *(f"{block}.{layer}" for block, layers in _blocks() for layer in layers),
              "backbone.last"]
    yield from (Layer(layer, f"{layer}.conv", f"{layer}.bn") for layer in layers)


def torchvision_layers() -> Iterator[Layer]:
    """Layers by the names of torchvision's models/mobilenetv2.py, since its release 0.3."""
    yield Layer("backbone.stem", "features.0.0", "features.0.1")
    number = 0
    for number, (block, layers) in enumerate(_blocks(), 1):
        theirs = f"features.{number}.conv"
        *activated, last = layers
        for i, layer in enumerate(activated):
            yield Layer(f"{block}.{layer}", f"{theirs}.{i}.0", f"{theirs}.{i}.1")
        yield Layer(f"{block}.{last}", f"{theirs}.{len(activated)}", f"{theirs}.{len(activated) + 1}")
    yield Layer("backbone.last", f"features.{number + 1}.0", f"features.{number + 1}.1")


def timm_layers() -> Iterator[Layer]:
    """Layers by the names of timm's models/_efficientnet_blocks.py, blocks counted within their stage."""
    yield Layer("backbone.stem", "conv_stem", "bn1")
    blocks = _blocks()
    for stage, (expand_ratio, _, repetitions, _) in enumerate(INVERTED_RESIDUALS):
        convolutions = ("conv_pw", "conv_dw", "conv_pwl") if expand_ratio != 1 else ("conv_dw", "conv_pw")
        for i in range(repetitions):
            block, layers = next(blocks)
            for n, (layer, conv) in enumerate(zip(layers, convolutions, strict=True), 1):
                yield Layer(f"{block}.{layer}", f"blocks.{stage}.{i}.{conv}", f"blocks.{stage}.{i}.bn{n}")
    yield Layer("backbone.last", "conv_head", "bn2")


def flat_layers(last: str) -> Iterator[Layer]:
    """Layers by the names of tonylins' pytorch-mobilenet-v2 and what came of it: a block is one list of operations.

    Args:
        last: the name of the last layer, "features.18" or, as d-li14 calls it, "conv".
    """
    yield Layer("backbone.stem", "features.0.0", "features.0.1")
    for number, (block, layers) in enumerate(_blocks(), 1):
        for i, layer in enumerate(layers):  # convolution, batch norm, activation
            yield Layer(f"{block}.{layer}", f"features.{number}.conv.{3 * i}", f"features.{number}.conv.{3 * i + 1}")
    yield Layer("backbone.last", f"{last}.0", f"{last}.1")


def model_zoo_layers() -> Iterator[Layer]:
    """Layers by the names of MindSpore's model zoo."""
    for ours, conv, norm in torchvision_layers():
        yield Layer(ours, *(_model_zoo_name(name) for name in (conv, norm)))


def _model_zoo_name(name: str) -> str:
    """Where torchvision has a list of operations, the model zoo has a cell with such a list, called `features`."""
    path, _, last = name.rpartition(".")
    parent = path.rpartition(".")[2]
    return name if parent == "conv" else f"{path}.features.{last}"


def mindcv_layers() -> Iterator[Layer]:
    """Layers by the names of mindcv's models/mobilenetv2.py: the stem and the last layer are not cells of their own."""
    yield Layer("backbone.stem", "features.0", "features.1")
    number = 2  # the stem's activation
    for number, (block, layers) in enumerate(_blocks(), 3):
        theirs = f"features.{number}.layers"
        for i, layer in enumerate(layers):
            yield Layer(f"{block}.{layer}", f"{theirs}.{3 * i}", f"{theirs}.{3 * i + 1}")
    yield Layer("backbone.last", f"features.{number + 1}", f"features.{number + 2}")


OURS = Naming("this project", tuple(our_layers()), ("head.classifier",))
TORCHVISION = Naming("torchvision", tuple(torchvision_layers()), ("classifier.1", "classifier"))
TIMM = Naming("timm", tuple(timm_layers()), ("classifier",))
NAMINGS = (
    OURS, TORCHVISION, TIMM,
    Naming("d-li14", tuple(flat_layers("conv")), ("classifier", "classifier.1")),
    Naming("tonylins", tuple(flat_layers("features.18")), ("classifier", "classifier.1")),
    Naming("MindSpore's model zoo", tuple(model_zoo_layers()), ("dense", "head.1", "head.2")),
    Naming("mindcv", tuple(mindcv_layers()), ("classifier.1", "classifier")),
)
