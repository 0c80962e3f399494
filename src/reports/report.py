"""The report of a run or of an evaluation: one HTML file without scripts, which needs no network."""
import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.checkpoint.record import History
from src.confidence import ConfidenceCheck
from src.data.images import thumbnail
from src.files import atomic_write
from src.metrics import F1, class_scores
from src.names import ESCAPED, escape_name
from src.reports.confidence_section import EXPLANATIONS, advice, calibration
from src.reports.figures import confidence_svgs, confusion_png, curve_svgs

MOST_LABEL_ERRORS = 24  # likely label errors to show
NAMED_CLASSES = 30  # with more classes the confusion matrix is an image without names and numbers
MOST_PAIRS = 12  # most confused pairs of classes to show
THUMBNAIL = 128  # pixels
JPEG_QUALITY = 80
HEAD_BYTES = 2000  # at the beginning of the file, which have its mark


@dataclass(frozen=True)
class Evaluated:
    """An evaluation as a report shows it.

    `files` are those of the `mistakes` (see `src.metrics.EvalResult`), relative to `root`. `overlays` has images with
    their class activation maps, by their position among them. `confidence_note` says where its temperature is from.
    """

    title: str  # which weights were evaluated
    classes: Sequence[str]
    confusion: np.ndarray
    mistakes: np.ndarray
    root: Path
    files: Sequence[str]
    overlays: Mapping[int, Image.Image] = field(default_factory=dict)
    confidence: ConfidenceCheck | None = None
    confidence_note: str = ""


@dataclass(frozen=True)
class Folds:
    """What a cross-validation adds to a report. `files` are those of `label_errors`, relative to the evaluated root."""

    rows: Sequence[Sequence[str]]  # fold, images, top-1, balanced accuracy, macro F1, top-1 of the best epoch
    means: Sequence[str]  # of the same columns
    label_errors: np.ndarray  # `src.data.label_errors.LABEL_ERROR`s, the most likely first
    files: Sequence[str]
    final_command: str  # shell lines that train a network on all images


@dataclass(frozen=True)
class Report:
    """The content of a report. Empty parts are left out."""

    title: str
    state: str  # a sentence, such as: Finished after 30 steps.
    facts: dict[str, str]  # the most important figures
    settings: dict[str, Any]  # the whole configuration
    changed: dict[str, Any]  # keys that differ from the default
    command: str  # shell lines that repeat the run
    environment: dict[str, str]
    history: History = field(default_factory=list)
    evaluated: Evaluated | None = None
    folds: Folds | None = None  # of a cross-validation, whose images are `evaluated`
    seconds: dict[str, float] = field(default_factory=dict)  # of each part of the run
    next_steps: Mapping[str, str] = field(default_factory=dict)  # shell lines, by what they are for


def write_report(report: Report, path: Path, mark: str = "") -> None:
    """Write a report.

    Args:
        report: its content.
        path: the HTML file.
        mark: a text in the file by which `is_report_of` recognises it.

    Raises:
        UserError: the file cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["percent"] = "{:.1%}".format
    columns = list(dict.fromkeys(column for row in report.history for column in row))
    page = environment.get_template("report.html.jinja").render(
        report=report, columns=columns, mark=mark,
        curves={name: _data_url(svg, "image/svg+xml") for name, svg in curve_svgs(report.history).items()},
        **_of_evaluation(report.evaluated), label_errors=_label_errors(report.folds, report.evaluated))
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors=ESCAPED)


def is_report_of(path: Path, mark: str) -> bool:
    """Whether a file is a report with this mark."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return f'<meta name="state" content="{mark}">'.encode() in head


def confused_pairs(confusion: np.ndarray) -> list[tuple[int, int, int]]:
    """(true class, predicted class, images) of the most frequent mistakes, at most `MOST_PAIRS`."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = ((int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True))
    return [(i, j, int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def _of_evaluation(evaluated: Evaluated | None) -> dict[str, Any]:
    """The values of the template that come from an evaluation."""
    if evaluated is None:
        return {}
    classes, confusion = [escape_name(name) for name in evaluated.classes], evaluated.confusion
    check, mistakes = evaluated.confidence, evaluated.mistakes
    calibrated = check.calibrated_at(mistakes["position"]) if check else None
    probabilities = mistakes["probability"] if calibrated is None else calibrated
    scores, support = class_scores(confusion), confusion.sum(axis=1)
    matrix = confusion.tolist() if len(classes) <= NAMED_CLASSES else None
    weakest = np.lexsort((-support, scores[:, F1]))
    return {
        "matrix": matrix,
        "matrix_image": "" if matrix else _data_url(confusion_png(confusion), "image/png"),
        "support": support.tolist(),
        "class_rows": [(classes[i], *scores[i].tolist(), int(support[i])) for i in weakest],
        "mean_scores": scores.mean(axis=0).tolist(),
        "pairs": [(classes[i], classes[j], images, images / int(support[i]))
                  for i, j, images in confused_pairs(confusion)],
        "mistakes": [{"image": _thumbnail(evaluated.root / name), "name": escape_name(name),
                      "overlay": _jpeg(evaluated.overlays[position]) if position in evaluated.overlays else "",
                      "label": classes[mistake["label"]], "predicted": classes[mistake["predicted"]],
                      "probability": float(probabilities[position])}
                     for position in np.argsort(-probabilities, kind="stable").tolist()
                     for mistake, name in [(mistakes[position], evaluated.files[position])]],
        "is_calibrated": calibrated is not None,
        "confidence": _of_confidence(check),
    }


def _of_confidence(check: ConfidenceCheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    return {"advice": advice(check), "calibration": calibration(check),
            "figures": [(name, EXPLANATIONS[name], _data_url(svg, "image/svg+xml"))
                        for name, svg in confidence_svgs(check).items()]}


def _label_errors(folds: Folds | None, evaluated: Evaluated | None) -> list[dict[str, Any]]:
    """The likely label errors that the template shows."""
    if folds is None or evaluated is None:
        return []
    classes = [escape_name(name) for name in evaluated.classes]
    shown = zip(folds.label_errors[:MOST_LABEL_ERRORS], folds.files[:MOST_LABEL_ERRORS], strict=True)
    return [{"image": _thumbnail(evaluated.root / name), "name": escape_name(name), "label": classes[error["label"]],
             "likely": classes[error["likely"]], "given": float(error["given"]), "other": float(error["other"])}
            for error, name in shown]


def _thumbnail(path: Path) -> str:
    """A small version of an image as a data URL; empty if the image cannot be read."""
    try:
        return _jpeg(thumbnail(path, THUMBNAIL))
    except Exception:  # noqa: BLE001 - decoders raise many types of error
        return ""


def _jpeg(image: Image.Image) -> str:
    """An image as a data URL, at most `THUMBNAIL` pixels wide and high."""
    small, content = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(content, "JPEG", quality=JPEG_QUALITY)
    return _data_url(content.getvalue(), "image/jpeg")


def _data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
