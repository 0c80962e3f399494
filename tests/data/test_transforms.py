"""The exact transforms of training and evaluation."""
from pathlib import Path

import mindspore.dataset as ds
import numpy as np
import pytest
from conftest import Images
from mindspore.dataset import vision
from PIL import Image

from src.data.framing import Framing
from src.data.image_folder import ImageFolder
from src.data.transforms import eval_transforms, train_transforms
from src.dataset import ImageData
from src.normalisation import IMAGENET_PIXELS
from tests.test_dataset import batches


def transformed(path: Path, size: int) -> np.ndarray:
    pipeline = ds.NumpySlicesDataset([str(path)], ["path"], shuffle=False)
    pipeline = pipeline.map(lambda name: np.fromfile(str(name), np.uint8), "path").map(eval_transforms(size), "path")
    return next(pipeline.create_tuple_iterator(output_numpy=True))[0]


@pytest.mark.parametrize(("size", "shorter"), [(224, 256), (192, 219), (96, 110), (64, 73), (32, 37)])
def test_shorter_side_before_the_crop(size: int, shorter: int) -> None:
    assert Framing().shorter_side(size) == shorter


@pytest.mark.parametrize("shape", [(200, 100), (100, 200), (90, 90)])
def test_evaluation_keeps_proportions(shape: tuple[int, int], tmp_path: Path) -> None:
    """A square in the middle of a photo stays a square: it is the shorter side that is resized."""
    height, width = shape
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 2 - 20:height // 2 + 20, width // 2 - 20:width // 2 + 20] = 255
    Image.fromarray(pixels).save(tmp_path / "square.png")
    plane = transformed(tmp_path / "square.png", 64)[0] > 0
    assert plane.shape == (64, 64)
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    side = 40 * 73 / min(shape)
    assert len(rows) == pytest.approx(side, abs=2)
    assert len(columns) == pytest.approx(side, abs=2)
    assert rows.mean() == pytest.approx(31.5, abs=1)
    assert columns.mean() == pytest.approx(31.5, abs=1)


def test_evaluation_normalises_rgb(tmp_path: Path) -> None:
    colour = (200, 100, 50)
    Image.new("RGB", (50, 40), colour).save(tmp_path / "plain.png")
    image = transformed(tmp_path / "plain.png", 32)
    assert image.shape == (3, 32, 32)
    assert image.dtype == np.float32
    expected = (np.array(colour) / 255 - IMAGENET_PIXELS.mean) / IMAGENET_PIXELS.std
    np.testing.assert_allclose(image, np.broadcast_to(expected[:, None, None], image.shape), atol=1e-5)


def test_training_transform_is_the_published_one() -> None:
    crop, flip, colour, normalise, _ = train_transforms(64)
    assert isinstance(crop, vision.RandomCropDecodeResize)
    assert (crop.size, crop.scale, crop.ratio) == ((64, 64), (0.08, 1.0), (3 / 4, 4 / 3))
    assert flip.prob == 0.5
    assert isinstance(colour, vision.RandomColorAdjust)
    np.testing.assert_allclose(normalise.mean, [255 * m for m in IMAGENET_PIXELS.mean])
    np.testing.assert_allclose(normalise.std, [255 * s for s in IMAGENET_PIXELS.std])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode_have_three_channels(mode: str, images: Images) -> None:
    root = images({"cat": 1, "dog": 1})
    Image.new(mode, (40, 40), 60 if mode in {"L", "I;16"} else None).save(
        root / "cat" / ("b.jpg" if mode == "CMYK" else "b.png"))
    data = ImageData(ImageFolder.scan(root), 32, 3, training=False)
    (batch, labels), = batches(data)
    assert batch.shape == (3, 3, 32, 32)
    assert labels.tolist() == [0, 0, 1]
