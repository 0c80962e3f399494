"""The names that other projects give the parameters of MobileNetV2."""
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from src.mobilenetV2 import BN_EPS, INVERTED_RESIDUALS, SAME, SYMMETRIC

MINDSPORE = {name: name for name in ("gamma", "beta", "moving_mean", "moving_variance")}
TORCH = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


class Layer(NamedTuple):
    """A convolution with its batch norm."""

    ours: str
    conv: str  # the other project's convolution
    norm: str  # the other project's batch norm


@dataclass(frozen=True)
class Convention:
    """How the networks of a project compute: values of the keys of src/model_utils/keys.py."""

    padding: str = SYMMETRIC
    bn_eps: float = BN_EPS
    normalisation: str = "imagenet"


PYTORCH = Convention()
TENSORFLOW = Convention(SAME, 1e-3, "inception")


@dataclass(frozen=True)
class Naming:
    """The names of one project."""

    name: str
    layers: tuple[Layer, ...]
    classifiers: tuple[str, ...]  # the project's own, then those of its other versions
    convention: Convention = PYTORCH
    has_background: bool = False  # of ImageNet's classes, a class that is none of them comes first

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


def mmpretrain_layers() -> Iterator[Layer]:
    """Layers by the names of mmpretrain's (before: mmcls') models/backbones/mobilenet_v2.py."""
    yield Layer("backbone.stem", "conv1.conv", "conv1.bn")
    blocks = _blocks()
    for stage, (_, _, repetitions, _) in enumerate(INVERTED_RESIDUALS, 1):
        for i in range(repetitions):
            block, layers = next(blocks)
            for n, layer in enumerate(layers):
                theirs = f"layer{stage}.{i}.conv.{n}"
                yield Layer(f"{block}.{layer}", f"{theirs}.conv", f"{theirs}.bn")
    yield Layer("backbone.last", "conv2.conv", "conv2.bn")


def hugging_face_layers() -> Iterator[Layer]:
    """Layers by the names of transformers' modeling_mobilenet_v2.py: the first block is a part of the stem."""
    theirs = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
    places = [("backbone.stem", "conv_stem.first_conv")]
    for number, (block, layers) in enumerate(_blocks()):
        parent = f"layer.{number - 1}" if number else "conv_stem"
        places += [(f"{block}.{layer}", f"{parent}.{theirs[layer]}") for layer in layers]
    yield from (Layer(ours, f"{place}.convolution", f"{place}.normalization")
                for ours, place in [*places, ("backbone.last", "conv_1x1")])


def slim_layers() -> Iterator[Layer]:
    """Layers by the names of TF-slim's nets/mobilenet/mobilenet_v2.py."""
    places = [("backbone.stem", "Conv")]
    for number, (block, layers) in enumerate(_blocks()):
        parent = f"expanded_conv_{number}" if number else "expanded_conv"
        places += [(f"{block}.{layer}", f"{parent}.{layer}") for layer in layers]
    yield from (Layer(ours, place, f"{place}.BatchNorm") for ours, place in [*places, ("backbone.last", "Conv_1")])


def keras_layers() -> Iterator[Layer]:
    """Layers by the names of keras.applications' mobilenet_v2.py."""
    yield Layer("backbone.stem", "Conv1", "bn_Conv1")
    for number, (block, layers) in enumerate(_blocks()):
        parent = f"block_{number}" if number else "expanded_conv"
        for layer in layers:
            yield Layer(f"{block}.{layer}", f"{parent}_{layer}", f"{parent}_{layer}_BN")
    yield Layer("backbone.last", "Conv_1", "Conv_1_bn")


def counted_keras_layers() -> Iterator[Layer]:
    """Layers of the same network as Keras 3 saves it: by their kinds, each counted by itself."""
    counts = dict.fromkeys(("conv2d", "depthwise_conv2d", "batch_normalization"), 0)

    def counted(kind: str) -> str:
        counts[kind] += 1
        return kind if counts[kind] == 1 else f"{kind}_{counts[kind] - 1}"

    for ours in (layer.ours for layer in our_layers()):
        conv = "depthwise_conv2d" if ours.endswith("depthwise") else "conv2d"
        yield Layer(ours, counted(conv), counted("batch_normalization"))


OURS = Naming("this project", tuple(our_layers()), ("head.classifier",))
TORCHVISION = Naming("torchvision", tuple(torchvision_layers()), ("classifier.1", "classifier"))
TIMM = Naming("timm", tuple(timm_layers()), ("classifier",))
HUGGING_FACE = Naming("Hugging Face", tuple(hugging_face_layers()), ("classifier",), TENSORFLOW, has_background=True)
NAMINGS = (
    OURS, TORCHVISION, TIMM,
    Naming("d-li14", tuple(flat_layers("conv")), ("classifier", "classifier.1")),
    Naming("tonylins", tuple(flat_layers("features.18")), ("classifier", "classifier.1")),
    Naming("MindSpore's model zoo", tuple(model_zoo_layers()), ("dense", "head.1", "head.2")),
    Naming("mindcv", tuple(mindcv_layers()), ("classifier.1", "classifier")),
    Naming("mmpretrain", tuple(mmpretrain_layers()), ("fc",)),
    HUGGING_FACE,
    Naming("TF-slim", tuple(slim_layers()), ("Logits.Conv2d_1c_1x1",), TENSORFLOW, has_background=True),
    Naming("Keras", tuple(keras_layers()), ("predictions", "Logits", "dense"), TENSORFLOW),
    Naming("Keras 3", tuple(counted_keras_layers()), ("dense",), TENSORFLOW),
)
