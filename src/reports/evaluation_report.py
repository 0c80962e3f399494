"""The report of an evaluation, and the parts that all reports share."""
import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.confidence import ConfidenceCheck
from src.data.image_folder import ImageFolder
from src.deployment.activation_maps import explain
from src.deployment.model_file import ModelFile
from src.distributed.world import World
from src.metrics import EvalResult, wilson_interval
from src.mobilenetV2 import MobileNetV2
from src.model_utils.config import Config
from src.model_utils.keys import BOOLEANS
from src.reports.best_evaluation import mistaken_files
from src.reports.provenance import changed_settings, environment, repeating_command
from src.reports.report import Evaluated, Report

STORED = ("Temperature and threshold are those that the model has from its training; on the images that it was "
          "validated on, they look a little too good.")
NOT_STORED = ("The model has none, so temperature and threshold were fitted on these images, and infer.py does not use "
              "them; train.py stores them beside its checkpoints.")


def evaluation_report(model: ModelFile, folder: ImageFolder, result: EvalResult, confidence: ConfidenceCheck | None,
                      network: object, world: World) -> Report:
    """The report of how a model file did on a folder."""
    config = model.config
    facts = {"top-1": share_with_interval(result.correct1, result.images),
             "top-5": share_with_interval(result.correct5, result.images),
             "balanced accuracy": f"{result.balanced_accuracy:.2%}", "macro F1": f"{result.macro_f1:.2%}",
             "mean cross entropy": f"{result.loss:.4f}",
             "images": f"{result.images:,}", "classes": f"{len(folder.classes):,}",
             "image size": f"{config.image_size} pixels"}
    evaluated = Evaluated(str(model.path), folder.classes, result.confusion, result.mistakes, folder.root,
                          mistaken_files(result, folder), confidence=confidence,
                          confidence_note=NOT_STORED if model.confidence is None else STORED)
    if isinstance(network, MobileNetV2):
        evaluated = explained(evaluated, network, config)
    return Report(title=f"{model.path.name} on {data_name(config)}", state=dated(f"Score of {model.path}"), facts=facts,
                  evaluated=evaluated, **origin(config, network, world))


def explained(evaluated: Evaluated, network: MobileNetV2, config: Config) -> Evaluated:
    """An evaluation with the class activation maps of its mistakes, for the predicted classes.

    Args:
        evaluated: of the network.
        network: in evaluation mode, with the weights that were evaluated.
        config: its input.
    """
    if not evaluated.files:
        return evaluated
    paths = [evaluated.root / name for name in evaluated.files]
    return dataclasses.replace(evaluated, overlays=dict(
        explain(network, config, paths, evaluated.mistakes["predicted"])))


def share_with_interval(right: int, images: int) -> str:
    """A share with its 95 % interval, for people."""
    low, high = wilson_interval(right, images)
    return f"{right / images:.2%} ({low:.1%} to {high:.1%})"


def report_path(config: Config) -> Path | None:
    """The file of eval.py's report; None if there is none. `report` is a file name, or True for `report.html`."""
    path = Path(config.report)
    wanted = BOOLEANS.get(path.name.lower(), bool(config.report))
    if not wanted:
        return None
    return path.with_name("report.html") if path.name.lower() in BOOLEANS else path


def origin(config: Config, network: object, world: World) -> Mapping[str, Any]:
    """The parts of a `Report` that say where the result came from."""
    return {"settings": config.as_dict(), "changed": changed_settings(config),
            "command": repeating_command(config, Path(sys.argv[0])),
            "environment": environment(network, world.rank_size)}


def data_name(config: Config) -> str:
    """The name of the data set, for a title."""
    return Path(config.dataset_path).resolve().name


def dated(state: str) -> str:
    """A sentence with the present time."""
    return f"{state}. {time.strftime('%Y-%m-%d %H:%M %Z')}."
