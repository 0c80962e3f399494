"""What `eval.py` found as files for other programs: all metrics as JSON, and a CSV row for each image."""
import csv
import json
from pathlib import Path

from src.confidence import ConfidenceCheck
from src.data.image_folder import ImageFolder
from src.deployment.model_file import ModelFile
from src.files import atomic_write
from src.metrics import F1, PRECISION, RECALL, EvalResult, class_scores, wilson_interval
from src.names import escape_name
from src.reports.confidence_section import as_json


def write_metrics(result: EvalResult, folder: ImageFolder, model: ModelFile, confidence: ConfidenceCheck | None,
                  path: Path) -> None:
    """Write all metrics of an evaluation as JSON. `..._95` are 95 % intervals.

    Raises:
        UserError: the file cannot be written.
    """
    scores, support = class_scores(result.confusion), result.confusion.sum(axis=1)
    values = {
        "model": escape_name(model.path),
        "dataset": escape_name(folder.root),
        "images": result.images,
        "top1": result.top1,
        "top1_95": wilson_interval(result.correct1, result.images),
        "top5": result.top5,
        "top5_95": wilson_interval(result.correct5, result.images),
        "balanced_accuracy": result.balanced_accuracy,
        "macro_f1": result.macro_f1,
        "loss": result.loss,
        "classes": [{"class": escape_name(name), "images": int(support[i]), "precision": scores[i, PRECISION],
                     "recall": scores[i, RECALL], "f1": scores[i, F1]} for i, name in enumerate(folder.classes)],
        "confusion": result.confusion.tolist(),
        "confidence": as_json(confidence) if confidence else None,
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def write_scored(result: EvalResult, folder: ImageFolder, confidence: ConfidenceCheck | None, path: Path) -> None:
    """Write a CSV row for each image: file, class, predicted class, its probability, cross entropy, whether right.

    The last column is the calibrated probability. It is empty for an image whose logits were not kept.

    Raises:
        UserError: the file cannot be written.
    """
    classes = [escape_name(name) for name in folder.classes]
    calibrated = {position: f"{probability:.6f}" for position, probability in zip(
        confidence.positions.tolist(), confidence.calibrated.tolist(), strict=True)} if confidence else {}
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "class", "predicted", "probability", "loss", "right", "calibrated"])
        for position, (name, image) in enumerate(zip(folder.files, result.judged, strict=True)):
            table.writerow([escape_name(name), classes[image["label"]], classes[image["predicted"]],
                            f"{image['probability']:.6f}", f"{image['loss']:.6f}", int(image["right1"]),
                            calibrated.get(position, "")])
