"""How far a training run has come."""
import secrets
from dataclasses import dataclass, field

from src.checkpoint.record import History, HistoryRow, TrainingMetadata
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

    @classmethod
    def of(cls, training: TrainingMetadata) -> "TrainingState":
        """The state of the run that wrote a checkpoint."""
        return cls(training.step, list(training.losses), list(training.history), training.run_id)

    @property
    def best_top1(self) -> float:
        """The best top-1 of all finished epochs; -1 if none was validated."""
        return max((_top1(row) for row in self.history), default=-1.0)

    @property
    def is_best(self) -> bool:
        """Whether the last finished epoch has a better top-1 than all epochs before it."""
        *earlier, last = self.history
        return _top1(last) > max((_top1(row) for row in earlier), default=-1.0)

    def finish_epoch(self, loss: float, lr: float, result: EvalResult | None) -> None:
        """Add the row of an epoch: mean loss, last learning rate and, if it was validated, the result."""
        row: HistoryRow = {"epoch": len(self.history) + 1, "loss": loss, "lr": lr}
        if result:
            row |= {"val_loss": result.loss, "top1": result.top1, "top5": result.top5}
        self.history.append(row)
        self.losses = []


def _top1(row: HistoryRow) -> float:
    return row.get("top1", -1.0)
