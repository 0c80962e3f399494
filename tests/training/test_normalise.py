"""Normalisation in the graph of a step: the bits of the pipeline's, from a quarter of the bytes."""
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import config_for, few_blocks
from mindspore import Tensor

from src.data.image_folder import ImageFolder
from src.dataset import ImageData
from src.distributed.world import World
from src.mobilenetV2 import MobileNetV2Backbone
from src.model_utils.config import get_config
from src.models import CrossEntropyWithLabelSmooth, define_net
from src.normalisation import IMAGENET_PIXELS
from src.training.normalise import Normalise
from src.training.optimizer import build_optimizer
from src.training.step import TrainStep
from train import data_source


@pytest.fixture
def folder(photos: Path) -> ImageFolder:
    return ImageFolder.scan(photos / "train")


def data(folder: ImageFolder, normalise: bool) -> ImageData:
    return ImageData(folder, 32, 7, training=True, seed=4, num_workers=2,
                     normalisation=IMAGENET_PIXELS if normalise else None)


def test_pixels_become_the_batches_of_the_pipeline_to_the_bit(folder: ImageFolder) -> None:
    normalise = Normalise(IMAGENET_PIXELS)
    for (pixels, labels), (images, same_labels) in zip(data(folder, False).epoch(2), data(folder, True).epoch(2),
                                                       strict=True):
        assert pixels.dtype == ms.uint8
        np.testing.assert_array_equal(normalise(pixels).asnumpy(), images.asnumpy())
        np.testing.assert_array_equal(labels.asnumpy(), same_labels.asnumpy())


@pytest.mark.parametrize("inputs", [np.full((2, 5, 1, 1), 3, np.float32), np.ones((1, 3, 4, 4), np.float32)])
def test_what_is_normalised_stays(inputs: np.ndarray) -> None:
    np.testing.assert_array_equal(Normalise(IMAGENET_PIXELS)(Tensor(inputs)).asnumpy(), inputs)


def test_steps_on_pixels_are_those_on_normalised_images(folder: ImageFolder) -> None:
    config = config_for("--dropout", 0, "--image_size", 32, "--width_mult", 0.35)
    ends = []
    for normalise in (False, True):
        with few_blocks():
            network = define_net(config, 3)
        step = TrainStep(network, CrossEntropyWithLabelSmooth(0.1),
                         build_optimizer(network, np.full(3, 0.1, np.float32), config), config)
        step.set_train()
        losses = [float(loss.asnumpy()) for loss, _ in step.over(data(folder, normalise).epoch(0))]
        ends.append([losses, *(parameter.asnumpy() for parameter in network.get_parameters())])
    for of_pixels, of_images in zip(*ends, strict=True):
        np.testing.assert_array_equal(of_pixels, of_images)


@pytest.mark.parametrize(("options", "dtype"), [
    (("--platform", "Ascend"), ms.uint8), (("--platform", "GPU"), ms.uint8), (("--platform", "CPU"), ms.float32),
    (("--platform", "Ascend", "--mixup_alpha", 0.2), ms.float32),
    (("--platform", "Ascend", "--auto_augment", "randaugment"), ms.uint8)])
def test_what_goes_to_which_device(options: tuple[object, ...], dtype: ms.Type, folder: ImageFolder) -> None:
    config = get_config(["--image_size", "32", "--batch_size", "7", *map(str, options)])
    source = data_source(config, World(), folder, MobileNetV2Backbone(0.35), training=True)
    assert {images.dtype for images, _ in source.epoch(0)} == {dtype}
