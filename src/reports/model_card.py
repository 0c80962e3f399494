"""The model card of a run: its report's facts as Markdown, for those who get the weights without the run.

The parts are those of Mitchell et al., "Model Cards for Model Reporting", https://arxiv.org/abs/1810.03993. The lines
at the beginning are metadata in the form that Hugging Face reads.
"""
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.data.image_folder import ImageFolder
from src.errors import list_some
from src.files import atomic_write
from src.metrics import F1, PRECISION, class_scores, wilson_interval
from src.model_utils.keys import KEYS
from src.names import ESCAPED, escape_name
from src.reports.report import Report

FILE = "MODEL_CARD.md"
FEW_IMAGES = 30  # validation images of a class, with fewer its recall is rough
WEAKEST = 5  # classes that the limits name
MARKDOWN = re.compile(r"([\\`*_\[\]<>#|&~$])")  # what may mean something within a line of Markdown
# Parts of a report that a card leaves out: they are of the machine, or stand elsewhere in the card.
LEFT_OUT = ("Interpreter", "Operating system", "Processor", "training images a second", "classes")


@dataclass(frozen=True)
class CardClass:
    """A class as a card shows it. Without validation images all but the first two values are empty."""

    name: str
    training: int  # images
    validation: int = 0
    recall: str = ""
    precision: str = ""


def write_model_card(report: Report, train_folder: ImageFolder, weights: str, path: Path) -> None:
    """Write the model card of a run.

    Args:
        report: of the run.
        train_folder: the training images.
        weights: the name of the checkpoint that the card is about.
        path: the Markdown file.

    Raises:
        UserError: the file cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    # Markdown, not HTML: every name is escaped by the filter `plain`.
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True,  # noqa: S701
                              lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["plain"] = escape_markdown
    classes = list(_classes(report, train_folder))
    card = environment.get_template("model_card.md.jinja").render(
        report=report, weights=weights, classes=classes, data_name=Path(report.settings["dataset_path"]).resolve().name,
        training_images=len(train_folder), digest=train_folder.digest(), recipe=_recipe(report),
        versions=_shown(report.environment), metrics=_shown(report.facts),
        limits=list(_limits(report, classes)))
    with atomic_write(path) as temporary:
        temporary.write_text(card, encoding="utf-8", errors=ESCAPED)


def escape_markdown(value: object) -> str:
    """A value as one line of Markdown that shows the text itself, whatever a folder or a class is called."""
    return MARKDOWN.sub(r"\\\1", escape_name(str(value)))


def _shown(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if name not in LEFT_OUT}


def _classes(report: Report, train_folder: ImageFolder) -> Iterator[CardClass]:
    training = np.bincount(train_folder.labels, minlength=len(train_folder.classes)).tolist()
    if report.evaluated is None:
        yield from map(CardClass, train_folder.classes, training)
        return
    confusion = report.evaluated.confusion
    scores = class_scores(confusion)
    for index, (name, images) in enumerate(zip(train_folder.classes, training, strict=True)):
        right, validation = int(confusion[index, index]), int(confusion[index].sum())
        low, high = wilson_interval(right, validation) if validation else (0.0, 1.0)
        recall = f"{right / validation:.1%} ({low:.1%} to {high:.1%})" if validation else "unknown"
        yield CardClass(name, images, validation, recall, f"{scores[index, PRECISION]:.1%}")


def _recipe(report: Report) -> dict[str, Any]:
    """The keys that say how the weights came about. Of a file only the name is shown: folders are nobody's business."""
    changed = {key: value for key, value in report.changed.items() if KEYS[key].affects_result}
    shown = {"platform": report.settings["platform"], "recipe": report.settings["recipe"],
             "image_size": report.settings["image_size"], "width_mult": report.settings["width_mult"], **changed}
    if report.settings["kd_teacher"]:
        shown["kd_teacher"] = report.settings["kd_teacher"]
    return {key: Path(value).name if key in {"pretrain_ckpt", "kd_teacher"} else value for key, value in shown.items()}


def _limits(report: Report, classes: list[CardClass]) -> Iterator[str]:
    """Sentences about what the network must not be trusted with."""
    yield (f"It knows these {len(classes)} classes alone. An image of anything else gets one of them, too, often with "
           "a high probability.")
    yield ("The scores hold for images like those of the data set. Other cameras, places, light or people were not "
           "tested, and nobody looked for unfairness to groups of people.")
    evaluated = report.evaluated
    if evaluated is None:
        yield "No image was scored, so nobody knows how often it is right."
        return
    if "test images" not in report.facts:
        yield ("The best epoch was chosen on the validation images, so their score is a little too good. Images in "
               "test/ would tell more.")
    if few := [one.name for one in classes if one.validation < FEW_IMAGES]:
        yield (f"Fewer than {FEW_IMAGES} validation images: {list_some(few, WEAKEST)}. The recall of these classes is "
               "rough.")
    f1 = class_scores(evaluated.confusion)[:, F1]
    if weak := [classes[index].name for index in np.argsort(f1, kind="stable")[:WEAKEST] if f1[index] < 1]:
        yield f"Weakest by F1: {list_some(weak, WEAKEST)}."
    if evaluated.confidence is None:
        yield "How far its probabilities can be trusted was not measured."
