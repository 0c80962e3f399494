"""The digits as an image folder: the same on every machine, whole or not at all, and never over something else."""
import hashlib
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_clear_line, run_script
from PIL import Image
from sklearn.datasets import load_digits

from src.data.image_folder import ImageFolder
from src.errors import UserError
from tools.make_digits import main, make_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "digits"
    assert make_digits(folder) == {"train": 1438, "val": 359}
    return folder


def test_every_digit_is_there_once_and_a_fifth_of_each_class_validates(digits: Path) -> None:
    train, val = ImageFolder.scan(digits / "train"), ImageFolder.scan(digits / "val")
    assert train.classes == val.classes == tuple("0123456789")
    total = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(train.labels) + np.bincount(val.labels), total)
    np.testing.assert_array_equal(np.bincount(val.labels), [round(0.2 * count) for count in total])
    numbers = [Path(file).stem for folder in (train, val) for file in folder.files]
    assert sorted(numbers) == [f"{n:04d}" for n in range(1797)]


def test_images_show_the_digit_of_their_folder(digits: Path) -> None:
    data = load_digits()
    for path in sorted(digits.rglob("*.png"))[::97]:
        number = int(path.stem)
        assert path.parent.name == str(data.target[number])
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((32, 32), "L")
            small = np.asarray(image.resize((8, 8), Image.Resampling.BOX)).astype(float) * 16 / 255
        assert np.corrcoef(small.ravel(), data.images[number].ravel())[0, 1] > 0.97


def test_the_same_every_time(digits: Path, tmp_path: Path) -> None:
    main(["--output", str(tmp_path / "again")])

    def content(root: Path) -> dict[str, str]:
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in root.rglob("*.png")}

    assert content(tmp_path / "again") == content(digits)


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make_digits(tmp_path / "empty")
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["train", "val"]


@pytest.mark.parametrize("kind", ["full folder", "file"])
def test_what_is_there_is_left_alone(kind: str, tmp_path: Path) -> None:
    output = tmp_path / "mine"
    if kind == "file":
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=f"^{output}: already exists and is not an empty folder"):
        make_digits(output)
    assert (output if kind == "file" else output / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Path] = []

    def save(_: Image.Image, path: Path) -> None:
        if len(saved) == 100:
            raise OSError(28, "No space left on device")
        saved.append(path)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(UserError, match="digits: cannot be made: No space left on device"):
        make_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_the_command_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_clear_line(run_script("tools/make_digits.py", "--output", tmp_path / "file" / "digits"), "file/digits")
