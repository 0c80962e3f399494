"""Curves and the confusion matrix."""
import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.checkpoint.record import History
from src.reports.figures import MOST_DOTS, confusion_png, curve_svgs, draw_curves, write_confusion, write_table

HISTORY: History = [{"epoch": 1, "loss": 2.0, "lr": 0.1, "val_loss": 1.5, "top1": 0.5, "top5": 0.9},
                    {"epoch": 2, "loss": 1.0, "lr": 0.05, "val_loss": 1.0, "top1": 0.75, "top5": 1.0}]


def read_table(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_curves_as_a_table_and_an_image(tmp_path: Path) -> None:
    write_table(HISTORY, tmp_path / "curves.csv")
    draw_curves(HISTORY, tmp_path / "curves.png")
    assert read_table(tmp_path / "curves.csv") == HISTORY
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 2 * image.height  # three plots side by side
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10


def test_curves_are_drawn_without_validation(tmp_path: Path) -> None:
    history: History = [{"epoch": 1, "loss": 2.0, "lr": 0.1}]
    write_table(history, tmp_path / "curves.csv")
    draw_curves(history, tmp_path / "curves.png")
    assert read_table(tmp_path / "curves.csv") == history
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("classes", [2, 60])
def test_the_confusion_matrix_is_drawn(classes: int, tmp_path: Path) -> None:
    confusion = np.eye(classes, dtype=np.int64) * 3
    confusion[0, 1] = 2
    write_confusion(confusion, [f"class {i}" for i in range(classes)], tmp_path / "plots" / "confusion.png")
    with Image.open(tmp_path / "plots" / "confusion.png") as image:
        assert image.format == "PNG"
        blue = (np.asarray(image.convert("RGB")).astype(int) * [-1, 0, 1]).sum(axis=2) > 50
    assert blue.mean() > 0.5 / classes * 0.3  # the diagonal is dark blue


def test_a_class_without_images_does_no_harm(tmp_path: Path) -> None:
    write_confusion(np.array([[2, 0], [0, 0]]), ["a", "b"], tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_names_of_classes_are_drawn_letter_by_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as formulas; and what matplotlib's own font lacks (both letters here) comes from one that is installed."""
    def draw(name: str) -> bytes:
        write_confusion(np.eye(2, dtype=np.int64), [name, "b"], tmp_path / "c.png")
        return (tmp_path / "c.png").read_bytes()

    assert len({draw(name) for name in ("$\\frac$", "$x$", "x")}) == 3
    letter, other = "\u1d8d", "\u1d8e"
    assert draw(letter) == draw(other)
    monkeypatch.setattr("src.reports.lettering.CJK_FONTS", ("Nobody Has This", "STIXGeneral"))
    assert draw(letter) != draw(other)


def test_curves_for_a_page_take_the_readers_colour() -> None:
    images = curve_svgs(HISTORY)
    assert list(images) == ["loss", "learning rate", "validation accuracy"]
    for image in images.values():
        assert image.startswith(b"<svg")
        assert b"currentColor" in image
        assert b"prefers-color-scheme:dark" in image
        assert b"#000000" not in image
    assert list(curve_svgs([{"epoch": 1, "loss": 2.0, "lr": 0.1}])) == ["loss", "learning rate"]
    assert curve_svgs([]) == {}


@pytest.mark.parametrize("classes", [40, 2 * MOST_DOTS + 1])
def test_rare_mistakes_show_in_a_matrix_of_many_classes(classes: int) -> None:
    confusion = np.eye(classes, dtype=np.int64) * 49
    confusion[classes - 1, 0] = 1  # one of fifty
    with Image.open(io.BytesIO(confusion_png(confusion))) as image:
        brightness = np.asarray(image.convert("L")).astype(int)
    side = {40: 40, 2 * MOST_DOTS + 1: 334}[classes]  # three classes to a dot
    assert brightness.shape == (side, side)
    background = np.median(brightness)
    assert (np.diag(brightness) > background + 100).all()
    assert brightness[-1, 0] > background + 15
    assert (brightness > background).sum() == side + 1
