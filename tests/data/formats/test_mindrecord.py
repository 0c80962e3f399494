"""MindRecord files, as MindSpore writes them, become image folders: every image whole, or nothing and one line."""
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_clear_line, run_script
from mindspore.mindrecord import FileWriter
from PIL import Image

from src.data.formats.mindrecord import unpack_mindrecord
from src.data.image_folder import ImageFolder
from src.errors import UserError
from tests.support.modelarts_tools import Platform, kill, wait_for

SCHEMA = {"file_name": {"type": "string"}, "label": {"type": "int32"}, "data": {"type": "bytes"}}
Row = dict[str, object]


def encoded(seed: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def rows(count: int, label: Callable[[int], object] = lambda number: number % 12) -> list[Row]:
    return [{"file_name": f"n{number}.JPEG", "label": label(number), "data": encoded(number)}
            for number in range(count)]


def write(path: Path, content: Sequence[Row], shards: int = 1, **changed: dict[str, object] | None) -> Path:
    """Write MindRecord files; `changed` replaces columns of the usual schema, or takes them out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = FileWriter(str(path), shards)
    writer.add_schema({name: about for name, about in {**SCHEMA, **changed}.items() if about})
    writer.write_raw_data(list(content))
    writer.commit()
    return path.parent


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refused(source: Path, target: Path) -> str:
    """The one line that an unpacking ends with, which leaves nothing behind."""
    with pytest.raises(UserError) as caught:
        unpack_mindrecord(source, target)
    assert "\n" not in str(caught.value)
    assert not [path for path in target.parent.iterdir() if target.name in path.name]
    return str(caught.value)


@pytest.mark.parametrize("shards", [1, 4])
def test_every_image_is_there_once_and_unchanged(tmp_path: Path, shards: int) -> None:
    source = write(tmp_path / "source/a.mindrecord", rows(50), shards)
    target = unpack_mindrecord(source, tmp_path / "pictures")
    assert files(target) == {f"{row['label']:02d}/n{number}.jpg": row["data"] for number, row in enumerate(rows(50))}
    assert ImageFolder.scan(target).classes == tuple(f"{label:02d}" for label in range(12))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "source"]
    assert ImageFolder.scan(unpack_mindrecord(source, tmp_path / "again")).digest() == ImageFolder.scan(target).digest()


def test_train_and_val_have_the_same_class_names(tmp_path: Path) -> None:
    """Also where the highest label has another number of digits."""
    write(tmp_path / "source/train/train.mindrecord", rows(24), 2)
    write(tmp_path / "source/val/val.mindrecord", rows(5))
    target = unpack_mindrecord(tmp_path / "source", tmp_path / "pictures")
    assert len(ImageFolder.scan(target / "train").classes) == 12
    assert ImageFolder.scan(target / "val").classes == ("00", "01", "02", "03", "04")


def test_several_sets_other_columns_and_no_file_names(tmp_path: Path) -> None:
    """Files that were not written together may still be numbered as if they were."""
    schema: dict[str, dict[str, object] | None] = {
        "file_name": None, "label": None, "data": None, "class": {"type": "string"}, "image": {"type": "bytes"}}
    contents = [encoded(0), encoded(1, "PNG"), encoded(2, "BMP"), encoded(3, "TIFF"), b"no image"]
    for number, content in enumerate(contents):
        write(tmp_path / f"source/a.mindrecord{number}", [{"class": "red apple", "image": content}], 1, **schema)
    found = files(unpack_mindrecord(tmp_path / "source", tmp_path / "pictures"))
    assert found == {f"red apple/{number:08d}{ending}": contents[number]
                     for number, ending in enumerate((".jpg", ".png", ".bmp", ".tif", ".jpg"))}


def test_file_names_that_recur_or_lead_elsewhere(tmp_path: Path) -> None:
    names = ("../../same.jpg", "same.jpg", "", ".hidden.jpg", "/x/" + "a" * 300, "two.dots.jpg")
    source = write(tmp_path / "source/a.mindrecord", [
        {"file_name": name, "label": 0, "data": encoded(number)} for number, name in enumerate(names)])
    found = files(unpack_mindrecord(source, tmp_path / "pictures"))
    assert {name: found[name] == encoded(number) for number, name in enumerate((
        "0/same.jpg", "0/same-00000001.jpg", "0/00000002.jpg", "0/00000003.jpg", "0/00000004.jpg",
        "0/two.dots.jpg"))} == dict.fromkeys(found, True)


# ---- what cannot be unpacked

def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "pictures"
    assert "no MindRecord files here" in refused(source, target)
    write(source / "a.mindrecord", rows(3))
    for content in (b"", b"hello" * 1000):
        (source / "a.mindrecord").write_bytes(content)
        assert f"{source}/a.mindrecord: not a MindRecord file, or damaged" in refused(source, target)
        shutil.copy(source / "a.mindrecord.db", source / "a&b.mindrecord.db")  # MindSpore reads no such name
        (source / "a&b.mindrecord").touch()
        assert f"{source}/a&b.mindrecord: not a MindRecord file, or damaged" in refused(source, target)
        for path in source.glob("a&b*"):
            path.unlink()
    (source / "a.mindrecord.db").unlink()
    assert "its index a.mindrecord.db is missing" in refused(source, target)


def test_cut_files_are_refused(tmp_path: Path) -> None:
    """MindSpore reads what is left of a cut file and ends as if that were all."""
    source, target = tmp_path / "source", tmp_path / "pictures"
    big = [{"file_name": "", "label": 0, "data": encoded(number) + bytes(200_000)} for number in range(400)]
    write(source / "a.mindrecord", big)
    path = source / "a.mindrecord"
    for left in (0.999, 0.7, 0.4, 0.01):
        os.truncate(path, int(path.stat().st_size * left))
        assert "cut off" in refused(source, target)


def test_shard_that_is_missing_or_renamed(tmp_path: Path) -> None:
    source, target = write(tmp_path / "source/a.mindrecord", rows(20), 4), tmp_path / "pictures"
    for path in source.glob("a.mindrecord2*"):
        path.unlink()
    assert "a.mindrecord2: this shard is missing" in refused(source, target)
    for path in list(source.iterdir()):
        path.rename(source / path.name.replace("a.", "b."))
    assert "a.mindrecord0: this shard is missing; copy all files" in refused(source, target)


@pytest.mark.parametrize(("row", "schema", "message"), [
    ({"data": "text"}, {"data": {"type": "string"}}, "no column of encoded images"),
    ({"a": b"1", "b": b"2"}, {"data": None, "a": {"type": "bytes"}, "b": {"type": "bytes"}},
     "its columns are a, b, file_name, label"),
    ({"kind": 1}, {"label": None, "kind": {"type": "int32"}}, "no column of labels"),
    ({"label": 0.5}, {"label": {"type": "float32"}}, "no column of labels"),
    ({"label": ""}, {"label": {"type": "string"}}, "record 0: has no label"),
    ({"label": "../x"}, {"label": {"type": "string"}}, "record 0: has no label, or one that cannot be a folder's name"),
    ({"label": -1}, {}, "record 0: has no label, or one that is no class: '-1'"),
    ({"data": b"12345"}, {}, "none of 1 records holds an encoded image in its column 'data'"),
])
def test_columns_that_do_not_fit(tmp_path: Path, row: Row, schema: dict, message: str) -> None:
    content = {**rows(1)[0], **row}
    for gone in (name for name, about in schema.items() if about is None):
        del content[gone]
    source = write(tmp_path / "source/a.mindrecord", [content], **schema)
    assert message in refused(source, tmp_path / "pictures")


def test_the_index_of_another_file_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a b/a.mindrecord", rows(2))
    shutil.copy(write(tmp_path / "other/b.mindrecord", rows(3)) / "b.mindrecord.db", source / "a.mindrecord.db")
    assert "a.mindrecord: it or its .db file was renamed" in refused(source, tmp_path / "pictures")


def test_training_and_validation_files_in_one_folder(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write(tmp_path / f"source/{name}.mindrecord", rows(2))
    assert "put them into" in refused(tmp_path / "source", tmp_path / "pictures")


def test_a_target_with_files_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "source/a.mindrecord", rows(2))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "of-somebody").touch()
    with pytest.raises(UserError, match="already exists"):
        unpack_mindrecord(source, tmp_path / "pictures")


def test_a_disk_without_room_is_refused(tmp_path: Path, small_disk: Path) -> None:
    source = write(tmp_path / "source/a.mindrecord", rows(2))
    assert "MB are free; choose a disk with more room" in refused(source, small_disk / "pictures")


# ---- the commands

def test_tool_and_the_hint_to_it(tmp_path: Path) -> None:
    source = write(tmp_path / "source/train/a.mindrecord", rows(24), 2).parent
    for root in (source, source / "train"):
        with pytest.raises(UserError, match=f"python tools/unpack_mindrecord.py --source {root} "):
            ImageFolder.scan(root)
    run = run_script("tools/unpack_mindrecord.py", "--source", source, "--output", tmp_path / "pictures")
    assert run.returncode == 0, run.stderr
    assert len(ImageFolder.scan(tmp_path / "pictures/train")) == 24
    assert_one_clear_line(run_script("tools/unpack_mindrecord.py", "--source", tmp_path / "none", "--output", "x"),
                          "none: no MindRecord files here")


def test_a_job_unpacks_them(tmp_path: Path) -> None:
    """From the storage, from a zip file there, and from a local folder, which stays as it was."""
    platform = Platform(tmp_path)
    bucket = platform.storage / "bucket"
    write(bucket / "data/train/a.mindrecord", rows(3), 2)
    write(bucket / "data/val/a.mindrecord", rows(1))
    shutil.make_archive(str(bucket / "zipped/photos"), "zip", bucket / "data")
    before = sorted(bucket.rglob("*"))
    for url in ("obs://bucket/data", "obs://bucket/zipped/photos.zip", bucket / "data", bucket / "data"):
        run = platform.run(platform.program, *platform.options(data_url=url, train_url="obs://bucket/out"))
        assert run.returncode == 0, run.stderr
        assert "images train/0/n0.jpg train/1/n1.jpg train/2/n2.jpg val/0/n0.jpg" in run.stdout
    assert sorted(path for path in bucket.rglob("*") if "out" not in path.relative_to(bucket).parts) == before
    run = platform.run(platform.program, *platform.options(
        data_url="obs://bucket/data", train_url="obs://bucket/out", dataset_path="train"))
    assert "images 0/n0.jpg 1/n1.jpg 2/n2.jpg" in run.stdout, run.stderr


def test_killed_job_leaves_no_half(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    data = write(platform.storage / "bucket/data/a.mindrecord", [
        {"file_name": "", "label": 0, "data": encoded(0)} for _ in range(20000)])
    options = platform.options(data_url=data, train_url="obs://bucket/out")
    process = platform.start(platform.program, *options)
    wait_for(platform.machine / "data/..pictures-of-mindrecord.unfinished/0", process)
    kill(process)
    assert not (platform.machine / "data/.pictures-of-mindrecord").exists()
    for path in data.iterdir():
        path.unlink()
    write(data / "a.mindrecord", rows(2))
    run = platform.run(platform.program, *options)
    assert "images 0/n0.jpg 1/n1.jpg\n" in run.stdout, run.stderr
    assert not (platform.machine / "data/..pictures-of-mindrecord.unfinished").exists()
