"""The report of an evaluation, and the parts that all reports share."""
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.data.image_folder import ImageFolder
from src.deployment.model_file import ModelFile
from src.distributed.world import World
from src.metrics import EvalResult, wilson_interval
from src.model_utils.config import Config
from src.model_utils.keys import BOOLEANS
from src.reports.best_evaluation import mistaken_files
from src.reports.provenance import changed_settings, environment, repeating_command
from src.reports.report import Evaluated, Report


def evaluation_report(model: ModelFile, folder: ImageFolder, result: EvalResult, network: object,
                      world: World) -> Report:
    """The report of how a model file did on a folder."""
    config = model.config
    facts = {"top-1": share_with_interval(result.correct1, result.images),
             "top-5": share_with_interval(result.correct5, result.images),
             "balanced accuracy": f"{result.balanced_accuracy:.2%}", "macro F1": f"{result.macro_f1:.2%}",
             "mean cross entropy": f"{result.loss:.4f}",
             "images": f"{result.images:,}", "classes": f"{len(folder.classes):,}",
             "image size": f"{config.image_size} pixels"}
    evaluated = Evaluated(str(model.path), folder.classes, result.confusion, result.mistakes, folder.root,
                          mistaken_files(result, folder))
    return Report(title=f"{model.path.name} on {data_name(config)}", state=dated(f"Score of {model.path}"), facts=facts,
                  evaluated=evaluated, **origin(config, network, world))


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
