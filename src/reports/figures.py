"""Pictures and tables that a run leaves behind. matplotlib is loaded when one is drawn: it takes its time."""
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.files import whole_file

History = list[dict[str, Any]]  # a row per epoch: epoch, loss, lr and, where validated, val_loss, top1, top5


def write_table(history: History, path: Path) -> None:
    """The curves as CSV, a row per epoch."""
    columns = list(dict.fromkeys(column for row in history for column in row))
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(history)


def draw_curves(history: History, path: Path) -> None:
    """Loss, learning rate and validation accuracy over the epochs, as a picture."""
    figure, (left, middle, right) = _subplots(3, (13, 3.6))
    _line(left, history, "loss", "training")
    _line(left, history, "val_loss", "validation")
    left.set(title="loss", xlabel="epoch")
    _line(middle, history, "lr", None)
    middle.set(title="learning rate at the end of the epoch", xlabel="epoch")
    _line(right, history, "top1", "top-1")
    _line(right, history, "top5", "top-5")
    right.set(title="validation accuracy", xlabel="epoch")
    for axes in (left, right):
        if axes.lines:
            axes.legend()
    _save(figure, path)


def write_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """The confusion matrix as a picture: a row per true class, the share of its images taken for each class."""
    side = min(40.0, 3 + 0.32 * len(classes))
    figure, (axes,) = _subplots(1, (side, side))
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(classes)), yticks=range(len(classes)),
             title=f"top-1 {np.trace(confusion) / max(1, confusion.sum()):.2%} of {confusion.sum()} images")
    axes.set_xticklabels(classes, rotation=90)
    axes.set_yticklabels(classes)
    for row, column in np.argwhere(confusion) if len(classes) <= 50 else ():
        axes.text(column, row, confusion[row, column], ha="center", va="center", fontsize=7,
                  color="white" if shares[row, column] > 0.5 else "black")
    _save(figure, path)


def _subplots(columns: int, size: tuple[float, float]) -> Any:  # noqa: ANN401 - matplotlib's own types
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _line(axes: Any, history: History, column: str, label: str | None) -> None:  # noqa: ANN401 - matplotlib's own type
    rows = [row for row in history if column in row]
    if rows:
        axes.plot([row["epoch"] for row in rows], [row[column] for row in rows], marker=".", label=label)


def _save(figure: Any, path: Path) -> None:  # noqa: ANN401 - matplotlib's own type
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
