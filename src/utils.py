"""Loading checkpoints into a network: for evaluation, fine-tuning and incremental learning. Strict: what does not fit
is an error that lists it; only the head may differ, and only where that was asked for.
"""
from collections.abc import Mapping

from mindspore import Tensor, nn, ops

from src.checkpoint.file import Checkpoint
from src.errors import UserError
from src.models import EMA_PREFIX

HEAD_PREFIX = "head."
LISTED = 3  # names that an error shows of each kind


def load_weights(network: nn.Cell, checkpoint: Checkpoint, filter_head: bool = False) -> None:
    """Copy a checkpoint's network into `network`; with `filter_head` all but the head, which keeps its new weights.

    Raises:
        UserError: a parameter is missing, unexpected or of another shape; `network` is unchanged.
    """
    load_parameters(network_parameters(network), checkpoint, filter_head)


def load_parameters(wanted: Mapping[str, Tensor], checkpoint: Checkpoint, filter_head: bool = False) -> None:
    """As `load_weights`, into parameters by the names that they have in a checkpoint."""
    offered: Mapping[str, Tensor] = checkpoint.network
    if filter_head:
        wanted, offered = ({name: value for name, value in side.items() if not name.startswith(HEAD_PREFIX)}
                           for side in (wanted, offered))
    missing = [name for name in wanted if name not in offered]
    unexpected = [name for name in offered if name not in wanted]
    reshaped = {name: f"{name} {_shape(offered[name])} instead of {_shape(wanted[name])}" for name in wanted
                if name in offered and offered[name].shape != wanted[name].shape}
    faults = [f"{kind} {_some(names)}" for kind, names in (("missing", missing), ("unexpected", unexpected),
                                                          ("of another shape:", list(reshaped.values()))) if names]
    if faults:
        head_only = not missing and not unexpected and all(name.startswith(HEAD_PREFIX) for name in reshaped)
        advice = "another number of classes: --filter_head True loads the backbone alone" if head_only else \
            "is it a MobileNetV2 of this project and of this width_mult?"
        raise UserError(f"{checkpoint.path}: does not fit the network: {'; '.join(faults)}; {advice}")
    for name, parameter in wanted.items():
        ops.assign(parameter, offered[name].astype(parameter.dtype))  # reaches a step that is compiled, too


def class_count(checkpoint: Checkpoint) -> int:
    """How many classes the network of a checkpoint tells apart; 0 if it has no classifier."""
    bias = checkpoint.network.get(f"{HEAD_PREFIX}classifier.bias")
    return bias.size if bias is not None else 0


def network_parameters(network: nn.Cell) -> dict[str, Tensor]:
    """The parameters that make up the model, by name: `backbone.*` and `head.*`, batch norm statistics included."""
    return {parameter.name: parameter for parameter in network.get_parameters()
            if parameter.name.startswith(("backbone.", HEAD_PREFIX))}


def scored_parameters(network: nn.Cell, average: nn.Cell | None) -> dict[str, Tensor]:
    """The model that a run scores and saves: the network's parameters, or their moving averages if it keeps them."""
    if average is None:
        return network_parameters(network)
    return {mean.name.removeprefix(EMA_PREFIX): mean for mean in average.get_parameters()}


def check_classes(trained: tuple[str, ...] | None, folder: tuple[str, ...], where: object) -> None:
    """Refuse to score a model on a folder of other classes than it was trained on."""
    if trained is not None and trained != folder:
        differences = [f"{kind} {_some(sorted(names))}" for kind, names in (
            ("the folder lacks", set(trained) - set(folder)), ("the model does not know", set(folder) - set(trained)))
            if names]
        raise UserError(f"{where}: its classes are not the model's: {'; '.join(differences)}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape))
