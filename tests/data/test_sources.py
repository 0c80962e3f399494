"""Where images come from: folders, lists and archives."""
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import Images

from src.data import sources
from src.data.image_folder import ImageFolder
from src.data.lists import read_list
from src.data.sources import Source, eval_source, train_source, validation_source
from src.data.split import hold_out
from src.dataset import ImageData
from src.errors import UserError


@pytest.fixture
def root(images: Images) -> Path:
    return images({"cat": 3, "dog": 2})


def labelled(folder: ImageFolder) -> dict[str, str]:
    return {file: folder.class_of(position) for position, file in enumerate(folder.files)}


FOLDER = {f"{name}/{number:03d}.jpg": name for name, count in (("cat", 3), ("dog", 2)) for number in range(count)}


# ---- lists

@pytest.mark.parametrize("text", [
    "".join(f"{file},{label}\n" for file, label in FOLDER.items()),
    "path,label\n" + "".join(f"{file},{label}\n" for file, label in FOLDER.items()),
    "\ufeffid;Class;File\r\n" + "".join(f"1;{label};{file}\r\n" for file, label in FOLDER.items()),
    "filename\tlabel\n" + "".join(f'"{file}"\t{label}\n' for file, label in FOLDER.items()),
    "".join(f"{file} {label}\n\n" for file, label in FOLDER.items()),
    "".join(json.dumps({"source": f"s3://bucket/some/where/{file}", "usage": "TRAIN", "annotation": [
        {"name": label, "type": "modelarts/image_classification", "confidence": 1}]}) + "\n"
        for file, label in FOLDER.items()),
], ids=["CSV", "CSV with header", "semicolons", "tabs", "text", "manifest"])
def test_every_form_of_list_is_the_folder(text: str, root: Path) -> None:
    (root / "list.csv").write_text(text, encoding="utf-8")
    found = train_source(str(root / "list.csv")).scan()
    assert labelled(found) == FOLDER
    expected = ImageFolder.scan(root)
    assert (found.root, found.classes, found.files) == (expected.root, expected.classes, expected.files)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_a_list_gives_the_batches_of_the_folder(root: Path) -> None:
    (root / "list.txt").write_text("".join(f"{file} {label}\n" for file, label in reversed(FOLDER.items())))
    of_list, of_folder = ([images.asnumpy() for images, _ in ImageData(folder, 32, 2, training=True, seed=3).epoch(1)]
                          for folder in (Source(root / "list.txt").scan(), ImageFolder.scan(root)))
    np.testing.assert_array_equal(of_list, of_folder)


def test_numbers_are_in_their_order(root: Path) -> None:
    (root / "list.txt").write_text("cat/000.jpg 10\ncat/001.jpg 2\ndog/000.jpg 0\n")
    assert Source(root / "list.txt").scan().classes == ("00", "02", "10")


def test_a_path_may_be_absolute_have_spaces_or_any_bytes(root: Path) -> None:
    odd = root / "cat" / os.fsdecode(b"caf\xe9 one.jpg")
    (root / "cat" / "000.jpg").rename(odd)
    (root / "list.txt").write_bytes(os.fsencode(f"{odd} cat\n{root}/dog/000.jpg dog\n"))
    folder = Source(root / "list.txt").scan()
    assert [folder.root / file for file in folder.files] == [odd, root / "dog" / "000.jpg"]
    assert len(folder.encoded(0)) == odd.stat().st_size


@pytest.mark.parametrize("where", ["meta/train.txt", "train.txt", "lists/any.txt"])
def test_paths_are_found_from_the_usual_places(where: str, images: Images) -> None:
    root = images({"train/cat": 1, "train/dog": 1} if "train" in where else {"cat": 1, "dog": 1})
    (root / where).parent.mkdir(exist_ok=True)
    (root / where).write_text("cat/000.jpg cat\ndog/000.jpg dog\n")
    assert Source(root / where).scan().root == (root / "train" if "train" in where else root)


def test_the_parts_of_a_list(root: Path) -> None:
    parts = dict(zip(FOLDER, ("train", "VALIDATION", "test", "", "eval"), strict=True))
    path = root / "list.csv"
    path.write_text("image,category,split\n" + "".join(f"{file},{FOLDER[file]},{parts[file]}\n" for file in FOLDER))
    train, val, test = train_source(str(path)), validation_source(str(path), ""), sources.test_source(str(path), "")
    assert val == eval_source(str(path))
    found = [list(labelled(source.scan())) for source in (train, val, test)]
    assert found == [["cat/000.jpg", "dog/000.jpg"], ["cat/001.jpg", "dog/001.jpg"], ["cat/002.jpg"]]
    assert test.scan().classes == ("cat", "dog")  # those of the whole list


def test_a_list_is_read_once_until_it_changes(root: Path) -> None:
    path = root / "list.txt"
    path.write_text("cat/000.jpg cat\ndog/000.jpg dog\n")
    first = read_list(path)
    train_source(str(path)).scan()
    assert validation_source(str(path), "") is None
    assert read_list(path) is first
    path.write_text("cat/000.jpg cat\ndog/000.jpg dog\ndog/001.jpg dog\n")
    assert len(read_list(path).entries) == 3


def test_a_manifest_of_modelarts_with_all_its_fields(root: Path) -> None:
    """As https://support.huaweicloud.com/intl/en-us/dataprepare-modelarts/dataprepare-modelarts-0015.html shows it."""
    def line(file: str, label: str, usage: str) -> str:
        return json.dumps({
            "source": f"obs://bucket/labelled/{file}", "usage": usage, "hard": "true", "hard-coefficient": 0.8,
            "id": "0162005993f8065ef47eefb59d1e4970", "inference-loc": "/path/to/output", "annotation": [
                {"type": "modelarts/image_classification", "name": label, "property": {"colour": "white"},
                 "hard": "true", "hard-coefficient": 0.8, "annotated-by": "human",
                 "creation-time": "2019-01-23 11:30:30",
                 "confidence": 0.9},
                {"type": "modelarts/object_detection", "annotation-loc": "obs://bucket/boxes.xml"}]})

    usages = ("TRAIN", "EVAL", "TEST", "TRAIN", "EVAL")
    path = root / "animals-V001.manifest"
    path.write_text("\n".join(line(file, label, usage)
                              for (file, label), usage in zip(FOLDER.items(), usages, strict=True)))
    entries = read_list(path).entries
    assert [(entry.file, entry.label, entry.part) for entry in entries] == [
        (file, label, part) for (file, label), part in zip(
            FOLDER.items(), ("train", "val", "test", "train", "val"), strict=True)]


def test_what_a_manifest_leaves_out_is_counted(root: Path) -> None:
    def line(file: str, *names: str, usage: str = "TRAIN") -> str:
        return json.dumps({"source": file, "usage": usage, "annotation": [
            {"name": name, "type": "modelarts/image_classification"} for name in names]})

    (root / "all.manifest").write_text("\n".join([
        line("cat/000.jpg", "cat"), line("cat/001.jpg"), line("cat/002.jpg", "cat", "dog"), line("dog/000.jpg", "dog"),
        line("dog/001.jpg", "dog", usage="INFERENCE")]))
    folder = Source(root / "all.manifest").scan()
    assert folder.files == ("cat/000.jpg", "dog/000.jpg")
    assert folder.left_out == {"without a label": ["cat/001.jpg"], "with several labels": ["cat/002.jpg"],
                               "for inference": ["dog/001.jpg"]}


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.txt", "cat/000.jpg cat\nalone\n", "1 lines are not of an image and its label: line 2"),
    ("a.csv", "cat/000.jpg,cat\ncat/001.jpg\nx,y,z\n", "2 lines are not of an image and its label: line 2; line 3"),
    ("a.csv", "a,b,c,d\n1,2,3,4\n", "its columns are a, b, c, d; name one of the images"),
    ("a.csv", "path,label,split\ncat/000.jpg,cat,sometimes\n", "line 2"),
    ("a.manifest", '{"source": "cat/000.jpg"}\n{"no": 1}\n[]\n', "2 lines are not of an image and its label"),
    ("a.manifest", '{"source": "s3://b/c/d.jpg", "annotation": [{"name": "x"}]}', "d.jpg is not here; copy the images"),
    ("a.txt", "\n", "names no image"), ("a.txt", "\0", "not a text file"),
])
def test_a_list_of_another_form_is_refused(name: str, text: str, message: str, root: Path) -> None:
    (root / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_list(root / name)


# ---- archives

def pack(root: Path, archive: Path) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for file in FOLDER:
                opened.write(root / file, f"outer/{file}")
            opened.writestr("__MACOSX/outer/cat/._000.jpg", "x")
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
            tar.add(root, "outer")
    return archive


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar", "photos.tar.gz"])
def test_an_archive_is_unpacked_beside_it_once(name: str, root: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    archive = pack(root, tmp_path / name)
    for _ in range(2):
        assert labelled(train_source(str(archive)).scan()) == FOLDER
    assert capsys.readouterr().out == f"unpacking {archive} to {tmp_path}/photos\n"
    os.utime(archive, (1, 1))
    with pytest.raises(UserError, match=f"photos: is there already, and was not made of the present {name}"):
        train_source(str(archive))


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar"])
def test_each_file_that_is_unpacked_is_progress(name: str, root: Path, tmp_path: Path) -> None:
    """Other ranks wait as long as there is some: `tests/test_turns.py`."""
    archive, calls = pack(root, tmp_path / name), []
    sources.UNPACKERS[archive.suffix](archive, tmp_path / "photos", "", lambda: calls.append(1))
    assert len(calls) >= len(FOLDER)


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar", "photos.tar.gz"])
def test_a_cut_archive_leaves_nothing(name: str, root: Path, tmp_path: Path) -> None:
    archive = pack(root, tmp_path / name)
    archive.write_bytes(archive.read_bytes()[:archive.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=f"{name}: not a whole"):
        train_source(str(archive))
    assert not (tmp_path / "photos").exists()


def test_an_archive_that_leads_outside_is_refused(root: Path, tmp_path: Path) -> None:
    for name, info in (("a.tar", tarfile.TarInfo("../outside.jpg")), ("b.tar", tarfile.TarInfo("cat/link.jpg"))):
        if name == "b.tar":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.addfile(info)
        with pytest.raises(UserError, match="outside of the data set|is a link"):
            train_source(str(tmp_path / name))


# ---- validation and test

def test_images_held_out_follow_from_names_and_seed(images: Images) -> None:
    folder = ImageFolder.scan(images({"cat": 10, "dog": 5, "owl": 2}))
    train, val = hold_out(folder, 0.2, 1)
    assert sorted((*train.files, *val.files)) == sorted(folder.files)
    assert np.bincount(val.labels).tolist() == [2, 1, 1]
    assert hold_out(folder, 0.2, 1)[1].files == val.files
    assert hold_out(folder, 0.2, 2)[1].files != val.files


def test_the_test_folder(images: Images) -> None:
    root = images({"train/cat": 1, "test/cat": 1})
    for path in root, root / "train":
        assert sources.test_source(str(path), "") == Source(root / "test")
    assert sources.test_source(str(root), str(root / "train")) == Source(root / "train")
    assert sources.test_source(str(images({"cat": 1}, name="flat")), "") is None
