"""Every kind of image shows the same pixels in training, evaluation, prediction and reports."""
import base64
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.image_cache import GB, copies_folder, encoded_image, limit_cache, rewrite
from src.data.image_check import check_file, check_images
from src.data.image_folder import ImageFolder
from src.data.images import LARGEST_AS_IT_IS, open_image, rewrite_reason, thumbnail
from src.data.transforms import Augmentation
from src.dataset import ImageData
from src.deployment import contact_sheet
from src.deployment.contact_sheet import draw_contact_sheet
from src.deployment.prediction import ImageStream, Prediction, list_images
from src.errors import UserError
from src.metrics import MISTAKE
from src.reports.report import Evaluated, Report, write_report
from tests.conftest import config_for
from tests.support.odd_images import OddImage, encoded, exif, not_images, odd_images, oriented, photo

KINDS = odd_images()
SIDE = 64


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All kinds as the images of one class; not to be changed."""
    root = tmp_path_factory.mktemp("odd")
    (root / "scene").mkdir()
    for name, image in KINDS.items():
        (root / "scene" / name).write_bytes(image.content)
    return root


@pytest.fixture(scope="session")
def usable(collection: Path) -> ImageFolder:
    return check_images(ImageFolder.scan(collection), config_for("--image_size", SIDE), training=False)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def test_the_collection_is_large() -> None:
    assert len(KINDS) >= 60


@pytest.mark.parametrize("name", KINDS)
def test_the_pixels_are_those_of_the_photo(name: str, collection: Path, tmp_path: Path) -> None:
    from mindspore.dataset import vision

    image: OddImage = KINDS[name]
    finding = check_file(collection / "scene" / name, tmp_path, 1024)
    assert (finding.fault, finding.reason) == ("", image.reason)
    pixels = vision.Decode()(encoded_image(collection / "scene" / name, finding.copy))
    expected = np.asarray(image.expected.convert("RGB"))
    assert pixels.shape == expected.shape
    assert difference(pixels, expected) <= image.tolerance
    assert difference(np.asarray(thumbnail(collection / "scene" / name, 1000)), expected) <= image.tolerance


def test_originals_are_not_touched(usable: ImageFolder) -> None:
    assert {Path(file).name for file in usable.files} == KINDS.keys()
    for file in usable.files:
        assert (usable.root / file).read_bytes() == KINDS[Path(file).name].content


def test_evaluation_and_prediction_see_the_same_pixels(usable: ImageFolder) -> None:
    def canonical(image: Image.Image, path: Path) -> Path:
        image.convert("RGB").save(path, "PNG")
        return path

    data = ImageData(usable, SIDE, len(usable), training=False, normalisation=None)
    (images, _), = data.epoch()
    paths = list_images(str(usable.root))
    stream = ImageStream(paths, SIDE, len(paths), 2, normalisation=None)
    (positions, predicted), = stream
    assert not stream.faults
    by_name = {paths[position].name: image for position, image in zip(positions.tolist(), predicted, strict=True)}
    expected_folder = usable.root.with_name("expected")
    expected_folder.mkdir()
    expected = ImageStream([canonical(KINDS[Path(file).name].expected, expected_folder / f"{number}.png")
                            for number, file in enumerate(usable.files)], SIDE, len(usable), 1, normalisation=None)
    (_, reference), = expected
    for file, seen, wanted in zip(usable.files, images.asnumpy(), reference, strict=True):
        np.testing.assert_array_equal(seen, by_name[Path(file).name], err_msg=file)
        assert difference(seen, wanted) <= KINDS[Path(file).name].tolerance + 0.5, file


def test_all_of_them_can_be_trained_on(usable: ImageFolder) -> None:
    """With whole images and no change of colour the views are the photo's."""
    plain = Augmentation(crop_scale=1.0, flip=0.0, color_jitter=0.0)
    data = ImageData(usable, SIDE, 8, training=True, augmentation=plain)
    assert sum(len(labels) for _, labels in data.epoch()) == len(usable) // 8 * 8


@pytest.mark.parametrize(("form", "tolerance"), [("PNG", 0), ("JPEG", 2)])
def test_the_eight_orientations_are_one_image_everywhere(form: str, tolerance: float, tmp_path: Path) -> None:
    """What enters the network in training, evaluation and prediction, and what a person sees, in grey values."""
    (tmp_path / "scene").mkdir()
    options = {"quality": 98, "subsampling": 0} if form == "JPEG" else {}
    for n in range(1, 9):
        (tmp_path / "scene" / f"{n}.{form}").write_bytes(encoded(oriented(photo(), n), form, exif=exif(n), **options))
    folder = check_images(ImageFolder.scan(tmp_path), config_for("--image_size", SIDE), training=True)
    assert sum(map(bool, folder.copies)) == 7
    plain = Augmentation(crop_scale=1.0, flip=0.0, color_jitter=0.0)
    trained = np.concatenate([images.asnumpy() for images, _ in ImageData(
        folder, SIDE, 1, training=True, augmentation=plain).epoch()])
    (evaluated, _), = ImageData(folder, SIDE, 8, training=False, normalisation=None).epoch()
    paths = list_images(str(tmp_path))
    (_, predicted), = ImageStream(paths, SIDE, 8, 1, normalisation=None)
    for images, scale in ((trained, 255 * 0.226), (evaluated.asnumpy(), 1), (predicted, 1),
                          (on_contact_sheet(paths, tmp_path / "sheet.png"), 1),
                          (in_report(folder, tmp_path / "report.html"), 1)):
        assert len(images) == 8
        assert np.ptp(images[0]) * scale > 100
        for image in images[1:]:
            assert difference(image, images[0]) * scale <= tolerance


def on_contact_sheet(paths: list[Path], sheet: Path) -> list[np.ndarray]:
    """The images as a contact sheet shows them in one row."""
    draw_contact_sheet([Prediction(path, ("class",), (1.0,)) for path in paths], sheet)
    with Image.open(sheet) as image:
        pixels = np.asarray(image)[contact_sheet.MARGIN:][:contact_sheet.SIDE, contact_sheet.MARGIN:]
    step = contact_sheet.SIDE + contact_sheet.MARGIN
    return [pixels[:, n * step:][:, :contact_sheet.SIDE] for n in range(len(paths))]


def in_report(folder: ImageFolder, page: Path) -> list[np.ndarray]:
    """The images as a report shows them that calls all of them mistakes."""
    mistakes = np.zeros(len(folder), MISTAKE)
    evaluated = Evaluated("", folder.classes, np.ones((1, 1), np.int64), mistakes, folder.root, folder.files)
    write_report(Report("", "", {}, {}, {}, "", {}, evaluated=evaluated), page)
    encoded_images = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', page.read_text(encoding="utf-8"))
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))) for content in encoded_images]


def test_the_developers_samples_show_one_photo(shared: Path, tmp_path: Path) -> None:
    samples = shared / "data" / "odd_images"
    if not samples.is_dir():
        pytest.skip("needs ../shared/data/odd_images")
    pytest.importorskip("pillow_heif")
    from mindspore.dataset import vision
    plain = vision.Decode()(np.fromfile(samples / "plain.jpg", np.uint8))
    names = [path.name for path in list_images(str(samples))]
    assert len(names) >= 9
    for name in names:
        finding = check_file(samples / name, tmp_path, 1024)
        assert not finding.fault, name
        pixels = vision.Decode()(encoded_image(samples / name, finding.copy))
        grey = np.ptp(pixels.astype(int), axis=2).max() == 0
        wanted = np.asarray(Image.fromarray(plain).convert("L"))[:, :, None] if grey else plain
        assert difference(pixels, wanted) < 8, name


@pytest.mark.parametrize("name", not_images())
def test_what_is_no_image_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(not_images()[name])
    assert check_file(tmp_path / name, tmp_path / "copies", 1024).fault
    assert not list(tmp_path.glob("copies/*/*"))


# ---- copies

def test_a_large_image_is_reduced_in_its_copy(tmp_path: Path) -> None:
    photo().resize((600, 400)).save(tmp_path / "a.webp", lossless=True)
    copy = rewrite(tmp_path / "a.webp", tmp_path / "copies", 100)
    with Image.open(copy) as image:
        assert image.size == (150, 100)


def test_an_image_of_over_89_megapixels_has_a_copy(tmp_path: Path) -> None:
    side = int(LARGEST_AS_IT_IS ** 0.5) + 1
    Image.new("1", (side, side), 1).save(tmp_path / "large.png")
    with open_image(tmp_path / "large.png") as image:
        assert rewrite_reason(image) == "over 89 megapixels"
    finding = check_file(tmp_path / "large.png", tmp_path / "copies", 64)
    with Image.open(finding.copy) as image:
        assert (image.size, image.convert("RGB").getpixel((9, 9))) == ((64, 64), (255, 255, 255))


def test_the_same_content_has_one_copy_and_a_lost_one_is_made_again(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.webp").write_bytes(KINDS["lossy.webp"].content)
    copies = {rewrite(tmp_path / f"{name}.webp", tmp_path / "copies", 64) for name in "ab"}
    copy, = copies
    before = encoded_image(tmp_path / "a.webp", str(copy))
    copy.unlink()
    np.testing.assert_array_equal(encoded_image(tmp_path / "a.webp", str(copy)), before)
    assert copy.is_file()


def test_the_copies_keep_to_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path))
    copies = []
    for number, name in enumerate(("lossy.webp", "colours.gif", "inks.jpg")):
        (tmp_path / name).write_bytes(KINDS[name].content)
        copies.append(rewrite(tmp_path / name, copies_folder(), 64))
        os.utime(copies[-1], (number, number))
    sizes = [copy.stat().st_size for copy in copies]
    needed = [str(copies[0])]
    assert limit_cache(needed, (sum(sizes) - 1) / GB) == sizes[0] + sizes[2]
    assert [copy.exists() for copy in copies] == [True, False, True]
    with pytest.raises(UserError, match="--image_cache_gb"):
        limit_cache(needed, (sizes[0] - 1) / GB)
    assert copies[0].exists()
