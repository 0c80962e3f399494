"""--sort_into: copies by class, which never take the place of another file."""
import os
from pathlib import Path

import pytest
from conftest import Images

from src.deployment.prediction import Prediction
from src.deployment.sorted_copies import UNSURE, check_target, class_folder, sort_into
from src.errors import UserError


def prediction(path: Path, content: str, name: str = "cat", **more: object) -> Prediction:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return Prediction(path, (name,), (0.9,), **more)  # type: ignore[arg-type]


def content_below(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_each_image_goes_to_its_class_and_unsure_ones_apart(tmp_path: Path) -> None:
    found = [prediction(tmp_path / "in" / "a.jpg", "1"),
             prediction(tmp_path / "in" / "b.jpg", "2", "dog", unsure=False),
             prediction(tmp_path / "in" / "c.jpg", "3", unsure=True), Prediction(tmp_path / "bad.jpg", fault="empty")]
    line = sort_into(found, tmp_path / "out")
    assert content_below(tmp_path / "out") == {"cat/a.jpg": "1", "dog/b.jpg": "2", "unsure/c.jpg": "3"}
    assert line == f"sorted into {tmp_path}/out: 3 new copies; of these images 1 in cat/, 1 in dog/, 1 in unsure/"
    assert content_below(tmp_path / "in") == {"a.jpg": "1", "b.jpg": "2", "c.jpg": "3"}


def test_what_is_there_stays_and_the_same_is_not_copied_twice(tmp_path: Path) -> None:
    found = [prediction(tmp_path / folder / "a.jpg", folder) for folder in ("x", "y", "z")]
    (tmp_path / "out" / "cat").mkdir(parents=True)
    (tmp_path / "out" / "cat" / "a.jpg").write_text("mine")
    (tmp_path / "out" / "cat" / "a-2.jpg").symlink_to("nowhere")
    wanted = {"cat/a.jpg": "mine", "cat/a-3.jpg": "x", "cat/a-4.jpg": "y", "cat/a-5.jpg": "z"}
    for again in "3 new copies; of", "0 new copies; 3 were there before; of":
        assert again in sort_into(found, tmp_path / "out")
        assert content_below(tmp_path / "out") == wanted
    assert (tmp_path / "out" / "cat" / "a-2.jpg").is_symlink()


def test_folders_of_classes_are_safe_and_different(tmp_path: Path) -> None:
    names = ["cat", "a/b", r"a\x2fb", "a_b", "..", ".", ".hidden", "", UNSURE, r"\x75nsure", "é", "x" * 300, "x" * 301,
             "line\nbreak", os.fsdecode(b"\xe9")]
    folders = [class_folder(name) for name in names]
    assert len(set(folders)) == len(names)
    assert UNSURE not in folders
    assert folders[0] == "cat"
    for folder in folders:
        assert "/" not in folder
        assert not folder.startswith(".")
        (tmp_path / folder).mkdir()
    assert len(list(tmp_path.iterdir())) == len(names)


def test_a_full_disk_is_told_before_anything_is_copied(small_disk: Path, tmp_path: Path) -> None:
    found = [prediction(tmp_path / "a.jpg", "1"), prediction(tmp_path / "b.jpg", "x" * 2 ** 21)]
    with pytest.raises(UserError, match="a copy of each image takes up to"):
        sort_into(found, small_disk / "out")
    assert not (small_disk / "out").exists()


def test_a_target_among_the_images_is_refused(images: Images, tmp_path: Path) -> None:
    root = images({"x": 1})
    for folder in root, root / "sorted", root / "x" / ".." / "y":
        with pytest.raises(UserError, match="a second run would take the copies for images"):
            check_target(folder, root)
    with pytest.raises(UserError, match="this is a file"):
        check_target(root / "x" / "000.jpg", tmp_path / "list.txt")
    check_target(tmp_path / "sorted", root)
    check_target(root / "sorted", root / "x" / "000.jpg")  # one image, or a list: nothing is searched
