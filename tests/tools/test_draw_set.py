"""Drawn data sets: whole, the same for the same seed, and of kinds that differ."""
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_clear_line, run_script
from PIL import Image

from src.data.image_folder import ImageFolder
from tools import draw_set
from tools.draw_set import main


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_set, "IMAGES", {kind: {"train": 2, "val": 1} for kind in draw_set.IMAGES})


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}


@pytest.mark.parametrize(("kind", "classes"), [("textures", 8), ("fonts", 10)])
def test_an_image_folder_that_a_seed_repeats(kind: str, classes: int, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        main(["--kind", kind, "--output", str(tmp_path / name), "--seed", str(seed)])
    one, other = content(tmp_path / "one"), content(tmp_path / "other")
    assert content(tmp_path / "again") == one
    assert len({*one.values(), *other.values()}) == 2 * 3 * classes
    train, val = ImageFolder.scan(tmp_path / "one" / "train"), ImageFolder.scan(tmp_path / "one" / "val")
    assert train.classes == val.classes
    assert len(train.classes) == classes
    np.testing.assert_array_equal(np.bincount(train.labels), 2)
    with Image.open(train.root / train.files[0]) as image:
        assert image.mode == "RGB"
        assert np.asarray(image).std() > 5


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = run_script("tools/draw_set.py", "--kind", "fonts", "--output", tmp_path)
    assert_one_clear_line(result, "already exists and is not an empty folder")
    assert (tmp_path / "notes.txt").read_text() == "mine"
