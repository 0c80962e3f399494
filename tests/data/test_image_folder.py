"""Image folders: what counts as a class and as an image, and where train and val lie."""
from pathlib import Path

import numpy as np
import pytest
from conftest import Images
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.image_folder import ImageFolder
from src.data.sources import Source, eval_source, train_source, validation_source
from src.errors import UserError


def test_classes_are_the_sorted_names_of_folders_with_images(images: Images) -> None:
    root = images({"b": 2, "a": 1, "Z": 3})
    folder = ImageFolder.scan(root)
    assert folder.classes == ("Z", "a", "b")
    assert folder.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert folder.files == ("Z/000.jpg", "Z/001.jpg", "Z/002.jpg", "a/000.jpg", "b/000.jpg", "b/001.jpg")
    assert len(folder) == 6


def test_hidden_empty_and_other_entries_never_count(images: Images) -> None:
    root = images({"cat": 2, "dog": 1, ".cache": 2, "ape": 1})
    (root / "ape" / "000.jpg").rename(root / "ape" / ".000.jpg")  # only a hidden image: no class
    (root / "bear").mkdir()
    (root / "crab").mkdir()
    (root / "crab" / "notes.txt").write_text("no image")
    (root / "loose.jpg").write_bytes(b"not in a class")
    (root / "cat" / ".hidden.jpg").write_bytes(b"")
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / "more").mkdir()
    folder = ImageFolder.scan(root)
    assert folder.classes == ("cat", "dog")
    assert folder.files == ("cat/000.jpg", "cat/001.jpg", "dog/000.jpg")


def test_endings_count_in_any_case(images: Images) -> None:
    root = images({"cat": 1, "dog": 1})
    (root / "cat" / "000.jpg").rename(root / "cat" / "A.JPG")
    (root / "dog" / "000.jpg").rename(root / "dog" / "photo.of.dog.JpEg")
    folder = ImageFolder.scan(root)
    assert folder.files == ("cat/A.JPG", "dog/photo.of.dog.JpEg")


def test_every_image_below_a_class_belongs_to_it(images: Images) -> None:
    root = images({"cat": 1, "cat/album.jpg": 1, "cat/more/of/them": 2, "cat/.thumbs": 1, "cat/__MACOSX": 1, "dog": 1})
    (root / "cat" / "without_ending").write_bytes((root / "dog" / "000.jpg").read_bytes())
    (root / "dog" / "all_cats").symlink_to(root / "cat")
    (root / "cat" / "again").symlink_to(root / "cat")
    folder = ImageFolder.scan(root)
    cats = ("000.jpg", "album.jpg/000.jpg", "more/of/them/000.jpg", "more/of/them/001.jpg", "without_ending")
    assert folder.files == (*(f"cat/{name}" for name in cats), "dog/000.jpg",
                            *(f"dog/all_cats/{name}" for name in cats))
    assert folder.labels.tolist() == [0] * 5 + [1] * 6
    assert sorted(folder.left_out["link in a circle"]) == ["cat/again", "dog/all_cats/again"]


def test_what_is_left_out_is_counted(images: Images) -> None:
    root = images({"cat": 1, "dog": 1})
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / ".hidden.jpg").write_bytes(b"")
    (root / "labels.csv").write_text("no class")
    (root / "empty").mkdir()
    assert ImageFolder.scan(root).left_out == {
        "no image": ["cat/notes.txt"], "hidden": ["cat/.hidden.jpg"], "in no class folder": ["labels.csv"],
        "class folder without an image": ["empty"]}


def test_one_class_name_in_two_forms_of_unicode_is_one_class(images: Images) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = images({composed: 2, decomposed: 1, "tea": 1})
    folder = ImageFolder.scan(root)
    assert folder.classes == (composed, "tea")
    assert folder.labels.tolist() == [0, 0, 0, 1]
    assert {file.partition("/")[0] for file in folder.files} == {composed, decomposed, "tea"}
    assert "caf\u00e9" in folder.notes[0]


def test_missing_folder_and_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path / 'none'}: no such folder"):
        ImageFolder.scan(tmp_path / "none")
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match=f"^{tmp_path}: no images here; expected"):
        ImageFolder.scan(tmp_path)


def test_digest_follows_names_sizes_and_times(images: Images) -> None:
    root = images({"cat": 2, "dog": 2})
    before = ImageFolder.scan(root).digest()
    assert ImageFolder.scan(root).digest() == before
    image = root / "cat" / "000.jpg"
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    changed = ImageFolder.scan(root).digest()
    image.rename(root / "cat" / "009.jpg")
    renamed = ImageFolder.scan(root).digest()
    assert len({before, changed, renamed}) == 3


def test_both_forms_of_dataset_path(images: Images) -> None:
    root = images({"train/cat": 1, "val/cat": 1})
    for path in (root, root / "train"):
        assert train_source(str(path)) == Source(root / "train")
        assert validation_source(str(path), "") == Source(root / "val")
    assert eval_source(str(root)) == Source(root / "val")
    assert eval_source(str(root / "val")) == Source(root / "val")


def test_a_plain_folder_of_classes_has_no_validation(images: Images) -> None:
    root = images({"cat": 1, "dog": 1})
    assert train_source(str(root)) == Source(root)
    assert validation_source(str(root), "") is None
    assert eval_source(str(root)) == Source(root)


def test_named_validation_images_go_before_those_beside(images: Images) -> None:
    root, other = images({"train/cat": 1, "val/cat": 1}), images({"val/cat": 1}, name="other")
    assert validation_source(str(root), str(other)) == Source(other / "val")
    assert validation_source(str(root), str(other / "val")) == Source(other / "val")


@pytest.mark.parametrize("name", ["valid", "validation", "validation_preprocess"])
def test_other_names_of_the_validation_folder(name: str, images: Images) -> None:
    root = images({"train/cat": 1, f"{name}/cat": 1})
    assert eval_source(str(root)) == validation_source(str(root), "") == Source(root / name)


def test_scoring_a_root_without_val_is_an_error(images: Images) -> None:
    root = images({"train/cat": 1})
    with pytest.raises(UserError, match="has train/ but no val/"):
        eval_source(str(root))


def test_without_a_path_it_is_refused() -> None:
    for where in (train_source, eval_source):
        with pytest.raises(UserError, match="--dataset_path"):
            where("")


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text("abcABC-_ é1", min_size=1, max_size=5), st.integers(0, 3), min_size=1, max_size=5))
def test_labels_are_positions_among_the_sorted_names(tmp_path_factory: pytest.TempPathFactory,
                                                     counts: dict[str, int]) -> None:
    root = tmp_path_factory.mktemp("folder")
    for name, count in counts.items():
        (root / name).mkdir()
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(b"")
    held = sorted((name for name, count in counts.items() if count), key=lambda name: name.encode())
    if not held:
        with pytest.raises(UserError):
            ImageFolder.scan(root)
        return
    folder = ImageFolder.scan(root)
    assert list(folder.classes) == held
    assert [file.partition("/")[0] for file in folder.files] == [held[label] for label in folder.labels]
    np.testing.assert_array_equal(np.bincount(folder.labels), [counts[name] for name in held])
