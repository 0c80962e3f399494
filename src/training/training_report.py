"""The report of a training run."""
from pathlib import Path

from src.checkpoint.names import BEST, LAST
from src.data.image_folder import ImageFolder
from src.distributed.world import World
from src.metrics import EvalResult
from src.mobilenetV2 import MobileNetV2
from src.reports.best_evaluation import BestEvaluation
from src.reports.evaluation_report import data_name, dated, explained, origin, share_with_interval
from src.reports.next_steps import next_steps
from src.reports.report import Evaluated, Report
from src.training.resume import Run
from src.training.state import TrainingState
from src.training.timing import DATA, STEPS, Timing

OWN = ("infer.py uses temperature and threshold. Both were fitted on the same images that chose the epoch, so these "
       "figures are a little too good: eval.py on other images tells more.")


def training_report(run: Run, state: TrainingState, best: BestEvaluation | None, eval_folder: ImageFolder | None,
                    timing: Timing, network: object, world: World, is_saved: bool,
                    test_result: EvalResult | None = None, best_network: MobileNetV2 | None = None) -> Report:
    """The report of a run at its present step.

    `is_saved`: whether there is a checkpoint of this step. `best_network` has the weights of the best epoch, if there
    is a checkpoint of them.
    """
    config, done = run.config, state.step
    status = f"Finished after {done} steps" if run.is_finished(state) else \
        f"Stopped after {done} of {run.planned_epochs(state) * run.steps_per_epoch} steps; " + (
            "the same command goes on from there" if is_saved else "there is no checkpoint of that step")
    facts: dict[str, str] = {}
    if best:
        images, row = int(best.confusion.sum()), state.history[best.epoch - 1]
        facts |= {"top-1, best epoch": share_with_interval(round(best.top1 * images), images),
                  "top-5, the same epoch": share_with_interval(round(row["top5"] * images), images)}
        facts |= {name: f"{row[column]:.2%}" for name, column in
                  (("balanced accuracy", "balanced_accuracy"), ("macro F1", "macro_f1")) if column in row}
        facts |= {"validation images": f"{images:,}", "best epoch": str(best.epoch)}
    if test_result:
        images = test_result.images
        facts |= {"top-1, test": share_with_interval(test_result.correct1, images),
                  "top-5, test": share_with_interval(test_result.correct5, images), "test images": f"{images:,}"}
    facts |= {"epochs": f"{len(state.history)} of {run.planned_epochs(state)}", "classes": f"{len(run.classes):,}",
              "image size": f"{config.image_size} pixels"}
    seconds = timing.seconds[STEPS] + timing.seconds[DATA]
    if timing.images:
        facts["training images a second"] = f"{timing.images * world.rank_size / seconds:,.1f}"
    evaluated = Evaluated(f"the weights of epoch {best.epoch}, the best one", run.classes, best.confusion,
                          best.mistakes, eval_folder.root, best.files, confidence=best.confidence,
                          confidence_note=OWN) if best and eval_folder else None
    if evaluated and best_network:
        evaluated = explained(evaluated, best_network, config)
    return Report(title=f"MobileNetV2 on {data_name(config)}", state=dated(status), facts=facts,
                  history=state.history, evaluated=evaluated, seconds=timing.seconds,
                  next_steps=_next_steps(run, state), **origin(config, network, world))


def _next_steps(run: Run, state: TrainingState) -> dict[str, str]:
    """Of a finished run whose checkpoints are there. The network of a fold only measures."""
    folder = Path(run.config.save_checkpoint_path)
    found = [path for name in (BEST, LAST) if (path := folder / f"{name}.ckpt").is_file()]
    is_final = run.is_finished(state) and not run.config.fold
    return next_steps(run.config, found[0]) if is_final and found else {}
