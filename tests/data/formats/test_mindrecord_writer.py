"""An image folder becomes MindRecord files and, out of them, the same image folder again."""
from pathlib import Path

import mindspore.dataset as ds
import pytest
from conftest import Images, assert_one_clear_line, run_script

from src.data.formats import mindrecord_writer
from src.data.formats.mindrecord import unpack_mindrecord
from src.data.image_folder import ImageFolder
from src.errors import UserError
from tools.benchmark import measure_mindrecord
from tools.pack_mindrecord import main


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def pack(source: Path, output: Path) -> None:
    main(["--dataset_path", str(source), "--output", str(output)])


def test_packed_and_unpacked_it_is_the_same_folder(images: Images, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the names are odd, val lacks a class, and the folders' names are no plain words."""
    root = images({"train/red apple": 3, "train/b": 2, "train/c'est": 4, "val/c'est": 1, "val/b": 2})
    (root / "train/b/000.jpg").rename(root / "train/b/it's & mine 蘋果.jpg")
    before = files(root)
    pack(root, tmp_path / "a b&c/d e")
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/a b&c/d e: 9 images of 3 classes from {root}/train in 1 files",
        f"{tmp_path}/a b&c/d e: 3 images of 2 classes from {root}/val in 1 files"]
    (tmp_path / "a b&c/d e").rename(tmp_path / "moved")
    assert files(unpack_mindrecord(tmp_path / "moved", tmp_path / "back")) == before
    assert files(root) == before
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "moved").rglob("*") if path.is_file()} == {"0o644"}


def test_labels_are_the_indices_of_the_image_folder(images: Images, tmp_path: Path) -> None:
    """Those of train, in val, too; and MindSpore reads what was written."""
    root = images({"train/a": 2, "train/b": 1, "train/c": 2, "val/c": 1, "val/a": 1})
    pack(root, tmp_path / "packed")
    folder = ImageFolder.scan(root / "train")
    labels = {f"{name}/{file}": label for name, file, label in read(tmp_path / "packed/train/train.mindrecord")}
    assert labels == dict(zip(folder.files, folder.labels.tolist(), strict=True))
    assert sorted(read(tmp_path / "packed/val/val.mindrecord")) == [("a", "000.jpg", 0), ("c", "000.jpg", 2)]


def read(path: Path) -> list[tuple[str, str, int]]:
    rows = ds.MindDataset(str(path), ["class_name", "file_name", "label"]).create_tuple_iterator(output_numpy=True)
    return [(str(name), str(file), int(label)) for name, file, label in rows]


def test_many_images_become_several_files(images: Images, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mindrecord_writer, "SHARD_BYTES", 20_000)
    root = images({"a": 30, "b": 30})
    pack(root, tmp_path / "packed")
    shards = sorted(path.name for path in (tmp_path / "packed").iterdir() if path.suffix != ".db")
    assert shards == [f"pictures.mindrecord{n}" for n in range(len(shards))]
    assert len(shards) > 2
    assert files(unpack_mindrecord(tmp_path / "packed", tmp_path / "back")) == files(root)


def test_what_cannot_be_packed_is_refused(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = images({"train/a": 1, "val/a": 1, "val/b": 1})
    with pytest.raises(UserError, match="class b is not one of the 1 classes to train on"):
        pack(root, tmp_path / "packed")
    (root / "val").rename(tmp_path / "aside")
    with pytest.raises(UserError, match=f"{root}: already exists and is not an empty folder"):
        pack(root, root)
    with monkeypatch.context() as patch:
        patch.setattr(mindrecord_writer, "LARGEST_PAGE", 300)
        with pytest.raises(UserError, match=r"train/a/000\.jpg: too large for MindRecord"):
            pack(root, tmp_path / "packed")
    (root / "train/a/000.jpg").rename(root / "train/a/line\nbreak.jpg")
    with pytest.raises(UserError, match="MindRecord has no room for such a name"):
        pack(root, tmp_path / "packed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aside", "pictures"]


def test_a_disk_without_room_is_refused(images: Images, small_disk: Path) -> None:
    with pytest.raises(UserError, match="MindRecord files takes up to .* MB are free"):
        pack(images({"a": 2}), small_disk / "packed")


def test_the_comparison_with_an_image_folder() -> None:
    """Its report; no figure is judged."""
    report = measure_mindrecord(2, 32, 1)
    assert report.keys() == {"batch_size", "image_size", "ratio", "cpu_ratio", "ratios"}
    assert isinstance(report["cpu_ratio"], float)


def test_the_command_ends_in_one_line(tmp_path: Path) -> None:
    run = run_script("tools/pack_mindrecord.py", "--dataset_path", tmp_path / "none", "--output", tmp_path / "x")
    assert_one_clear_line(run, f"{tmp_path}/none: no such folder")
