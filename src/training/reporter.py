"""The figures of a run for people: the table and picture of the curves, event files, and the report.

Rank 0 alone writes files.
"""
import contextlib
from collections.abc import Iterator
from pathlib import Path

from src.checkpoint.file import read_checkpoint
from src.checkpoint.names import BEST, LAST
from src.data.image_folder import ImageFolder
from src.distributed.world import World
from src.errors import UserError
from src.log import logger
from src.metrics import EvalResult
from src.mobilenetV2 import MobileNetV2
from src.reports import best_evaluation
from src.reports.best_evaluation import BestEvaluation
from src.reports.event_file import check_tensorboard
from src.reports.figures import draw_curves, write_table
from src.reports.model_card import FILE as MODEL_CARD
from src.reports.model_card import write_model_card
from src.reports.report import is_report_of, write_report
from src.reports.tracking import Writer, check_tracking, open_writers
from src.training.resume import Run
from src.training.run_checks import nothing_learnt
from src.training.state import TrainingState
from src.training.timing import Timing
from src.training.training_report import training_report
from src.utils import eval_parameters, load_parameters

CURVES, DRAWN_CURVES, REPORT = "curves.csv", "curves.png", "report.html"


class Reporter:
    """Writes what a run tells of itself, beside its checkpoints.

    Args:
        network: of the run, for what the report says of it.
        ema: the network with the moving average of the weights, if the run keeps one.
        train_folder: the training images.
        eval_folder: the validation images, if there are any.

    Raises:
        UserError: event files or tracking are wanted, but their library is missing.
    """

    def __init__(self, run: Run, network: MobileNetV2, ema: MobileNetV2 | None, train_folder: ImageFolder,
                 eval_folder: ImageFolder | None, timing: Timing, world: World) -> None:
        check_tensorboard(run.config)
        check_tracking(run.config)
        self._run, self._network, self._ema = run, network, ema
        self._train_folder, self._eval_folder = train_folder, eval_folder
        self._timing, self._world = timing, world
        self._folder = Path(run.config.save_checkpoint_path)
        self._best: BestEvaluation | None = None
        self._writers: list[Writer] = []
        self.is_due = False  # whether rank 0 has a report to write: one was written if the run was finished before

    def start(self, state: TrainingState) -> None:
        """Take up what this run has written before."""
        self._state = state
        was_finished = self._run.is_finished(state)
        if not self._world.is_main_process:
            return
        self._best = BestEvaluation.load(self._folder / best_evaluation.FILE, state.run_id, state.history,
                                         len(self._run.classes), state.best_metric)
        if not was_finished:
            self._writers = open_writers(self._run.config, self._folder, state.run_id, state.step)
        self.is_due = not (was_finished and is_report_of(self._folder / REPORT, self._mark()) and all(
            (self._folder / name).is_file() for name in (CURVES, DRAWN_CURVES)))

    def log_step(self, loss: float, lr: float) -> None:
        """Take the figures of a step that has a line in the log."""
        for writer in self._writers:
            writer.write(self._state.step + 1, {"step/loss": loss, "step/lr": lr})

    def log_epoch(self, result: EvalResult | None) -> None:
        """Take the epoch that the state has just finished, and its result.

        The best evaluation is written here, so before the checkpoint that it belongs to: it is there whenever that is.
        """
        if not self._world.is_main_process:
            return
        row = self._state.history[-1]
        if line := nothing_learnt(self._run.config, self._state.history, len(self._run.classes),
                                  self._run.steps_per_epoch):
            logger.warning(line)
        for writer in self._writers:
            writer.write(self._state.step, {f"epoch/{name}": row[name] for name in row if name != "epoch"})
        if result and self._eval_folder and self._state.is_best:
            self._best = BestEvaluation.of(result, self._eval_folder, self._state.run_id, row["epoch"],
                                           self._state.confidence)
            if self._run.config.save_checkpoint:
                with _tolerate_failure(best_evaluation.FILE):
                    self._best.save(self._folder / best_evaluation.FILE)
        with _tolerate_failure(CURVES):
            write_table(self._state.history, self._folder / CURVES)

    def finalize(self, is_saved: bool, test_result: EvalResult | None = None) -> None:
        """Write the curves, the model card and the report. A run that was finished before keeps the files that it has.

        The network gets the weights of the best epoch, to show what it sees in its mistakes.

        Args:
            is_saved: whether there is a checkpoint of the present step.
            test_result: on the test images, if they were scored.
        """
        if not self._world.is_main_process:
            return
        state, path = self._state, self._folder / REPORT
        if not self.is_due:
            logger.info(f"report: {path}")
            return
        try:
            if state.history:
                write_table(state.history, self._folder / CURVES)
                draw_curves(state.history, self._folder / DRAWN_CURVES)
            report = training_report(self._run, state, self._best, self._eval_folder, self._timing, self._network,
                                     self._world, is_saved, test_result, self._load_best())
            if self._run.config.save_checkpoint:
                weights = f"{BEST if self._best else LAST}.ckpt"
                write_model_card(report, self._train_folder, weights, self._folder / MODEL_CARD)
            write_report(report, path, self._mark())
            logger.info(f"report: {path}")
        except UserError as error:
            logger.warning(f"the run is saved, but not its report: {error}")
        for writer in self._writers:
            # Not the report, which names folders of this machine.
            writer.close(self._run.is_finished(state),
                         [file for name in (MODEL_CARD, CURVES) if (file := self._folder / name).is_file()])

    def _load_best(self) -> MobileNetV2 | None:
        """The network with the weights of the best evaluation; None if no checkpoint has them, or it saw all right."""
        path, best = self._folder / f"{BEST}.ckpt", self._best
        if not (best and best.files and self._run.config.save_checkpoint and path.is_file()):
            return None
        checkpoint = read_checkpoint(path)
        if checkpoint.training is None or (checkpoint.training.run_id, checkpoint.training.epoch) != (
                best.run_id, best.epoch):
            return None
        load_parameters(eval_parameters(self._network, self._ema), checkpoint)
        network = self._ema or self._network
        network.set_train(False)
        return network

    def _mark(self) -> str:
        return f"{self._state.run_id} {self._state.step}"


@contextlib.contextmanager
def _tolerate_failure(file: str) -> Iterator[None]:
    """Go on training without a file that cannot be written: a full disk costs the file alone."""
    try:
        yield
    except UserError as error:
        logger.warning(f"{file} is not written this time, training goes on: {error}")
