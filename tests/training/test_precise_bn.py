"""Batch norm's statistics measured anew on training images, against numpy; and in a run."""
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import config_for, few_blocks
from mindspore import Tensor

import train
from src.checkpoint.file import read_checkpoint
from src.data.image_folder import ImageFolder
from src.dataset import ImageData, training_order
from src.distributed.collectives import flatten
from src.distributed.world import ALONE, World
from src.models import MobileNetV2, define_net
from src.training import precise_bn
from src.training.precise_bn import measure_statistics
from src.training.step import batch_norm_statistics

OPTIONS = ("--image_size", 32, "--width_mult", 0.35, "--precise_bn", True)


def new_network(*options: object) -> MobileNetV2:
    with few_blocks():
        network = define_net(config_for(*OPTIONS, *options), 3)
    network.set_train(False)
    return network


def of_stem(network: MobileNetV2, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of a batch behind the first convolution."""
    maps = network.backbone.stem.conv(Tensor(images)).asnumpy()
    return maps.mean(axis=(0, 2, 3)), maps.var(axis=(0, 2, 3), ddof=1)


@pytest.mark.parametrize("cpu_kernels", ["auto", "off"])
def test_they_are_the_means_over_batches_of_the_batchs_own(cpu_kernels: str, photos: Path) -> None:
    folder, config = ImageFolder.scan(photos / "train"), config_for(*OPTIONS, "--batch_size", 5)
    network = new_network("--cpu_kernels", cpu_kernels)
    sample = folder.select(training_order(21, config.seed, 0)[:20])
    expected = np.mean([of_stem(network, images.asnumpy())
                        for images, _ in ImageData(sample, 32, 5, training=False).epoch()], axis=0)
    measure_statistics(network, folder, config, ALONE)
    norm = network.backbone.stem.bn
    np.testing.assert_allclose(norm.moving_mean.asnumpy(), expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.asnumpy(), expected[1], rtol=1e-3)
    assert not network.training
    assert not network.backbone.training
    first = flatten(batch_norm_statistics(network))
    measure_statistics(network, folder, config, ALONE)
    np.testing.assert_array_equal(flatten(batch_norm_statistics(network)), first)  # what was there does not count


def test_the_mean_of_two_ranks_is_that_of_one_with_their_batches(photos: Path) -> None:
    folder, network = ImageFolder.scan(photos / "train"), new_network()
    found = []
    for rank in range(2):
        measure_statistics(network, folder, config_for(*OPTIONS, "--batch_size", 5), World(rank, 2))
        found.append(flatten(batch_norm_statistics(network)))
    order = training_order(21, 1, 0)[:20]
    both = np.concatenate([order[rank::2][begin:begin + 5] for begin in (0, 5) for rank in (0, 1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precise_bn, "training_order", lambda *_: both)
        measure_statistics(network, folder, config_for(*OPTIONS, "--batch_size", 5), ALONE)
    np.testing.assert_allclose(np.mean(found, axis=0), flatten(batch_norm_statistics(network)), rtol=1e-4, atol=1e-6)


def test_the_number_of_images_is_bounded_and_a_batch_is_always_whole(photos: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ImageFolder.scan(photos / "train")
    monkeypatch.setattr(precise_bn, "MOST_IMAGES", 9)
    for batch_size, ranks, images in ((4, 1, 8), (4, 2, 4), (64, 1, 21), (3, 3, 3)):
        data = precise_bn._sample(folder, config_for("--batch_size", batch_size), World(0, ranks))
        assert data.images == images
        assert data.images % data.batch_size == 0


def test_without_the_key_nothing_changes(photos: Path) -> None:
    network = new_network()
    before = flatten(batch_norm_statistics(network))
    measure_statistics(network, ImageFolder.scan(photos / "train"), config_for("--image_size", 32), ALONE)
    np.testing.assert_array_equal(flatten(batch_norm_statistics(network)), before)


def test_a_run_keeps_the_statistics_of_the_average_that_it_scores(photos: Path, tmp_path: Path) -> None:
    options = (*OPTIONS, "--batch_size", 5, "--epoch_size", 2, "--ema_decay", 0.9, "--lr_max", 0.02)
    argv = ["train.py", "--platform", "CPU", *options, "--dataset_path", photos, "--save_checkpoint_path", tmp_path]
    with few_blocks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in argv])
        train.main()
    saved, network = read_checkpoint(tmp_path / "last.ckpt").network, new_network()
    for parameter in network.get_parameters():
        if parameter.name in saved:
            parameter.set_data(saved[parameter.name])
    measure_statistics(network, ImageFolder.scan(photos / "train"), config_for(*options), ALONE)
    for parameter in batch_norm_statistics(network):
        np.testing.assert_allclose(parameter.asnumpy(), saved[parameter.name].asnumpy(), rtol=1e-4, atol=1e-5)
