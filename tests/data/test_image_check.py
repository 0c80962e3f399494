"""Bad images are found before a run, by name, and dealt with as asked."""
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.cache_folder import cache_folder
from src.data.image_check import check_files, check_images
from src.data.image_folder import ImageFolder
from src.data.images import has_cut_header
from src.dataset import ImageData
from src.errors import UserError
from src.model_utils.config import Config
from tests.conftest import config_for


def encoded(form: str, **options: object) -> bytes:
    """An image of noise, as bytes: noise, so that no part of the file can be cut unnoticed."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1:]


JPEG, PNG = encoded("JPEG"), encoded("PNG")
BAD = {
    "empty.jpg": b"", "text.jpg": b"no image at all", "page.png": b"<html></html>",
    "gif.gif": encoded("GIF")[:300], "half.webp": encoded("WEBP")[:900],
    "half.jpg": JPEG[:len(JPEG) // 2], "last_bytes.jpg": JPEG[:-40],
    "header.jpg": JPEG[:20], "half.png": PNG[:len(PNG) // 2], "bit.png": flipped(PNG, len(PNG) // 2),
    "noise.jpg": np.random.default_rng(1).bytes(3000), "half.bmp": encoded("BMP")[:500],
}
GOOD = {"a.jpg": JPEG, "b.png": PNG, "c.bmp": encoded("BMP"), "d.tif": encoded("TIFF"), "gif.jpg": encoded("GIF"),
        "webp.jpg": encoded("WEBP")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class `mixed` with good and bad images, class `sound` with good ones."""
    for name, content in {**GOOD, **BAD}.items():
        (tmp_path / "mixed").mkdir(exist_ok=True)
        (tmp_path / "mixed" / name).write_bytes(content)
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "a.jpg").write_bytes(JPEG)
    return tmp_path


def choice(bad_images: str, *more: object) -> Config:
    return config_for("--bad_images", bad_images, *more)


def faults(folder: Path) -> dict[str, str]:
    findings = check_files(ImageFolder.scan(folder), 1024)
    return {name: finding.fault for name, finding in findings.items() if finding.fault}


def labels_read(folder: ImageFolder) -> list[int]:
    """The labels that MindSpore reads, image by image."""
    data = ImageData(folder, 32, 2, training=False)
    return [int(label) for _, labels in data.epoch() for label in labels.asnumpy() if label >= 0]


def test_every_kind_of_bad_image_is_named(folder: Path) -> None:
    assert faults(folder).keys() == {f"mixed/{name}" for name in BAD}


def test_error_names_images_and_says_what_to_do(folder: Path) -> None:
    with pytest.raises(UserError, match=r"12 bad images: mixed/bit.png: .* and 7 more; .*--bad_images skip"):
        check_images(ImageFolder.scan(folder), choice("error"), training=True)


@pytest.mark.parametrize(("bad_images", "training", "count"),
                         [("skip", True, 6), ("replace", True, 18), ("replace", False, 6)])
def test_what_is_left_is_read_by_mindspore(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           bad_images: str, training: bool, count: int) -> None:
    monkeypatch.chdir(tmp_path)
    usable = check_images(ImageFolder.scan(folder), choice(bad_images), training)
    assert labels_read(usable) == [0] * count + [1]
    assert {Path(name).name for name in usable.files} == GOOD.keys()
    assert not list(tmp_path.glob("abnormal_image*")) + list(tmp_path.glob("unsupported_image*"))


def test_ignore_looks_at_nothing(folder: Path) -> None:
    assert len(check_images(ImageFolder.scan(folder), choice("ignore"), training=True)) == len(GOOD) + len(BAD) + 1


@pytest.mark.parametrize("length", [21, 175, 300, 600])
def test_a_jpeg_without_its_pixels_cannot_crash_what_is_not_checked(length: int, tmp_path: Path) -> None:
    """MindSpore's own decoder waits for ever, or divides by zero."""
    for name, content in (("a.jpg", JPEG), ("b.jpg", JPEG[:length])):
        (tmp_path / "class").mkdir(exist_ok=True)
        (tmp_path / "class" / name).write_bytes(content)
    folder = check_images(ImageFolder.scan(tmp_path), choice("ignore"), training=True)
    with pytest.raises(UserError, match=f"{tmp_path}/class/b.jpg: .*; remove or mend it"):
        list(ImageData(folder, 32, 2, training=True).epoch())


def test_only_a_cut_header_is_called_so() -> None:
    whole = JPEG.index(b"\xff\xda") + 14  # a scan of three colours
    padded = JPEG[:2] + b"\xff\xff" + JPEG[2:]
    assert [has_cut_header(np.frombuffer(content, np.uint8)) for content in (
        JPEG[:2], JPEG[:whole - 1], JPEG[:whole], JPEG, padded, PNG, b"")] == [True, True, False, False, False, False,
                                                                              False]


def test_a_class_without_a_good_image_is_an_error(folder: Path) -> None:
    (folder / "sound" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="class sound has no good image"):
        check_images(ImageFolder.scan(folder), choice("skip"), training=True)


def test_findings_are_remembered_until_a_file_changes(folder: Path) -> None:
    faults(folder)
    memory = max(cache_folder("pictures").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    told = json.loads(memory.read_text())
    told["mixed/half.jpg"][1] = "remembered"
    memory.write_text(json.dumps(told))
    assert faults(folder)["mixed/half.jpg"] == "remembered"
    (folder / "mixed" / "half.jpg").write_bytes(JPEG)
    assert "mixed/half.jpg" not in faults(folder)


def test_a_good_image_is_looked_at_again_only_when_it_has_changed(folder: Path) -> None:
    path = folder / "sound" / "a.jpg"
    faults(folder)
    status = path.stat()
    path.write_bytes(bytes(len(JPEG)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "sound/a.jpg" not in faults(folder)
    os.utime(path, ns=(1, 1))
    assert "sound/a.jpg" in faults(folder)


def test_what_an_earlier_version_remembered_counts(folder: Path) -> None:
    """It had a line for each file in the JSON file."""
    faults(folder)
    path = folder / "sound" / "a.jpg"
    for memory in cache_folder("pictures").glob("*.npy"):
        memory.unlink()
    for memory in cache_folder("pictures").glob("*.json"):
        told = json.loads(memory.read_text())
        told["sound/a.jpg"] = [f"{path.stat().st_size} {path.stat().st_mtime_ns}", "", "", ""]
        memory.write_text(json.dumps(told))
    status = path.stat()
    path.write_bytes(bytes(len(JPEG)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "sound/a.jpg" not in faults(folder)


def test_a_damaged_memory_costs_only_time(folder: Path) -> None:
    faults(folder)
    for memory in cache_folder("pictures").glob("*.json"):
        memory.write_text('{"sound/a.jpg": 3}')
    for memory in cache_folder("pictures").glob("*.npy"):
        memory.write_bytes(memory.read_bytes()[:-3])
    assert len(faults(folder)) == len(BAD)


def test_all_bad_files_are_listed_on_request(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path.with_name("listed.txt")
    (folder / "mixed" / "notes.txt").write_text("no image")
    for _ in range(2):  # a second check of the folder replaces its lines
        check_images(ImageFolder.scan(folder), choice("skip", "--left_out_file", listed), training=True)
    lines = dict(line.split("\t") for line in listed.read_text().splitlines())
    assert lines.keys() == {f"{folder}/mixed/{name}" for name in [*BAD, "notes.txt"]}
    assert lines[f"{folder}/mixed/empty.jpg"] == "empty"
    assert len(listed.read_text().splitlines()) == len(BAD) + 1


def test_a_link_that_leads_nowhere_is_bad(folder: Path) -> None:
    (folder / "sound" / "b.jpg").symlink_to("nowhere")
    assert faults(folder)["sound/b.jpg"] == "no such file"
