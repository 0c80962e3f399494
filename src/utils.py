"""Loads checkpoints into a network, for evaluation and fine-tuning.

Loading is strict: parameters that do not fit are an error that lists them. With `filter_head` the head may differ.
"""
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mindspore import Tensor, nn, ops

from src.checkpoint.file import Checkpoint
from src.errors import UserError, list_some
from src.models import EMA_PREFIX

HEAD_PREFIX = "head."
LISTED = 3  # names that an error shows of each kind


class Shaped(Protocol):
    """An array or a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""


@dataclass(frozen=True)
class Mismatch:
    """How two sets of named arrays differ. False if they do not."""

    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, str]  # each name with a text of both shapes

    @classmethod
    def between(cls, wanted: Mapping[str, Shaped], offered: Mapping[str, Shaped]) -> "Mismatch":
        """Compare names and shapes."""
        return cls([name for name in wanted if name not in offered], [name for name in offered if name not in wanted],
                   {name: f"{name} {_shape(offered[name])} instead of {_shape(value)}" for name, value in wanted.items()
                    if name in offered and offered[name].shape != value.shape})

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        return "; ".join(f"{kind} {list_some(names, LISTED)}" for kind, names in (
            ("missing", self.missing), ("unexpected", self.unexpected),
            ("of another shape:", list(self.reshaped.values()))) if names)


def _shape(value: Shaped) -> str:
    return "x".join(map(str, value.shape)) or "a single number"


def load_weights(network: nn.Cell, checkpoint: Checkpoint, filter_head: bool = False) -> None:
    """Copy the weights of a checkpoint into `network`; with `filter_head` all but the head, which keeps its weights.

    Raises:
        UserError: a parameter is missing, unexpected or of another shape; `network` is unchanged.
    """
    load_parameters(network_parameters(network), checkpoint, filter_head)


def load_parameters(wanted: Mapping[str, Tensor], checkpoint: Checkpoint, filter_head: bool = False) -> None:
    """As `load_weights`, into parameters given by their names in the checkpoint."""
    offered: Mapping[str, Tensor] = checkpoint.network
    if filter_head:
        wanted, offered = ({name: value for name, value in side.items() if not name.startswith(HEAD_PREFIX)}
                           for side in (wanted, offered))
    mismatch = Mismatch.between(wanted, offered)
    if mismatch:
        head_only = not mismatch.missing and not mismatch.unexpected and all(
            name.startswith(HEAD_PREFIX) for name in mismatch.reshaped)
        advice = "another number of classes: --filter_head True loads the backbone alone" if head_only else \
            "is it a MobileNetV2 of this project and of this width_mult?"
        raise UserError(f"{checkpoint.path}: does not fit the network: {mismatch}; {advice}")
    for name, parameter in wanted.items():
        ops.assign(parameter, offered[name].astype(parameter.dtype))  # set_data does not change a compiled step


def class_count(checkpoint: Checkpoint) -> int:
    """The number of classes of a checkpoint's network; 0 if it has no classifier."""
    bias = checkpoint.network.get(f"{HEAD_PREFIX}classifier.bias")
    return bias.size if bias is not None else 0


def network_parameters(network: nn.Cell) -> dict[str, Tensor]:
    """The parameters of the model by name: `backbone.*` and `head.*`, with the batch norm statistics."""
    return {parameter.name: parameter for parameter in network.get_parameters()
            if parameter.name.startswith(("backbone.", HEAD_PREFIX))}


def eval_parameters(network: nn.Cell, ema: nn.Cell | None) -> dict[str, Tensor]:
    """The model that a run evaluates and saves: the parameters of the network, or their EMA if there is one."""
    if ema is None:
        return network_parameters(network)
    return {mean.name.removeprefix(EMA_PREFIX): mean for mean in ema.get_parameters()}


def check_classes(trained: tuple[str, ...] | None, folder: tuple[str, ...], where: object) -> None:
    """Raise UserError if the folder has other classes than the model was trained on.

    Names are compared in Unicode's form NFC, which those of a folder have; earlier versions kept others.
    """
    if trained is not None:
        trained = tuple(unicodedata.normalize("NFC", name) for name in trained)
    if trained is not None and trained != folder:
        differences = [f"{kind} {list_some(sorted(names), LISTED)}" for kind, names in (
            ("the folder lacks", set(trained) - set(folder)), ("the model does not know", set(folder) - set(trained)))
            if names]
        raise UserError(f"{where}: its classes are not the model's: {'; '.join(differences)}")
