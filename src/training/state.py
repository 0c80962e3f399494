"""How far a training run has come."""
import math
import secrets
from dataclasses import dataclass, field

from src.checkpoint.record import History, HistoryRow, Plan, TrainingMetadata, merit
from src.confidence import ConfidenceCheck
from src.metrics import EvalResult


@dataclass
class TrainingState:
    """The loop of `train.py` owns and changes it. The checkpointer saves and restores it.

    Epochs are counted from 1 here, in the table of the curves and in the names of files: they say how many are
    finished. Log lines and errors speak of the epoch and the step at work, which count from 0.
    """

    step: int = 0  # optimisation steps done, over all epochs
    losses: list[float] = field(default_factory=list)  # of the steps of the unfinished epoch, as far as fetched
    history: History = field(default_factory=list)  # a row per finished epoch; complete on rank 0 alone
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))  # distinguishes this run's checkpoints
    plans: list[Plan] = field(default_factory=list)  # the last one says how many epochs the run has
    seconds: float = 0.0  # that processes of this run before the present one have taken
    best_metric: str = "top1"  # the column of the history that tells which epoch is the best
    confidence: ConfidenceCheck | None = field(default=None, compare=False)  # of the last finished epoch, if known

    @classmethod
    def of(cls, training: TrainingMetadata, best_metric: str = "top1") -> "TrainingState":
        """The state of the run that wrote a checkpoint."""
        return cls(training.step, list(training.losses), list(training.history), training.run_id,
                   list(training.plans), training.seconds, best_metric)

    def planned_epochs(self, epoch_size: int) -> int:
        """The epochs of the run: `epoch_size`, if there is no plan."""
        return self.plans[-1].epochs if self.plans else epoch_size

    @property
    def epochs_since_best(self) -> int:
        """How many epochs ago the best one was; 0 if none was validated."""
        merits = [merit(row, self.best_metric) for row in self.history]
        best = max(merits, default=-math.inf)
        return len(merits) - 1 - merits.index(best) if best > -math.inf else 0

    @property
    def best_top1(self) -> float:
        """The best top-1 of all finished epochs; -1 if none was validated."""
        return max((row.get("top1", -1.0) for row in self.history), default=-1.0)

    @property
    def is_best(self) -> bool:
        """Whether the last finished epoch is better than all epochs before it."""
        *earlier, last = (merit(row, self.best_metric) for row in self.history)
        return last > max(earlier, default=-math.inf)

    def finish_epoch(self, loss: float, lr: float, result: EvalResult | None,
                     confidence: ConfidenceCheck | None = None) -> None:
        """Add the row of an epoch: mean loss, last learning rate and, if it was validated, the result."""
        row: HistoryRow = {"epoch": len(self.history) + 1, "loss": loss, "lr": lr}
        if result:
            row |= {"val_loss": result.loss, "top1": result.top1, "top5": result.top5,
                    "balanced_accuracy": result.balanced_accuracy, "macro_f1": result.macro_f1}
        self.history.append(row)
        self.losses, self.confidence = [], confidence
