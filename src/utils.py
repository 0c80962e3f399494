"""Loads checkpoints into a network, for evaluation and fine-tuning.

Loading is strict: parameters that do not fit are an error that lists them. With `filter_head` the head may differ.
"""
from collections.abc import Mapping

from mindspore import Tensor, nn, ops

from src.checkpoint.file import Checkpoint
from src.checkpoint.mismatch import LISTED, Mismatch
from src.errors import UserError, list_some
from src.models import EMA_PREFIX
from src.names import composed

HEAD_PREFIX = "head."


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
        if any(not name.startswith(HEAD_PREFIX) for name in mismatch.names):
            advice = "is it a MobileNetV2 of this width_mult?"
        elif mismatch.missing or mismatch.unexpected:
            advice = "no classifier, or one of another form: train.py --filter_head True takes the backbone alone"
        else:
            advice = "another number of classes: --filter_head True loads the backbone alone"
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
    if trained is None or tuple(map(composed, trained)) == folder:
        return
    known = set(map(composed, trained))
    differences = [f"{kind} {list_some(sorted(names), LISTED)}" for kind, names in (
        ("the folder lacks", known - set(folder)), ("the model does not know", set(folder) - known)) if names]
    raise UserError(f"{where}: its classes are not the model's: "
                    + ("; ".join(differences) or "they are in another order; train the model anew"))
