"""Figures and tables of a run. matplotlib loads slowly, so it is imported only when a figure is drawn."""
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.checkpoint.record import History
from src.confidence import ConfidenceCheck
from src.files import atomic_write
from src.names import escape_name
from src.reports.confidence_section import COVERAGE, RELIABILITY
from src.reports.lettering import names_as_they_are

MOST_DOTS = 500  # dots in a row of the image of a confusion matrix
MOST_MARKED = 60  # with more epochs than this, a curve has no dots
LEAST_DOT, DOT_OF_ALL = 6, 300  # areas of the dots of a reliability diagram, in points: of few images, and of all more
INK = "#123456"  # a placeholder that no line uses; in an SVG it is replaced by the text colour of the page
THEME = b"<style>svg{color:#333}@media(prefers-color-scheme:dark){svg{color:#ccc}}</style>"


def write_table(history: History, path: Path) -> None:
    """Write the history as CSV, a row per epoch."""
    columns = list(dict.fromkeys(column for row in history for column in row))
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(history)


def draw_curves(history: History, path: Path) -> None:
    """Draw loss, learning rate and validation accuracy over the epochs in one figure."""
    figure, axes = _subplots(3, (13, 3.6))
    for subplot, plot in zip(axes, _CURVES.values(), strict=True):
        plot(subplot, history)
    _save(figure, path)


def curve_svgs(history: History) -> dict[str, bytes]:
    """The same curves as one SVG each, by name. Their text colour follows the light or dark theme of the page.

    Curves without values are left out.
    """
    svgs = {}
    for name, plot in _CURVES.items():
        figure, (axes,) = _subplots(1, (5.2, 3.2))
        plot(axes, history)
        if axes.lines:
            svgs[name] = _themed_svg(figure, axes)
    return svgs


def confidence_svgs(check: ConfidenceCheck) -> dict[str, bytes]:
    """The reliability diagram and the coverage-accuracy curve as one SVG each, by name, as `curve_svgs`."""
    svgs = {}
    for name, plot in ((RELIABILITY, _plot_reliability), (COVERAGE, _plot_coverage)):
        figure, (axes,) = _subplots(1, (5.2, 3.2))
        plot(axes, check)
        svgs[name] = _themed_svg(figure, axes)
    return svgs


def confusion_png(confusion: np.ndarray) -> bytes:
    """The confusion matrix as an image: a row per true class, brighter for a larger fraction of its images.

    A dot is a pair of classes, or a block of pairs if there are more than `MOST_DOTS` classes. The brightness is the
    square root of the fraction, so that rare mistakes are visible.
    """
    from matplotlib import colormaps
    from PIL import Image
    block = -(-len(confusion) // MOST_DOTS)
    side = -(-len(confusion) // block)
    missing = side * block - len(confusion)
    shares = np.pad(_shares(confusion), ((0, missing), (0, missing)))
    largest = shares.reshape(side, block, side, block).max(axis=(1, 3))
    pixels = (colormaps["viridis"](np.sqrt(largest))[..., :3] * 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", optimize=True)
    return content.getvalue()


@names_as_they_are()
def write_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw the confusion matrix: a row per true class, with the fraction of its images predicted as each class."""
    side = min(40.0, 3 + 0.32 * len(classes))
    figure, (axes,) = _subplots(1, (side, side))
    shares = _shares(confusion)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(classes)), yticks=range(len(classes)),
             title=f"top-1 {np.trace(confusion) / max(1, confusion.sum()):.2%} of {confusion.sum()} images")
    names = [escape_name(name) for name in classes]
    axes.set_xticklabels(names, rotation=90)
    axes.set_yticklabels(names)
    for row, column in np.argwhere(confusion) if len(classes) <= 50 else ():
        axes.text(column, row, confusion[row, column], ha="center", va="center", fontsize=7,
                  color="white" if shares[row, column] > 0.5 else "black")
    _save(figure, path)


def _shares(confusion: np.ndarray) -> np.ndarray:
    """The fraction of each true class's images that was predicted as each class."""
    return confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))


def _plot_loss(axes: Any, history: History) -> None:  # noqa: ANN401 - matplotlib's own type
    _line(axes, history, "loss", "training")
    _line(axes, history, "val_loss", "validation")
    _finish(axes, "loss")


def _plot_lr(axes: Any, history: History) -> None:  # noqa: ANN401 - matplotlib's own type
    _line(axes, history, "lr", None)
    _finish(axes, "learning rate at the end of the epoch")


def _plot_accuracy(axes: Any, history: History) -> None:  # noqa: ANN401 - matplotlib's own type
    _line(axes, history, "top1", "top-1")
    _line(axes, history, "top5", "top-5")
    _finish(axes, "validation accuracy")


def _plot_reliability(axes: Any, check: ConfidenceCheck) -> None:  # noqa: ANN401 - matplotlib's own type
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=1)
    for diagram, label in ((check.before, "network's own"), (check.after, "calibrated")):
        filled = diagram.images > 0
        line, = axes.plot(diagram.probability[filled], diagram.accuracy[filled], label=label, linewidth=1)
        axes.scatter(diagram.probability[filled], diagram.accuracy[filled], color=line.get_color(),
                     s=LEAST_DOT + DOT_OF_ALL * diagram.images[filled] / diagram.images.sum())
    axes.set(xlabel="probability of the answer", ylabel="share of right answers", xlim=(0, 1.06), ylim=(0, 1.06))
    axes.legend()


def _plot_coverage(axes: Any, check: ConfidenceCheck) -> None:  # noqa: ANN401 - matplotlib's own type
    curve = check.curve
    axes.plot(curve.coverage, curve.accuracy)
    axes.axhline(check.target, color=INK, alpha=0.4, linewidth=1, linestyle="--", label="wanted")
    if (sure := check.sure).any():
        axes.plot([sure.mean()], [check.right[sure].mean()], "o", markersize=7, label="at the threshold")
    axes.set(xlabel="share of the images that are sure enough", ylabel="share of right answers", xlim=(0, 1.02))
    axes.legend()


_CURVES = {"loss": _plot_loss, "learning rate": _plot_lr, "validation accuracy": _plot_accuracy}


def _subplots(columns: int, size: tuple[float, float]) -> Any:  # noqa: ANN401 - matplotlib's own types
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _line(axes: Any, history: History, column: str, label: str | None) -> None:  # noqa: ANN401 - matplotlib's own type
    rows = [row for row in history if column in row]
    if rows:
        axes.plot([row["epoch"] for row in rows], [row[column] for row in rows], label=label,
                  marker="." if len(rows) <= MOST_MARKED else None)


def _finish(axes: Any, title: str) -> None:  # noqa: ANN401 - matplotlib's own type
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(axes.lines) > 1:
        axes.legend()


def _themed_svg(figure: Any, axes: Any) -> bytes:  # noqa: ANN401 - matplotlib's own types
    import matplotlib as mpl
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.grid(color=INK, alpha=0.15)
    axes.set_title("")  # the page has the title
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.get_legend()
    for text in (axes.xaxis.label, axes.yaxis.label, axes.yaxis.offsetText, *(legend.get_texts() if legend else ())):
        text.set_color(INK)
    axes.tick_params(colors=INK)
    axes.spines[:].set_color(INK)
    if legend:
        legend.set_frame_on(False)
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "curves"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    drawn = content.getvalue()
    start = drawn.index(b"<svg")  # leaves out the DOCTYPE, which has a URL
    head, tail = drawn[start:].split(b">", 1)
    return head + b">" + THEME + tail.replace(INK.encode(), b"currentColor")


def _save(figure: Any, path: Path) -> None:  # noqa: ANN401 - matplotlib's own type
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
