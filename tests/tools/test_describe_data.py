"""The summary of a data set tells what is in it, by looking at the files, and draws it."""
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Images, assert_one_clear_line, run_script
from PIL import Image

from src.data.image_folder import ImageFolder
from src.data.stats import collect_stats
from src.errors import UserError
from src.reports.data_summary import draw_summary, short
from tools.describe_data import main


def save(path: Path, size: tuple[int, int], mode: str = "RGB", kind: str = "JPEG", **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(path.name))
    Image.fromarray(random.integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode).save(path, kind, **options)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Images of many kinds, some bad, one of them in both parts."""
    root = tmp_path / "mixed"
    save(root / "train/cat/a.jpg", (100, 50))
    save(root / "train/cat/bb.png", (40, 80), "L", "PNG")
    save(root / "train/cat/ccc.jpg", (60, 60), "CMYK")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "train/cat/dddd.jpg", (70, 90), exif=exif)
    save(root / "train/dog/a.tif", (30, 30), kind="TIFF")
    (root / "train/dog/empty.jpg").touch()
    (root / "train/dog/text.jpg").write_text("no image")
    save(root / "train/dog/gif.jpg", (20, 20), "P", "GIF")
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(content, "JPEG")
    (root / "train/dog/cut.jpg").write_bytes(content.getvalue()[:3000])  # its header is whole
    save(root / "val/cat/a.jpg", (10, 10))
    shutil.copy(root / "train/cat/bb.png", root / "val/cat/again.png")
    (root / "val/owl").mkdir()
    with Image.open(root / "train/cat/a.jpg") as image:
        image.resize((90, 45)).save(root / "val/owl/near.png")
    return root


def described(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    main([str(option) for option in options])
    out, err = capsys.readouterr()
    assert err == ""  # no progress where no terminal is
    return out


def test_counts_sizes_and_copies_are_told(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = described(capsys, "--dataset_path", mixed)
    train, val, *rest = out.split("\n\n")
    assert train.splitlines() == [
        f"train: 9 images of 2 classes in {mixed}/train",
        "  per class    min 4 (cat)  median 4.5  max 5 (dog)  largest/smallest 1.2",
        "  width        min 20  median 60  max 100",
        "  height       min 20  median 60  max 90",
        "  shorter side min 20  median 50  max 70",
        "  formats      JPEG 4  PNG 1  TIFF 1  GIF 1",
        "  colours      RGB 4  L 1  CMYK 1  P 1",
        "  turned       1 have EXIF data that says to turn them; they are used upright",
        "  bad          2 (headers only; --check decodes every image)",
        "    dog/empty.jpg: empty",
        "    dog/text.jpg: not an image"]
    assert "  bad          0 (headers only; --check decodes every image)" in val
    assert rest[0].splitlines() == [
        "classes only in train: dog", "classes only in val: owl",
        "images in both train and val: 1; they make the score better than it is",
        "  train/cat/bb.png = val/cat/again.png",
        "images of val that look like one of train: 1; they may make the score better than it is",
        "  val/owl/near.png ~ train/cat/a.jpg (1 of 64 bits differ)"]
    assert rest[1].splitlines() == [
        "class     train       val",
        "cat           4         2",
        "dog           5         0",
        "owl           0         1"]


def test_decoding_finds_what_headers_hide(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = described(capsys, "--dataset_path", mixed / "train", "--check")
    assert "bad          3 (every image was decoded)\n    dog/cut.jpg: cannot be read (" in out


def test_one_folder_of_classes_is_described(images: Images, capsys: pytest.CaptureFixture[str]) -> None:
    root = images({"cat": 3, "dog": 2})
    out = described(capsys, "--dataset_path", root)
    assert out.startswith(f"pictures: 5 images of 2 classes in {root}\n")
    assert "both" not in out


def test_many_classes_are_not_all_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(61):
        for i in range(1 + number % 30):
            save(tmp_path / f"many/c{number:02d}/{i}.bmp", (4, 4), kind="BMP")
    out = described(capsys, "--dataset_path", tmp_path / "many")
    names = [line.split()[0] for line in out.splitlines()[out.splitlines().index(""):] if line]
    assert len(names) == 1 + 10 + 1 + 10
    assert names[1:4] == ["c29", "c59", "c28"]
    assert names[-3:] == ["c00", "c30", "c60"]


@pytest.mark.parametrize("classes", [5, 70])
def test_the_image_is_drawn(tmp_path: Path, classes: int) -> None:
    """Drawn for few and many classes, long names, signs that have a meaning to matplotlib, and bad images."""
    names = [f"{'$x_1$' if n % 3 else '蘋果'} {'and a long name ' * (n % 5)}{n}" for n in range(classes)]
    for part in ("train", "val"):
        for n, name in enumerate(names):
            save(tmp_path / part / name / "a.jpg", (20 + n, 30))
            (tmp_path / part / name / "b.jpg").write_text("no image")
    parts = {part: collect_stats(ImageFolder.scan(tmp_path / part), decode=False) for part in ("train", "val")}
    draw_summary(parts, tmp_path / "summary.png")
    with Image.open(tmp_path / "summary.png") as image:
        assert image.width == 1300
        colours = {colour for _, colour in image.convert("RGB").getcolors(2 ** 24)}
    assert {(31, 119, 180), (255, 127, 14), (211, 211, 211)} <= colours  # train, val, a crossed field
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_pairs_that_look_alike_are_drawn(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for distance in (8, -1):
        out = described(capsys, "--dataset_path", mixed, "--output", tmp_path / "a.png", "--scene_distance", distance)
        assert f"look like one of train: {int(distance == 8)}" in out
        with Image.open(tmp_path / "a.png") as image:
            sizes.append(image.height)
    assert sizes[0] > sizes[1] + 100


def test_the_parts_of_a_list_are_compared(images: Images, capsys: pytest.CaptureFixture[str]) -> None:
    root = images({"cat": 2, "dog": 2})
    shutil.copy(root / "cat/000.jpg", root / "cat/copy.jpg")
    (root / "list.csv").write_text("path,label,split\ncat/000.jpg,cat,train\ncat/copy.jpg,cat,val\n"
                                   "dog/000.jpg,dog,train\ndog/001.jpg,dog,train\ndog/001.jpg,dog,val\n")
    out = described(capsys, "--dataset_path", root / "list.csv")
    assert "images in both train and val: 2; " in out
    assert "  train/cat/000.jpg = val/cat/copy.jpg\n  train/dog/001.jpg = val/dog/001.jpg\n" in out


def test_long_names_keep_their_ends() -> None:
    assert short("a" * 10, 10) == "a" * 10
    assert short("beginning and end", 10) == "begi\N{HORIZONTAL ELLIPSIS}d end"
    assert len(short("x" * 99, 28)) == 28


def test_images_that_cannot_be_read_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad/cat").mkdir(parents=True)
    (tmp_path / "bad/cat/a.jpg").touch()
    out = described(capsys, "--dataset_path", tmp_path / "bad", "--output", tmp_path / "bad.png")
    assert "bad          1" in out
    assert "width" not in out
    assert (tmp_path / "bad.png").stat().st_size > 1000


def test_the_command_ends_in_one_line(tmp_path: Path) -> None:
    assert_one_clear_line(run_script("tools/describe_data.py", "--dataset_path", tmp_path / "none"), "no such folder")
    with pytest.raises(UserError, match="name the image with the ending .png"):
        main(["--dataset_path", str(tmp_path), "--output", "x.jpg"])
