"""Finds a MobileNetV2 among the named arrays of any file, by the names, and gives its weights this project's names.

People wrap weights in many ways: `module.` before each name (DataParallel), `_orig_mod.` (torch.compile), the name of
an attribute (Lightning), dictionaries such as `state_dict` or `model_ema` with an optimizer and arguments beside them.
None of these is known here by name: a network is where most names of a naming are, behind any common beginning.
"""
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore.nn.utils import no_init_parameters

from src.checkpoint.mismatch import LISTED, Mismatch
from src.checkpoint.namings import MINDSPORE, NAMINGS, TORCH, Naming
from src.errors import UserError, list_some
from src.mobilenetV2 import INVERTED_RESIDUALS, LAST_CHANNELS, STEM_CHANNELS, MobileNetV2Backbone, make_divisible

Arrays = Mapping[str, np.ndarray]

PUBLISHED_WIDTHS = (1.0, 1.4, 1.3, 0.75, 0.5, 0.35)
DEPTH = 5  # of dictionaries in dictionaries
CLASSIFIER = "head.classifier"
AVERAGED = re.compile(r"ema|swa|averaged|shadow", re.IGNORECASE)
# What training leaves beside the weights, in PyTorch (counters) and MindSpore (optimizer, schedule, loss scale).
TRAINING_STATE = re.compile(
    r"(.*\.)?(num_batches_tracked|n_averaged)|(moments|momentum|accum|moment[12])\..+|learning_rate|weight_decay|momentum"
    r"|global_step|loss_scale|scale_sense|current_iterator_step|last_overflow_iterator_step|(epoch|step|cur)_\w+")
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Conversion:
    """Weights under this project's names, and where they were."""

    weights: dict[str, np.ndarray]  # float32; without `head.*` if there is no classifier
    width_mult: float
    naming: Naming
    taken: str  # what of the file; empty if there is one network only
    left: tuple[str, ...]  # other networks in the file
    without_background: bool = False  # whether the background class was left out

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 without a classifier of this project's form."""
        bias = self.weights.get(f"{CLASSIFIER}.bias")
        return bias.size if bias is not None else 0

    def __str__(self) -> str:
        choice = f"; took {self.taken}, left {', '.join(self.left)}" if self.left else ""
        background = "; left out the first class, the background" if self.without_background else ""
        return (f"MobileNetV2 {self.width_mult}, {self.num_classes or 'no'} classes, {len(self.weights)} parameters, "
                f"named as by {self.naming.name}{choice}{background}")


@dataclass(frozen=True)
class _Network:
    """A MobileNetV2 among arrays: those whose names begin with `prefix`."""

    where: str  # the dictionary
    arrays: Arrays
    naming: Naming
    prefix: str

    @property
    def place(self) -> str:
        return f"{self.where} {self.prefix.rstrip('.')}".strip() or "the rest"

    @property
    def norm(self) -> dict[str, str]:
        return MINDSPORE if f"{self.prefix}{self.naming.layers[0].norm}.gamma" in self.arrays else TORCH


def convert(values: object, path: Path, keep_background: bool = False) -> Conversion:
    """The weights of the one MobileNetV2 in a file; of several, the average of the weights (EMA), or else the first.

    Args:
        values: the content of the file: a dictionary of arrays by name, or of such dictionaries.
        path: of the file, for errors.
        keep_background: whether to keep the class that some projects put before the 1000 of ImageNet.

    Raises:
        UserError: there is no MobileNetV2, or one that computes in another way; or the file has a larger network.
    """
    sources = dict(_state_dicts(values))
    networks = [network for where, arrays in sources.items() for network in _networks(where, arrays)]
    if not networks:
        raise UserError(f"{path}: {_other_content(sources)}")
    networks.sort(key=lambda network: not AVERAGED.search(network.place))  # stable: else as in the file
    chosen = networks[0]
    siblings = [network.prefix for network in networks if network.where == chosen.where and network is not chosen]
    weights, width_mult = _weights(chosen, siblings, path)
    drops = chosen.naming.has_background and not keep_background \
        and len(weights.get(f"{CLASSIFIER}.bias", ())) == IMAGENET_CLASSES + 1
    if drops:
        weights |= {name: weights[name][1:] for name in (f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias")}
    return Conversion(weights, width_mult, chosen.naming, chosen.place,
                      tuple(network.place for network in networks[1:]), drops)


def _state_dicts(values: object, where: str = "", depth: int = 0) -> Iterator[tuple[str, Arrays]]:
    """The dictionaries in `values` that have named arrays of real numbers, with their place, outer ones first."""
    if not isinstance(values, Mapping) or depth > DEPTH:
        return
    named = {name: value for name, value in values.items() if isinstance(name, str)}
    arrays = {name: value for name, value in named.items()
              if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not TRAINING_STATE.fullmatch(name)}
    if arrays:
        yield where, arrays
    for name, value in named.items():
        yield from _state_dicts(value, f"{where}.{name}".lstrip("."), depth + 1)


def _networks(where: str, arrays: Arrays) -> Iterator[_Network]:
    """The networks among arrays. Of two namings that differ in a few names, the one with more of them is taken."""
    found: dict[str, tuple[int, _Network]] = {}  # by prefix
    for naming in NAMINGS:
        stem = f"{naming.layers[0].conv}.weight"
        for name in arrays:
            if name != stem and not name.endswith(f".{stem}"):
                continue
            network = _Network(where, arrays, naming, name.removesuffix(stem))
            names = naming.backbone_names(network.norm).values()
            present = sum(network.prefix + theirs in arrays for theirs in names)
            if present > max(len(names) // 2, found.get(network.prefix, (0,))[0]):
                found[network.prefix] = present, network
    yield from (network for _, network in found.values())


def _weights(network: _Network, siblings: list[str], path: Path) -> tuple[dict[str, np.ndarray], float]:
    """The weights and the width multiplier of a network. `siblings` are the prefixes of others among its arrays."""
    prefix, arrays = network.prefix, network.arrays
    names = {mine: prefix + theirs for mine, theirs in network.naming.backbone_names(network.norm).items()}
    head = _head(network)
    inner = tuple(other for other in siblings if other.startswith(prefix))
    own = {name: value for name, value in arrays.items()
           if name.startswith(prefix) and not name.startswith(inner) and name not in head}
    layers_beside = [name for name, value in arrays.items() if value.ndim > 1 and name not in own
                     and name not in head and not name.startswith(tuple(siblings))]
    if layers_beside:
        raise UserError(f"{path}: holds a larger network: beside a MobileNetV2 ({prefix}*, named as by "
                        f"{network.naming.name}) it has {list_some(layers_beside, LISTED)}; save the MobileNetV2 alone")

    width_mult = nearest_width({layer.ours: len(weight) for layer in network.naming.layers
                                if (weight := own.get(f"{prefix}{layer.conv}.weight")) is not None and weight.ndim})
    with no_init_parameters():  # their shapes are all that is wanted
        backbone = MobileNetV2Backbone(width_mult)
    shapes = {f"backbone.{parameter.name}": parameter for parameter in backbone.get_parameters()}
    wanted = {names[mine]: shape for mine, shape in shapes.items()}
    if mismatch := Mismatch.between(wanted, own):
        raise UserError(f"{path}: is no MobileNetV2 {width_mult}, though named as by {network.naming.name}: {mismatch}")
    sources = {mine: names[mine] for mine in shapes} | {mine: theirs for theirs, mine in head.items()}
    weights = {mine: arrays[theirs].astype(np.float32) for mine, theirs in sources.items()}
    classifier = weights.get(f"{CLASSIFIER}.weight")
    if classifier is not None and classifier.shape[2:] == (1, 1):  # a 1x1 convolution
        weights[f"{CLASSIFIER}.weight"] = classifier[:, :, 0, 0]
    return weights, width_mult


def _head(network: _Network) -> dict[str, str]:
    """The names of the arrays after the backbone, with this project's. A head of another form keeps its own names."""
    prefix, classifiers = network.prefix, network.naming.classifiers
    parent = prefix.rstrip(".").rpartition(".")[0]
    outer = f"{parent}." if parent else ""
    places = [*(prefix + name for name in classifiers), *(outer + name for name in classifiers),
              *(f"{outer}head.{name}" for name in classifiers)]
    classifier = next((place for place in places if f"{place}.weight" in network.arrays), None)
    roots = tuple({f"{prefix}{name.partition('.')[0]}." for name in classifiers})
    head = {name: f"{CLASSIFIER}.{kind}" for kind in ("weight", "bias")
            if (name := f"{classifier}.{kind}") in network.arrays}
    return head | {name: f"head.{name.removeprefix(prefix).removeprefix('head.')}"
                   for name in network.arrays if name.startswith(roots) and name not in head}


def _other_content(sources: Mapping[str, Arrays]) -> str:
    """What is said of a file without a MobileNetV2 that this project can compute."""
    names = [name for arrays in sources.values() for name in arrays]
    if not names:
        return "holds no named arrays of real numbers; save the network's state_dict()"
    return (f"holds another network: its {len(names)} arrays are not named as those of a MobileNetV2 by "
            f"{', '.join(naming.name for naming in NAMINGS)}, but {list_some(names, LISTED)}")


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
