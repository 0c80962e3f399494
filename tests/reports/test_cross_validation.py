"""What the folds say together: figures, files and report."""
import csv
import dataclasses
import json
from pathlib import Path

import html5lib
import numpy as np
import pytest
from conftest import config_for, make_images

from src.data.image_folder import ImageFolder
from src.metrics import wilson_interval
from src.reports.cross_validation import CrossValidation, cross_validation_report, write_folds, write_label_errors
from src.reports.report import write_report

CLASSES = ("<b>&amp;", "fig", "pear")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> CrossValidation:
    """12 images in 2 folds. All are right but for one of class 0, which is surely of class 2."""
    root = make_images(tmp_path_factory.mktemp("photos"), dict.fromkeys(CLASSES, 4))
    folder = ImageFolder.scan(root)
    logits = 3 * np.eye(3, dtype=np.float32)[folder.labels]
    logits[1] = (-4, 0, 5)
    history = [{"epoch": 1, "loss": 1.0, "lr": 0.1, "top1": 0.9}, {"epoch": 2, "loss": 1.0, "lr": 0.1, "top1": 0.8}]
    return CrossValidation(folder, np.arange(12) % 2, logits, [history, history])


def test_figures_are_those_of_numpy(result: CrossValidation, tmp_path: Path) -> None:
    write_folds(result, tmp_path / "folds.json")
    values = json.loads((tmp_path / "folds.json").read_text(encoding="utf-8"))
    assert [fold["top1"] for fold in values["folds"]] == [1, 5 / 6]  # the wrong image is in the second fold
    assert [fold["balanced_accuracy"] for fold in values["folds"]] == [1, pytest.approx((0.5 + 1 + 1) / 3)]
    assert [(fold["best_epoch"], fold["best_top1"]) for fold in values["folds"]] == [(1, 0.9)] * 2
    assert values["top1"] == {"mean": pytest.approx(11 / 12), "deviation": pytest.approx(np.std([1, 5 / 6], ddof=1))}
    assert values["all_images"]["top1"] == 11 / 12
    assert values["all_images"]["top1_95"] == list(wilson_interval(11, 12))
    assert values["all_images"]["confusion"] == [[3, 0, 1], [0, 4, 0], [0, 0, 4]]
    assert values["likely_label_errors"] == 1
    assert "'acc': 0.916667, 'acc_deviation': 0.117851, 'images': 12" in str(result)


def test_likely_label_errors_have_a_table(result: CrossValidation, tmp_path: Path) -> None:
    write_label_errors(result, tmp_path / "label_errors.csv")
    with (tmp_path / "label_errors.csv").open(newline="", encoding="utf-8") as file:
        row, = csv.DictReader(file)
    powers = np.exp([-4, 0, 5])
    assert (row["file"], row["class"], row["likely_class"]) == (result.folder.files[1], CLASSES[0], "pear")
    assert row["fold"] == "2"
    assert float(row["probability"]) == pytest.approx(powers[0] / powers.sum(), abs=1e-5)
    assert float(row["likely_probability"]) == pytest.approx(powers[2] / powers.sum(), abs=1e-5)
    assert float(row["margin"]) == pytest.approx((powers[0] - powers[2]) / powers.sum(), abs=1e-5)


def page_of(result: CrossValidation, path: Path) -> str:
    """What a reader sees of the report; only valid HTML passes."""
    write_report(cross_validation_report(result, config_for("--dataset_path", path), None, "cd here\npython train.py"),
                 path / "report.html")
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    tree = parser.parse((path / "report.html").read_text(encoding="utf-8"))
    assert all(image.get("src", "").startswith("data:image/") for image in tree.iter("img"))
    return " ".join(" ".join(tree.itertext()).split())


def test_the_report_shows_the_folds_and_the_label_errors(result: CrossValidation, tmp_path: Path) -> None:
    text = page_of(result, tmp_path)
    assert "top-1, mean of 2 folds 91.67% ± 11.79%" in text
    assert "2 6 83.33% (43.6% to 97.0%) 83.33% " in text
    assert "90.00% (1)" in text
    assert "another class than the one they are given: 1. Look at each" in text
    assert f"given {CLASSES[0]} 0.0% likely pear 99.3% {result.folder.files[1]}" in text
    assert "cd here python train.py" in text
    assert "Confusion matrix" in text


def test_the_report_says_that_no_label_seems_wrong(result: CrossValidation, tmp_path: Path) -> None:
    logits = 3 * np.eye(3, dtype=np.float32)[result.folder.labels]
    text = page_of(dataclasses.replace(result, logits=logits), tmp_path)
    assert "None: no network denies the class" in text
    assert "label_errors.csv" not in text
