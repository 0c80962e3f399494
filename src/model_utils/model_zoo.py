"""What configuration files and options of MindSpore's model zoo mean here. docs/migration.md tells its users more.

Its files are known by keys that only they have. They have the values of training, evaluation, export and postprocessing
side by side: https://gitee.com/mindspore/models, official/cv/MobileNet/mobilenetv2.
"""
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.model_utils.keys import EXPORT

Entry = tuple[str, Any, int]  # key, value, line

NO_EFFECT = frozenset({
    "checkpoint_path",  # nothing read it there either
    "device_id", "device_id_export", "rank_id", "rank_size",  # the launcher says
    "is_training", "is_training_eval", "is_training_export",  # the command says
    "run_distribute_eval", "run_distribute_export",
    "batch_size_postprocess", "result_path", "label_path",  # options of postprocess.py
})
RENAMED = {"acc_mode": "boost_mode", "batch_size_export": "export_batch_size"}
ACTIVATIONS = {"softmax": True, "none": False, "": False}  # in the exported graph
OBSOLETE = NO_EFFECT | RENAMED.keys() | {"activation"}

# Which one counted, where a file has two names of one key: the first is read only if the second is not stated.
GIVES_WAY = {"device_target": "platform", "run_distribute": "distribute"}
CHECKPOINTS = ("ckpt_file", "pretrain_ckpt", "checkpoint")
# Its files name these checkpoints as examples.
EXAMPLES = frozenset({"./mobilenetv2-200_625.ckpt", "/cache/train/mobilenetv2-200_625.ckpt"})
EMPTY_FOR_NONE = frozenset({"freeze_layer", "cache_session_id", *CHECKPOINTS})
# What it did without a key.
UNSTATED = {"recipe": "plain", "lr_base_batch": 0, "dropout": 0.0}
CHECKPOINT_FOLDER = "ckpt_0"


def is_of_model_zoo(names: Iterable[str]) -> bool:
    """Whether one of these keys is of the model zoo alone."""
    return not OBSOLETE.isdisjoint(names)


def translate_file(entries: list[Entry], path: Path, command: str) -> tuple[list[Entry], str]:
    """The keys and values of a file of the model zoo as this project's, and a line about it.

    Args:
        entries: of the file.
        path: of the file.
        command: that reads it, such as `export.py`, for which there was another key with the checkpoint.

    Raises:
        UserError: a value that has no counterpart here.
    """
    stated = {name: value for name, value, _ in entries}
    kept, unused, changed = [], [], []
    for name, value, line in entries:
        if name in EMPTY_FOR_NONE and value in ("", None):
            continue
        if _has_no_effect(name, value, stated, command):
            unused.append(name)
            continue
        new_name, new_value = translate_option(name, value, f"{path}, line {line}")
        if name == "save_checkpoint_path":
            new_value = f"{str(value).rstrip('/')}/{CHECKPOINT_FOLDER}"
        if (new_name, new_value) != (name, value):
            changed.append((new_name, new_value))
        kept.append((new_name, new_value, line))
    added = [(name, value) for name, value in UNSTATED.items() if name not in stated]
    kept += [(name, value, 0) for name, value in added]
    read_as = ", ".join(f"{name} {value}" for name, value in changed + added)
    return kept, (f"{path}: a file of MindSpore's model zoo (docs/migration.md), read as {read_as}; without effect: "
                  f"{', '.join(unused) or 'nothing'}")


def translate_option(name: str, value: object, where: str) -> tuple[str, Any]:
    """One key of the model zoo with its value, as this project's.

    Raises:
        UserError: an activation that cannot be exported.
    """
    if name == "activation":
        word = "" if value is None else str(value).strip()
        if word.lower() not in ACTIVATIONS:
            raise UserError(f"{where}: activation {word} cannot be exported here; Softmax gives probabilities, None "
                            "gives logits")
        return "export_softmax", ACTIVATIONS[word.lower()]
    return RENAMED.get(name, name), value


def _has_no_effect(name: str, value: object, stated: Mapping[str, object], command: str) -> bool:
    """Whether the model zoo's commands, or this project's, do without this line."""
    if name in CHECKPOINTS:
        return name != _checkpoint_key(stated, command) or _is_missing_example(value)
    # Early files have expressions of Python in the place of values, about the environment of the process.
    return name in NO_EFFECT or GIVES_WAY.get(name) in stated or (isinstance(value, str) and "os.getenv(" in value)


def _checkpoint_key(stated: Mapping[str, object], command: str) -> str:
    """The key that names the checkpoint of this command: `ckpt_file` was export.py's alone."""
    own = ("ckpt_file", "checkpoint", "pretrain_ckpt") if command == EXPORT else ("pretrain_ckpt", "checkpoint")
    return next((name for name in own if stated.get(name)), "")


def _is_missing_example(value: object) -> bool:
    return str(value) in EXAMPLES and not Path(str(value)).exists()
