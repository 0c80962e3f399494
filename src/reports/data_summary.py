"""Draws a data set in one figure: the number of images of each class, their sizes, samples, and near duplicates."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from src.data.images import thumbnail
from src.data.stats import DataStats, NearDuplicate, Overlap
from src.files import atomic_write
from src.names import escape_name
from src.reports.lettering import names_as_they_are

NAMED = 40  # with more classes the bars with names become a line
SHOWN, ACROSS, SAMPLES, SIDE = 24, 3, 5, 96  # classes with samples, beside each other, images of each, pixels
BAR_LETTERS, STRIP_LETTERS = 28, 48  # letters of a class name beside its bar and above its samples
PAIRS, PAIR_LETTERS = 12, 30  # near duplicates that are shown; letters of each name above them
COLOURS = ("tab:blue", "tab:orange")  # of train and of val
WIDTH, BAR, STRIP = 13.0, 0.24, 1.12  # inches: of all; height of a class's bar and of its samples


@names_as_they_are()
def draw_summary(parts: Mapping[str, DataStats], path: Path, overlap: Overlap | None = None) -> None:
    """Draw the summary as a PNG. The samples are from the first part."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    classes = sorted({name for part in parts.values() for name in part.folder.classes})
    first = next(iter(parts.values()))
    shown = [first.folder.classes[i] for i in _spread(len(first.folder.classes), SHOWN)]
    upper = max(4.0, 0.8 + BAR * len(classes)) if len(classes) <= NAMED else 4.5
    lower = 0.5 + STRIP * -(-len(shown) // ACROSS)
    pairs = overlap.near[:PAIRS] if overlap else ()
    heights = [upper, lower, *([0.5 + STRIP * -(-len(pairs) // ACROSS)] if pairs else [])]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06))
    FigureCanvasAgg(figure)
    top, middle, *bottom = figure.subfigures(len(heights), 1, height_ratios=heights)
    plots = top.subplot_mosaic([["classes", "size"], ["classes", "shape"]], width_ratios=(1.4, 1))
    _draw_counts(plots["classes"], parts, classes)
    _draw_sizes(plots["size"], plots["shape"], parts)
    if len(parts) > 1:
        top.legend(*plots["classes"].get_legend_handles_labels(), loc="outside upper right", ncols=len(parts))
    _draw_samples(middle, first, shown)
    if overlap and pairs:
        _draw_pairs(bottom[0], parts, pairs, len(overlap.near))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of `count` positions, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def short(name: str, letters: int) -> str:
    """A name cut to `letters` letters. It keeps its beginning and its end, where long names often differ."""
    name = escape_name(name)
    if len(name) <= letters:
        return name
    half = letters // 2
    return f"{name[:letters - half - 1]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def _draw_counts(axes: Any, parts: Mapping[str, DataStats], classes: list[str]) -> None:  # noqa: ANN401 - matplotlib's
    height = 0.8 / len(parts)
    for position, (name, part) in enumerate(parts.items()):
        of_class = dict(zip(part.folder.classes, part.counts.tolist(), strict=True))
        counts = [of_class.get(one, 0) for one in classes]
        if len(classes) <= NAMED:
            bars = axes.barh(np.arange(len(classes)) + position * height, counts, height, label=name,
                             color=COLOURS[position % len(COLOURS)])
            axes.bar_label(bars, fontsize=7, padding=2)
        else:
            axes.step(np.arange(len(classes)), sorted(counts, reverse=True), where="mid", label=name,
                      color=COLOURS[position % len(COLOURS)])
    axes.set_title(f"images of each of {len(classes)} classes")
    if len(classes) <= NAMED:
        axes.set_yticks(np.arange(len(classes)) + 0.4 - height / 2)
        axes.set_yticklabels([short(one, BAR_LETTERS) for one in classes], fontsize=9)
        axes.set_ylim(len(classes) - 0.5 + height / 2, -0.5 - height / 2)
        axes.margins(x=0.08)
    else:
        axes.set(xlabel="classes, by their number of images", ylabel="images")
        axes.set_ylim(bottom=0)


def _draw_sizes(size: Any, shape: Any, parts: Mapping[str, DataStats]) -> None:  # noqa: ANN401 - matplotlib's own types
    sizes = {name: part.known_sizes for name, part in parts.items() if len(part.known_sizes)}
    values = {"shorter side, pixels": (size, {name: found.min(axis=1) for name, found in sizes.items()}),
              "width / height": (shape, {name: found[:, 0] / found[:, 1] for name, found in sizes.items()})}
    for label, (axes, found) in values.items():
        axes.set(xlabel=label, ylabel="images")
        if found:
            axes.hist(list(found.values()), bins=_bins(np.concatenate(list(found.values()))), label=list(found),
                      color=COLOURS[:len(found)], stacked=True)
    size.set_title("their sizes")


def _bins(values: np.ndarray) -> np.ndarray:
    """Edges of 30 bins, also if all values are the same."""
    low, high = float(values.min()), float(values.max())
    if high - low < 0.1 * high:  # else the bins would be too narrow
        middle = (low + high) / 2
        low, high = 0.85 * middle, 1.15 * middle
    return np.linspace(low, high, 31)


def _draw_pairs(figure: Any, parts: Mapping[str, DataStats], pairs: Sequence[NearDuplicate],  # noqa: ANN401
                count: int) -> None:
    """Validation images, each beside the training image that looks most like it."""
    grid = figure.subplots(-(-len(pairs) // ACROSS), ACROSS, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, pair in zip(grid, pairs, strict=False):
        names = [name.partition("/") for name in (pair.val, pair.train)]
        axes.imshow(_side_by_side([parts[part].folder.root / file for part, _, file in names]), interpolation="none")
        axes.set_title(f"{short(pair.val, PAIR_LETTERS)} ~ {short(pair.train, PAIR_LETTERS)}", fontsize=8, loc="left",
                       pad=2)
    figure.suptitle(f"validation images that look like a training image: {len(pairs)} of {count}")


def _draw_samples(figure: Any, part: DataStats, shown: list[str]) -> None:  # noqa: ANN401 - matplotlib's own type
    grid = figure.subplots(-(-len(shown) // ACROSS), ACROSS, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, name in zip(grid, shown, strict=False):
        axes.imshow(_strip(part, name), interpolation="none")
        axes.set_title(short(name, STRIP_LETTERS), fontsize=9, loc="left", pad=2)
    classes = len(part.folder.classes)
    figure.suptitle("samples" if len(shown) == classes else f"samples of {len(shown)} of the {classes} classes")


def _strip(part: DataStats, name: str) -> Image.Image:
    """Some images of a class side by side, cropped to squares; a crossed box for one that cannot be read."""
    label = part.folder.classes.index(name)
    files = [part.folder.files[i] for i in np.flatnonzero(part.folder.labels == label)]
    return _side_by_side([part.folder.root / files[i] for i in _spread(len(files), SAMPLES)])


def _side_by_side(paths: Sequence[Path]) -> Image.Image:
    """Up to `SAMPLES` images on a white strip, cropped to squares."""
    strip = Image.new("RGB", (SAMPLES * (SIDE + 4) - 4, SIDE), "white")
    for position, path in enumerate(paths):
        strip.paste(_sample(path), (position * (SIDE + 4), 0))
    return strip


def _sample(path: Path) -> Image.Image:
    try:
        return ImageOps.fit(thumbnail(path, 2 * SIDE), (SIDE, SIDE))
    except Exception:  # decoders raise many types of error
        field = Image.new("RGB", (SIDE, SIDE), "lightgrey")
        draw = ImageDraw.Draw(field)
        draw.line((0, 0, SIDE, SIDE), "red", 2)
        draw.line((0, SIDE, SIDE, 0), "red", 2)
        return field
