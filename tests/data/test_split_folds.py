"""Folds: equal parts of each class, nothing that belongs together in two of them."""
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.groups import find_groups
from src.data.image_folder import ImageFolder
from src.data.split import Kept, hold_out_fold, keep_together, plan_folds
from src.errors import UserError


def numbered(root: Path, counts: dict[str, int]) -> Path:
    """Files of different content with names of images; a look they have not."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number:03d}.jpg").write_text(f"{name} {number}")
    return root


def folds_of(folder: ImageFolder, folds: int, seed: int = 1, groups: dict[str, str] | None = None) -> dict[str, int]:
    return dict(zip(folder.files, plan_folds(folder, folds, seed, keep_together(folder, groups)).tolist(), strict=True))


def test_each_fold_has_its_part_of_each_class(tmp_path: Path) -> None:
    folder = ImageFolder.scan(numbered(tmp_path, {"apple": 23, "fig": 2, "pear": 11}))
    folds = plan_folds(folder, 5, 1, keep_together(folder))
    for label, count in enumerate((23, 2, 11)):
        of_class = np.bincount(folds[folder.labels == label], minlength=5)
        assert of_class.min() >= count // 5
        assert of_class.max() <= -(-count // 5)
    assert np.ptp(np.bincount(folds)) <= 1


def test_they_follow_from_names_and_seed_alone(tmp_path: Path) -> None:
    source = numbered(tmp_path / "a", {"apple": 12, "pear": 12})
    names = [str(path.relative_to(source)) for path in source.rglob("*.jpg")]
    random.Random(3).shuffle(names)
    for name in names:
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, tmp_path / "b" / name)
    first = folds_of(ImageFolder.scan(source), 3)
    assert folds_of(ImageFolder.scan(tmp_path / "b"), 3) == first
    assert folds_of(ImageFolder.scan(source), 3, seed=2) != first


def test_what_belongs_together_stays_in_one_fold(tmp_path: Path) -> None:
    source = numbered(tmp_path / "photos", {"apple": 20, "pear": 20})
    shutil.copy(source / "apple/000.jpg", source / "apple/copy.jpg")
    shutil.copy(source / "apple/001.jpg", source / "pear/copy.jpg")  # one of the two classes is wrong
    folder = ImageFolder.scan(source)
    groups = find_groups(folder.files, source, "pear/00", "")
    folds = folds_of(folder, 4, groups=groups)
    assert folds["apple/000.jpg"] == folds["apple/copy.jpg"]
    assert folds["apple/001.jpg"] == folds["pear/copy.jpg"]
    assert len({folds[f"pear/{number:03d}.jpg"] for number in range(10)}) == 1
    assert set(folds.values()) == {0, 1, 2, 3}


def test_a_fold_is_held_out_of_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ImageFolder.scan(numbered(tmp_path, {"apple": 7, "pear": 5}))
    groups = find_groups(folder.files, tmp_path, "apple/00[01]", "")
    held_out: list[str] = []
    for fold in 1, 2, 3:
        train, val = hold_out_fold(folder, 3, fold, 1, groups)
        assert sorted(train.files + val.files) == sorted(folder.files)
        assert train.classes == val.classes == folder.classes
        assert val.part_of
        assert val.part_of[0] is folder
        assert [folder.files[position] for position in val.part_of[1]] == list(val.files)
        held_out += val.files
    assert sorted(held_out) == sorted(folder.files)
    assert "kept together: 2 images of 2 groups" in capsys.readouterr().out


def test_a_selection_of_a_part_is_no_part(tmp_path: Path) -> None:
    part = ImageFolder.scan(numbered(tmp_path, {"apple": 4})).part(np.array([0, 2, 3]))
    assert part.select([0, 1]).part_of is None


@pytest.mark.parametrize(("counts", "folds", "pattern", "fault"), [
    ({"a": 2, "b": 1}, 5, "", "has 3 images in 3 groups of images that stay together; use at most 3 folds"),
    ({"a": 4, "b": 1}, 2, "", "all images of class b would be in one fold"),
    ({"a": 4, "b": 4}, 2, "b/", "all images of class b would be in one fold"),
])
def test_what_cannot_be_divided_is_told(counts: dict[str, int], folds: int, pattern: str, fault: str,
                                        tmp_path: Path) -> None:
    folder = ImageFolder.scan(numbered(tmp_path, counts))
    with pytest.raises(UserError, match=fault):
        folds_of(folder, folds, groups=find_groups(folder.files, tmp_path, pattern, ""))


def test_groups_come_from_one_place() -> None:
    with pytest.raises(UserError, match="groups come from one of them"):
        find_groups(["a/1.jpg"], Path("list.csv"), "a", "plant")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(4, 30), min_size=1, max_size=4), st.integers(2, 4), st.data())
def test_groups_of_any_sizes_leave_no_class_to_one_fold(counts: list[int], folds: int, data: st.DataObject) -> None:
    files = tuple(f"{label}/{number}" for label, count in enumerate(counts) for number in range(count))
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    folder = ImageFolder(Path("/photos"), tuple(map(str, range(len(counts)))), files, labels)
    groups = np.array([data.draw(st.integers(0, 2)) for _ in files])
    first_of = {(label, group): position for position, (label, group)
                in reversed(list(enumerate(zip(labels.tolist(), groups.tolist(), strict=True))))}
    units = np.array([first_of[label, group] if group else position for position, (label, group)
                      in enumerate(zip(labels.tolist(), groups.tolist(), strict=True))])
    kept = Kept(units, [], [], 8, {}, [], set())
    per_class = [len(set(units[labels == label])) for label in range(len(counts))]
    if min(per_class) < 2 or sum(per_class) < folds:
        return
    found = plan_folds(folder, folds, 1, kept)
    assert set(found.tolist()) == set(range(folds))
    assert all(len(set(found[units == unit])) == 1 for unit in units)
    assert all(len(set(found[labels == label])) > 1 for label in range(len(counts)))
