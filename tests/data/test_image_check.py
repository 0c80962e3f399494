"""Bad images are found before a run, by name, and dealt with as asked."""
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.cache_folder import cache_folder
from src.data.image_check import check_images, find_faults
from src.data.image_folder import ImageFolder
from src.dataset import ImageData
from src.errors import UserError


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
    "empty.jpg": b"", "text.jpg": b"no image at all", "page.png": b"<html></html>", "gif.jpg": encoded("GIF"),
    "webp.jpg": encoded("WEBP"), "half.jpg": JPEG[:len(JPEG) // 2], "last_bytes.jpg": JPEG[:-40],
    "header.jpg": JPEG[:20], "half.png": PNG[:len(PNG) // 2], "bit.png": flipped(PNG, len(PNG) // 2),
    "noise.jpg": np.random.default_rng(1).bytes(3000), "half.bmp": encoded("BMP")[:500],
}
GOOD = {"a.jpg": JPEG, "b.png": PNG, "c.bmp": encoded("BMP"), "d.tif": encoded("TIFF")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class `mixed` with good and bad images, class `sound` with good ones."""
    for name, content in {**GOOD, **BAD}.items():
        (tmp_path / "mixed").mkdir(exist_ok=True)
        (tmp_path / "mixed" / name).write_bytes(content)
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "a.jpg").write_bytes(JPEG)
    return tmp_path


def labels_read(folder: ImageFolder) -> list[int]:
    """The labels that MindSpore reads, image by image."""
    data = ImageData(folder, 32, 2, training=False)
    return [int(label) for _, labels in data.epoch() for label in labels.asnumpy() if label >= 0]


def test_every_kind_of_bad_image_is_named(folder: Path) -> None:
    assert find_faults(ImageFolder.scan(folder)).keys() == {f"mixed/{name}" for name in BAD}


def test_error_names_images_and_says_what_to_do(folder: Path) -> None:
    with pytest.raises(UserError, match=r"12 bad images: mixed/bit.png: .* and 7 more; .*--bad_images skip"):
        check_images(ImageFolder.scan(folder), "error", training=True)


@pytest.mark.parametrize(("choice", "training", "count"),
                         [("skip", True, 4), ("replace", True, 16), ("replace", False, 4)])
def test_what_is_left_is_read_by_mindspore(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str,
                                           training: bool, count: int) -> None:
    monkeypatch.chdir(tmp_path)
    usable = check_images(ImageFolder.scan(folder), choice, training)
    assert labels_read(usable) == [0] * count + [1]
    assert {Path(name).name for name in usable.files} == GOOD.keys()
    assert not list(tmp_path.glob("abnormal_image*")) + list(tmp_path.glob("unsupported_image*"))


def test_ignore_looks_at_nothing(folder: Path) -> None:
    assert len(check_images(ImageFolder.scan(folder), "ignore", training=True)) == len(GOOD) + len(BAD) + 1


def test_a_class_without_a_good_image_is_an_error(folder: Path) -> None:
    (folder / "sound" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="class sound has no good image"):
        check_images(ImageFolder.scan(folder), "skip", training=True)


def test_findings_are_remembered_until_a_file_changes(folder: Path) -> None:
    find_faults(ImageFolder.scan(folder))
    memory = max(cache_folder("pictures").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    told = json.loads(memory.read_text())
    told["sound/a.jpg"][1] = "remembered"
    memory.write_text(json.dumps(told))
    assert find_faults(ImageFolder.scan(folder))["sound/a.jpg"] == "remembered"
    os.utime(folder / "sound" / "a.jpg", ns=(1, 1))
    assert "sound/a.jpg" not in find_faults(ImageFolder.scan(folder))


def test_a_damaged_memory_costs_only_time(folder: Path) -> None:
    find_faults(ImageFolder.scan(folder))
    for memory in cache_folder("pictures").glob("*.json"):
        memory.write_text('{"sound/a.jpg": 3}')
    assert len(find_faults(ImageFolder.scan(folder))) == len(BAD)


def test_exif_rotation_is_told_and_not_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    for name, data in {"turned": encoded("JPEG", exif=exif), "straight": JPEG}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(data)
    usable = check_images(ImageFolder.scan(tmp_path), "error", training=False)
    assert "1 images are stored turned" in capsys.readouterr().err
    (images, _), = ImageData(usable, 32, 2, training=False).epoch()
    np.testing.assert_array_equal(*images.asnumpy())
