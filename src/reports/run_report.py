"""What a report tells of a training run, and of an evaluation."""
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.data.image_folder import ImageFolder
from src.deployment.model_file import ModelFile
from src.distributed.device import World
from src.evaluation import Score
from src.model_utils.config import BOOLEANS, Config
from src.reports.best_evaluation import BestEvaluation, mistaken_files
from src.reports.provenance import changed_settings, environment, repeating_command
from src.reports.report import Evaluated, Report
from src.training.resume import Progress, Run
from src.training.timing import DATA, STEPS, Timing


def training_report(run: Run, progress: Progress, best: BestEvaluation | None, eval_folder: ImageFolder | None,
                    timing: Timing, network: object, world: World, is_saved: bool) -> Report:
    """Of a run as far as it is; `is_saved`: whether there is a checkpoint of this step."""
    config, done = run.config, progress.step
    state = f"Finished after {done} steps" if done == run.total_steps else \
        f"Stopped after {done} of {run.total_steps} steps; " + (
            "the same command goes on from there" if is_saved else "there is no checkpoint of that step")
    facts: dict[str, str] = {}
    if best:
        facts |= {"top-1, best epoch": f"{best.top1:.2%}",
                  "top-5, the same epoch": f"{progress.history[best.epoch - 1]['top5']:.2%}",
                  "validation pictures": f"{best.confusion.sum():,}", "best epoch": str(best.epoch)}
    facts |= {"epochs": f"{len(progress.history)} of {config.epoch_size}", "classes": f"{len(run.classes):,}",
              "picture size": f"{config.image_size} pixels"}
    seconds = timing.seconds[STEPS] + timing.seconds[DATA]
    if timing.pictures:
        facts["training pictures a second"] = f"{timing.pictures * world.rank_size / seconds:,.1f}"
    evaluated = Evaluated(f"the weights of epoch {best.epoch}, the best one", run.classes, best.confusion,
                          best.mistakes, eval_folder.root, best.files) if best and eval_folder else None
    return Report(title=f"MobileNetV2 on {_name(config)}", state=_dated(state), facts=facts,
                  history=progress.history, evaluated=evaluated, seconds=timing.seconds,
                  **_origin(config, network, world))


def evaluation_report(model: ModelFile, folder: ImageFolder, score: Score, network: object, world: World) -> Report:
    """Of the score of a file on a folder."""
    config = model.config
    facts = {"top-1": f"{score.top1:.2%}", "top-5": f"{score.top5:.2%}", "mean cross entropy": f"{score.loss:.4f}",
             "pictures": f"{score.images:,}", "classes": f"{len(folder.classes):,}",
             "picture size": f"{config.image_size} pixels"}
    evaluated = Evaluated(str(model.path), folder.classes, score.confusion, score.mistakes, folder.root,
                          mistaken_files(score, folder))
    return Report(title=f"{model.path.name} on {_name(config)}", state=_dated(f"Score of {model.path}"), facts=facts,
                  evaluated=evaluated, **_origin(config, network, world))


def report_path(config: Config) -> Path | None:
    """Where eval.py's report goes, if one is wanted: `report` is a file's name, or True for `report.html`."""
    path = Path(config.report)
    wanted = BOOLEANS.get(path.name.lower(), bool(config.report))
    if not wanted:
        return None
    return path.with_name("report.html") if path.name.lower() in BOOLEANS else path


def _origin(config: Config, network: object, world: World) -> Mapping[str, Any]:
    return {"settings": config.as_dict(), "changed": changed_settings(config),
            "command": repeating_command(config, Path(sys.argv[0])),
            "environment": environment(network, world.rank_size)}


def _name(config: Config) -> str:
    return Path(config.dataset_path).resolve().name


def _dated(state: str) -> str:
    return f"{state}. {time.strftime('%Y-%m-%d %H:%M %Z')}."
