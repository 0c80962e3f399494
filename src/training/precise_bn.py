"""Batch norm's statistics of the weights that are scored, in place of the moving ones that trail behind the training.

Wu, Johnson, "Rethinking 'Batch' in BatchNorm", section 3, https://arxiv.org/abs/2105.07576.
"""
import numpy as np

from src.compiled import compiled
from src.data.framing import Framing
from src.data.image_folder import ImageFolder
from src.dataset import ImageData, shard, training_order
from src.distributed.collectives import flatten, set_values
from src.distributed.world import World
from src.mobilenetV2 import MobileNetV2
from src.model_utils.config import Config
from src.normalisation import NORMALISATIONS
from src.training.step import batch_norm_statistics

MOST_IMAGES = 1024  # of all ranks; section 3.4 of the paper finds 1000 to be enough


def measure_statistics(network: MobileNetV2, folder: ImageFolder, config: Config, world: World) -> None:
    """Set the moving means and variances of a network to those of training images, if `precise_bn` asks for it.

    Both are the means over some batches of the batch's own, of which the variance is the unbiased one. The images are
    the same in every epoch, as in evaluation: not augmented. Each rank measures its shard, in as many batches as the
    others, so the mean over the ranks (`average_parameters`) is that of all images.

    Args:
        network: the one that is scored. Its mode stays.
        folder: the training images.
        config: of the run.
        world: of the run.
    """
    if not config.precise_bn:
        return
    data, backbone = _sample(folder, config, world), network.backbone  # the head's dropout would draw numbers
    statistics, weight_of_new = batch_norm_statistics(backbone), backbone.stem.bn.momentum
    total = np.zeros(sum(parameter.size for parameter in statistics))
    training = backbone.training
    backbone.set_train(True)
    forward = compiled(backbone)
    for images, _ in data.epoch():
        set_values(statistics, np.zeros(len(total)))
        forward(images).asnumpy()  # adds the batch's own statistics, times the weight, to the zeros
        total += flatten(statistics) / weight_of_new
    backbone.set_train(training)
    set_values(statistics, total / data.steps_per_epoch)


def _sample(folder: ImageFolder, config: Config, world: World) -> ImageData:
    """Whole batches of at most `MOST_IMAGES` training images, chosen by the seed; at least one batch for each rank."""
    _, batch_size, batches = shard(len(folder), config.batch_size, True, world.rank, world.rank_size)
    step = batch_size * world.rank_size
    images = step * min(batches, max(1, MOST_IMAGES // step))
    return ImageData(folder.select(training_order(len(folder), config.seed, 0)[:images]), config.image_size, batch_size,
                     training=False, num_workers=config.num_workers, rank=world.rank, rank_size=world.rank_size,
                     normalisation=NORMALISATIONS[config.normalisation], framing=Framing.of(config))
