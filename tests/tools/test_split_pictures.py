"""A folder of images becomes train and val: the same split everywhere, no image on both sides, nothing moved."""
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Images, assert_one_clear_line, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.data.duplicates import find_duplicates
from src.data.image_folder import ImageFolder
from src.data.split import plan_split
from src.errors import UserError
from tools.split_pictures import main


def fill(root: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def numbered(root: Path, counts: dict[str, int]) -> Path:
    return fill(root, {f"{name}/{n:03d}.jpg": f"{name} {n}" for name, count in counts.items() for n in range(count)})


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.jpg")}


def split(source: Path, output: Path, *options: object) -> dict[str, str]:
    main(["--source", str(source), "--output", str(output), *map(str, options)])
    return files(output)


def test_every_image_is_on_one_side_and_the_source_stays(tmp_path: Path) -> None:
    source = numbered(tmp_path / "photos", {"apple": 20, "pear": 11, "fig": 2})
    os.utime(source / "apple/000.jpg", (1, 1))
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in source.rglob("*")}
    found = split(source, tmp_path / "fruit")
    assert {name.partition("/")[2]: content for name, content in found.items()} == files(source)
    assert len(found) == len(files(source))
    assert [sum(name.startswith(f"val/{fruit}/") for name in found) for fruit in ("apple", "pear", "fig")] == [4, 2, 1]
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in source.rglob("*")} == before
    (copy,) = (tmp_path / "fruit").glob("*/apple/000.jpg")
    assert (copy.stat().st_mtime, copy.stat().st_nlink) == (1, 1)


def test_the_same_everywhere_and_another_by_another_seed(tmp_path: Path) -> None:
    """Whatever order the file system lists files in, and whatever their times are."""
    source, other = numbered(tmp_path / "photos", {"a": 30, "b": 30}), tmp_path / "elsewhere/other"
    names = list(files(source))
    random.Random(3).shuffle(names)
    for name in names:
        fill(other, {name: (source / name).read_text()})
    first = split(source, tmp_path / "1")
    assert split(other, tmp_path / "2") == first
    assert split(source, tmp_path / "3", "--seed", 1).keys() != first.keys()
    held_out = {name for name in first if name.startswith("val")}
    fill(source, {"a/new.jpg": "new"})
    grown = {name for name in split(source, tmp_path / "4") if name.startswith("val")}
    assert len(held_out ^ grown) <= 2  # one image more changes little


def test_links_take_no_room(tmp_path: Path) -> None:
    source = numbered(tmp_path / "photos", {"a": 4, "b": 4})
    split(source, tmp_path / "linked", "--link")
    linked = {path.stat().st_ino for path in (tmp_path / "linked").rglob("*.jpg")}
    assert linked == {path.stat().st_ino for path in source.rglob("*.jpg")}


def test_copies_of_an_image_stay_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = numbered(tmp_path / "photos", {"a": 40, "b": 40})
    for n in range(0, 40, 2):
        shutil.copy(source / f"a/{n:03d}.jpg", source / f"a/copy of {n}.jpg")
    for n in range(3):
        shutil.copy(source / f"b/{n:03d}.jpg", source / f"a/wrong {n}.jpg")
    for seed in range(5):
        found = split(source, tmp_path / str(seed), "--seed", seed, "--val_share", 0.4)
        sides: dict[str, set[str]] = {}
        for name, content in found.items():
            sides.setdefault(content, set()).add(name.partition("/")[0])
        assert all(len(side) == 1 for side in sides.values())
        assert sum(name.startswith("val/a/") for name in found) == round(0.4 * 63)
        assert all(sides[f"b {n}"] == {"train"} for n in range(3))
    out, err = capsys.readouterr()
    assert "the same image in several classes, kept to train on: a/wrong 0.jpg = b/000.jpg" in out
    assert "the same image: a/000.jpg = a/copy of 0.jpg" in out
    assert "and 3 more such groups" in out
    assert "warning: 3 images are in several classes" in err


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=4), st.integers(0, 3),
       st.sampled_from([0.01, 0.2, 0.5, 0.99]))
def test_any_contents_are_split_whole(tmp_path_factory: pytest.TempPathFactory, contents: list[list[int]], seed: int,
                                      share: float) -> None:
    root = tmp_path_factory.mktemp("photos")
    fill(root, {f"{label}/{n}.jpg": str(value) for label, values in enumerate(contents)
                for n, value in enumerate(values)})
    try:
        parts = plan_split(ImageFolder.scan(root), share, seed).parts
    except UserError as error:
        assert "has too few images to be split" in str(error)
        own = [set(values) - {value for other in contents if other is not values for value in other}
               for values in contents]
        assert any(not alone or len(set(values)) < 2 for values, alone in zip(contents, own, strict=True))
        return
    sides: dict[str, set[str]] = {}
    for file, part in parts.items():
        sides.setdefault((root / file).read_text(), set()).add(part)
    assert all(len(side) == 1 for side in sides.values())
    assert {(file.partition("/")[0], part) for file, part in parts.items()} == {
        (str(label), part) for label in range(len(contents)) for part in ("train", "val")}


def test_the_same_command_again_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = numbered(tmp_path / "photos", {"a": 10, "b": 10})
    first = split(source, tmp_path / "out")
    times = {path: path.stat().st_ctime_ns for path in (tmp_path / "out").rglob("*")}
    assert split(source, tmp_path / "out") == first
    assert {path: path.stat().st_ctime_ns for path in (tmp_path / "out").rglob("*")} == times
    assert "all of it was there already" in capsys.readouterr().out
    for options in (["--seed", 1], ["--val_share", 0.5]):
        with pytest.raises(UserError, match="holds a split of other images, or with another share or seed"):
            split(source, tmp_path / "out", *options)
    gone = next((tmp_path / "out/val").rglob("*.jpg"))
    gone.unlink()
    with pytest.raises(UserError, match=f"{gone}: is no longer the copy of"):
        split(source, tmp_path / "out")
    (tmp_path / "out/.split.json").write_text("{")
    with pytest.raises(UserError, match="not a JSON file, or a damaged one .*; name another folder"):
        split(source, tmp_path / "out")


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    source = numbered(tmp_path / "photos", {"a": 3, "b": 3})
    mine = fill(tmp_path / "mine", {"notes.txt": "mine"})
    with pytest.raises(UserError, match="mine: already exists and is not an empty folder"):
        split(source, mine)
    for output in (source, source / "out"):
        with pytest.raises(UserError, match="lies in the folder that is to be split"):
            split(source, output)
    assert len(list(source.iterdir())) == 2


@pytest.mark.parametrize(("contents", "name"), [
    ({"a/1.jpg": "x", "b/1.jpg": "y", "b/2.jpg": "z"}, "a"),
    ({"a/1.jpg": "x", "a/2.jpg": "x", "b/1.jpg": "y", "b/2.jpg": "z"}, "a"),
    ({"a/1.jpg": "w", "a/2.jpg": "x", "b/1.jpg": "w", "b/2.jpg": "x", "c/1.jpg": "y", "c/2.jpg": "z"}, "a")])
def test_classes_that_are_too_small(tmp_path: Path, contents: dict[str, str], name: str) -> None:
    with pytest.raises(UserError, match=f"class {name} has too few images to be split"):
        split(fill(tmp_path / "photos", contents), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = numbered(tmp_path / "photos", {"a": 5, "b": 5})
    copy, copied = shutil.copy2, list[Path]()

    def failing(path: Path, target: Path) -> None:
        if len(copied) == 6:
            raise OSError(28, "No space left on device")
        copied.append(path)
        copy(path, target)

    monkeypatch.setattr(shutil, "copy2", failing)
    with pytest.raises(UserError, match="out: cannot be made: No space left on device"):
        split(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_another_disk_is_refused_for_links_and_for_room(tmp_path: Path, small_disk: Path) -> None:
    source = fill(tmp_path / "photos", {f"a/{n}.jpg": f"{n}" * 90_000 for n in range(12)})
    with pytest.raises(UserError, match=r"cannot be linked: .*; leave out --link"):
        split(source, small_disk / "out", "--link")
    with pytest.raises(UserError, match="a copy of the images takes up to .* or --link"):
        split(source, small_disk / "out")
    assert not list(small_disk.iterdir())


# ---- groups

def test_a_group_by_its_name_is_on_one_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = fill(tmp_path / "photos", {f"{name}/plant{n // 4}_{n}.jpg": f"{name} {n}" for name in ("apple", "pear")
                                        for n in range(24)} | {"apple/other.jpg": "other"})
    for seed, (pattern, groups) in enumerate({r"plant\d+": 6, r"^(\w+)/plant(\d+)": 12}.items()):
        found = split(source, tmp_path / f"{seed}", "--group_pattern", pattern, "--seed", seed)
        assert f"kept together: 48 images of {groups} groups" in capsys.readouterr().out
        sides = {(name.split("/")[1] if groups == 12 else "", name.rpartition("/")[2].partition("_")[0],
                  name.partition("/")[0]) for name in found if "plant" in name}
        assert len(sides) == groups
        assert sum(name.startswith("val/") for name in found) in {8, 9}


def test_a_list_is_split_by_its_column(tmp_path: Path) -> None:
    names = [f"{n:02d}.jpg" for n in range(20)]
    fill(tmp_path / "all", {name: name for name in names})
    (tmp_path / "all.csv").write_text("Path;label;Plant\n" + "".join(
        f"all/{name};{'apple' if n % 2 else 'pear'};{n // 5}\n" for n, name in enumerate(names)))
    found = split(tmp_path / "all.csv", tmp_path / "out", "--group_column", "plant")
    assert {f"{name.split('/')[1]}/{content}" for name, content in found.items()} == {
        f"{'apple' if n % 2 else 'pear'}/{name}" for n, name in enumerate(names)}
    sides = {n // 5: {name.partition("/")[0] for name, content in found.items() if int(content[:2]) // 5 == n // 5}
             for n in range(20)}
    assert all(len(side) == 1 for side in sides.values())
    assert split(tmp_path / "all.csv", tmp_path / "out", "--group_column", "plant") == found


def test_a_class_in_one_group_cannot_be_split(tmp_path: Path) -> None:
    source = numbered(tmp_path / "photos", {"apple": 6, "pear": 6})
    with pytest.raises(UserError, match="class apple has too few images to be split: .* not in one group"):
        split(source, tmp_path / "out", "--group_pattern", "^apple|pear/00[0-3]")


def test_a_class_of_one_scene_is_split_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = np.meshgrid(np.arange(60), np.arange(40))
    for n in range(10):
        for name, pixels in (("one", 2 * x + y), ("many", np.random.default_rng(n).integers(0, 256, (40, 60)))):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels + n).clip(0, 255).astype(np.uint8)).save(tmp_path / f"photos/{name}/{n}.png")
    main(["--source", str(tmp_path / "photos"), "--output", str(tmp_path / "out")])
    assert "all images of a class look alike, and are split all the same: one\n" in capsys.readouterr().out
    assert [len(list((tmp_path / "out/val" / name).iterdir())) for name in ("one", "many")] == [2, 2]


@pytest.mark.parametrize(("options", "message"), [
    (("--group_pattern", "("), r"--group_pattern \(: not a regular expression"),
    (("--group_pattern", "x"), "--group_pattern x: is found in none of 4 names, such as a/000.jpg"),
    (("--group_column", "x"), "--group_column x: .*photos is not a list"),
    (("--scene_distance", "99"), "--scene_distance must be -1 to 16, not 99")])
def test_wrong_groups(options: tuple[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        split(numbered(tmp_path / "photos", {"a": 2, "b": 2}), tmp_path / "out", *options)


@pytest.mark.parametrize(("text", "message"), [
    ("path,label\na.jpg,a\n", "its columns are path, label; none is plant"),
    ("a.jpg a\n", "has no columns with names, so no column plant"),
    ("path,label,plant\n1.jpg,a/b,\n2.jpg,a/b,\n", "class a/b cannot be a folder"),
    ("path,label,plant\n1.jpg,a,\n2.jpg,a,\n1.jpg,a,\n", "an image is in the list twice")])
def test_a_list_that_cannot_be_split(text: str, message: str, tmp_path: Path) -> None:
    fill(tmp_path, {"1.jpg": "1", "2.jpg": "2", "list.csv": text})
    with pytest.raises(UserError, match=message):
        split(tmp_path / "list.csv", tmp_path / "out", "--group_column", "plant")


def test_only_files_of_one_content_are_duplicates(tmp_path: Path) -> None:
    root = fill(tmp_path, {"1": "abc", "2": "abd", "3": "abc", "4": "ab", "5": "abd", "6": "abc"})
    paths = [root / str(n) for n in range(1, 7)]
    assert find_duplicates(paths) == [[paths[0], paths[2], paths[5]], [paths[1], paths[4]]]


def test_real_images_as_a_command(tmp_path: Path, images: Images) -> None:
    source = images({"cat": 5, "dog": 5})
    run = run_script("tools/split_pictures.py", "--source", source, "--output", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{tmp_path}/out: 8 images to train and 2 to validate on, of 2 classes\n"
    assert ImageFolder.scan(tmp_path / "out/val").classes == ("cat", "dog")
    assert_one_clear_line(run_script("tools/split_pictures.py", "--source", source, "--output", tmp_path / "out",
                                     "--val_share", "1"), "--val_share must be between 0 and 1")


def test_what_is_left_out_is_told(images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images({"cat": 3, "dog": 3})
    (root / "cat" / "notes.txt").write_text("no image")
    main(["--source", str(root), "--output", str(tmp_path / "out")])
    assert f"{root}: left out: 1 no image (cat/notes.txt)\n" in capsys.readouterr().out
