"""How evaluation makes a square of an image: each mode beside plain numpy, and the views that count."""
import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import config_for
from mindspore import Tensor, nn
from mindspore.dataset import vision
from PIL import Image

from src.data.framing import CROP_MODES, INTERPOLATIONS, PAD_COLOUR, VIEWS, Framing, mean_over_views
from src.data.image_folder import ImageFolder
from src.data.transforms import eval_transforms
from src.dataset import ImageData
from src.deployment.prediction import ImageStream
from src.distributed.world import World
from src.errors import UserError
from src.evaluation import evaluate
from src.model_utils.keys import KEYS
from src.normalisation import IMAGENET_PIXELS

ROOT = Path(__file__).parents[2]
SIZE = 32
SHAPES = [(60, 83), (83, 60), (20, 31), (64, 64), (45, 45), (33, 290), (1, 50)]  # height and width
ROUNDING = 1  # grey levels: the operators compute in fixed-point numbers


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng((height, width)).integers(0, 256, (height, width, 3), np.uint8)


def framed(pixels: np.ndarray, framing: Framing, path: Path) -> np.ndarray:
    """H x W x 3 of 0 to 255, as evaluation frames them."""
    Image.fromarray(pixels).save(path / "p.png")
    (_, images), = ImageStream([path / "p.png"], SIZE, 1, 1, None, framing)
    return images[0].transpose(1, 2, 0)


# ---- the reference: interpolation between the centres of pixels, whose outermost are repeated

def linear(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def cubic(distance: float) -> float:
    """Keys, "Cubic convolution interpolation for digital image processing", with a = -3/4."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1
    return a * x ** 3 - 5 * a * x ** 2 + 8 * a * x - 4 * a if x < 2 else 0.0


def weights(source: int, target: int, kernel: Callable[[float], float]) -> np.ndarray:
    """target x source."""
    found = np.zeros((target, source))
    for row in range(target):
        position = (row + 0.5) * source / target - 0.5
        for place in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            found[row, min(max(place, 0), source - 1)] += kernel(position - place)
    return found


def resized(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    kernel = cubic if interpolation == "bicubic" else linear
    rows, columns = weights(pixels.shape[0], height, kernel), weights(pixels.shape[1], width, kernel)
    return np.clip(np.einsum("yh,xw,hwc->yxc", rows, columns, pixels), 0, 255)


def reference(pixels: np.ndarray, framing: Framing) -> np.ndarray:
    height, width = pixels.shape[:2]
    if framing.crop_mode == "squash":
        return resized(pixels, SIZE, SIZE, framing.interpolation)
    if framing.crop_mode == "pad":
        scale = SIZE / max(height, width)
        high, wide = (max(1, int(side * scale + 0.5)) for side in (height, width))
        top, left = (SIZE - high) // 2, (SIZE - wide) // 2
        square = np.tile(np.array([124.0, 116.0, 104.0]), (SIZE, SIZE, 1))
        square[top:top + high, left:left + wide] = resized(pixels, high, wide, framing.interpolation)
        return square
    shorter = round(SIZE / framing.crop_pct)
    high, wide = (int(np.float32(side) / np.float32(min(height, width)) * np.float32(shorter))
                  for side in (height, width))
    top, left = (high - SIZE) // 2, (wide - SIZE) // 2
    return resized(pixels, high, wide, framing.interpolation)[top:top + SIZE, left:left + SIZE]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("framing", [
    *(Framing(mode, interpolation=interpolation) for mode in CROP_MODES for interpolation in INTERPOLATIONS),
    Framing(crop_pct=1.0), Framing(crop_pct=0.512), Framing(crop_pct=0.25, interpolation="bicubic")], ids=str)
def test_pixels_are_those_of_plain_numpy(framing: Framing, shape: tuple[int, int], tmp_path: Path) -> None:
    pixels = photo(*shape)
    np.testing.assert_allclose(framed(pixels, framing, tmp_path), reference(pixels, framing), atol=ROUNDING + 0.5)


def test_bilinear_enlargement_is_pillows_too(tmp_path: Path) -> None:
    """Pillow smooths what it reduces, so only enlarged images are comparable."""
    pixels = photo(21, 13)
    expected = np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR), float)
    np.testing.assert_allclose(framed(pixels, Framing("squash"), tmp_path), expected, atol=ROUNDING + 1)


def test_the_default_has_the_bits_of_the_published_transform() -> None:
    found = eval_transforms(SIZE)
    decode, resize, crop, normalise, layout = found
    assert [type(step) for step in found] == [vision.Decode, vision.Resize, vision.CenterCrop, vision.Normalize,
                                              vision.HWC2CHW]
    pixels = photo(75, 99)
    expected = vision.CenterCrop(SIZE)(vision.Resize(37)(pixels))
    np.testing.assert_array_equal(crop(resize(pixels)), expected)
    np.testing.assert_array_equal(layout(normalise(expected)), vision.HWC2CHW()(vision.Normalize(
        IMAGENET_PIXELS.pixel_mean, IMAGENET_PIXELS.pixel_std)(expected)))


def test_the_ground_of_padding_is_normalised_to_nothing(tmp_path: Path) -> None:
    Image.fromarray(photo(10, 40)).save(tmp_path / "p.png")
    (_, images), = ImageStream([tmp_path / "p.png"], SIZE, 1, 1, framing=Framing("pad"))
    assert PAD_COLOUR == (124, 116, 104)
    assert np.abs(images[0, :, :12]).max() < 0.01  # a grey level is 0.017
    assert np.abs(images[0, :, 12:20]).max() > 1


def test_the_choices_of_the_keys_are_those_of_the_code() -> None:
    assert KEYS["crop_mode"].choices == CROP_MODES
    assert KEYS["interpolation"].choices == tuple(INTERPOLATIONS)
    assert KEYS["tta"].choices == tuple(VIEWS)
    assert Framing.with_views(config_for()) == Framing() == Framing.of(config_for("--tta", "flip"))


# ---- views

def test_flip_is_the_image_and_its_mirror_image(tmp_path: Path) -> None:
    Image.fromarray(photo(60, 83)).save(tmp_path / "p.png")
    for mode in CROP_MODES:
        (_, plain), = ImageStream([tmp_path / "p.png"], SIZE, 1, 1, framing=Framing(mode))
        (_, views), = ImageStream([tmp_path / "p.png"], SIZE, 1, 1, framing=Framing(mode, tta="flip"))
        np.testing.assert_array_equal(views, np.stack([plain, plain[..., ::-1]], axis=1))


@pytest.mark.parametrize("shape", [(60, 83), (83, 60), (64, 64)])
def test_five_crops_are_the_middle_and_the_corners(shape: tuple[int, int], tmp_path: Path) -> None:
    pixels = photo(*shape)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    (_, plain), = ImageStream([tmp_path / "p.png"], SIZE, 1, 1, None)
    (_, views), = ImageStream([tmp_path / "p.png"], SIZE, 1, 1, None, Framing(tta="five_crop"))
    whole = vision.Resize(37)(pixels).transpose(2, 0, 1)
    np.testing.assert_array_equal(views[0], [plain[0], whole[:, :SIZE, :SIZE], whole[:, :SIZE, -SIZE:],
                                             whole[:, -SIZE:, :SIZE], whole[:, -SIZE:, -SIZE:]])


@pytest.mark.parametrize("mode", ["pad", "squash"])
def test_no_crops_of_a_whole_image(mode: str) -> None:
    with pytest.raises(UserError, match=f"--crop_mode {mode} shows the whole image: use --tta flip, or --crop_mode"):
        Framing.with_views(config_for("--tta", "five_crop", "--crop_mode", mode))


class Halves(nn.Cell):
    """Logits that are the means of the left and of the right half of the images."""

    def construct(self, images: Tensor) -> Tensor:
        half = images.shape[3] // 2
        return ms.ops.stack((images[..., :half].mean((1, 2, 3)), images[..., half:].mean((1, 2, 3))), 1)


def test_the_mean_over_views_by_hand() -> None:
    images = np.random.default_rng(0).standard_normal((3, 2, 3, 4, 4)).astype(np.float32)

    def compute(view: np.ndarray) -> np.ndarray:
        assert view.shape == (3, 3, 4, 4)
        return view.max(axis=(2, 3))
    np.testing.assert_array_equal(mean_over_views(compute, images), (compute(images[:, 0]) + compute(images[:, 1])) / 2)
    np.testing.assert_array_equal(mean_over_views(compute, images[:, 1]), compute(images[:, 1]))


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_evaluation_scores_the_mean_of_both_views(tta: str, tmp_path: Path) -> None:
    """Five images in batches of two, so that the last one is filled."""
    for number in range(5):
        path = tmp_path / ("left", "right")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photo(40, 40 + number)).save(path)
    folder = ImageFolder.scan(tmp_path)
    (images, labels), = ImageData(folder, SIZE, 5, training=False).epoch()
    logits = Halves()(images).asnumpy().astype(np.float64)
    if tta == "flip":
        logits = (logits + Halves()(Tensor(images.asnumpy()[..., ::-1].copy())).asnumpy()) / 2
        np.testing.assert_allclose(logits[:, 0], logits[:, 1], atol=1e-6)
    entropy = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(5), labels.asnumpy()]
    data = ImageData(folder, SIZE, 2, training=False, framing=Framing(tta=tta))
    result = evaluate(Halves(), data, World())
    assert result.images == 5
    assert result.loss == pytest.approx(entropy.mean(), rel=1e-5)


READERS = {"ImageData", "ImageStream", "pooled_features"}


def framed_calls(path: Path) -> Iterator[tuple[str, bool]]:
    """Where a module reads images to evaluate them, and whether it says how they are framed."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in READERS:
            words = [keyword.arg for keyword in call.keywords]
            positional = [ast.unparse(argument) for argument in call.args]
            yield f"{path}:{call.lineno}", "framing" in words or any("raming" in text for text in positional)


def test_whoever_reads_images_says_how_they_are_framed() -> None:
    """Else the keys would have no effect there, and nobody would see it."""
    calls = [found for path in (*ROOT.glob("*.py"), *ROOT.glob("src/**/*.py")) for found in framed_calls(path)]
    assert len(calls) > 8
    assert [where for where, is_framed in calls if not is_framed] == []
