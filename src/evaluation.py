"""Evaluates a network on a data source: every image exactly once, on any number of ranks."""
import numpy as np
from mindspore import Tensor, nn
from tqdm import tqdm

from src.data.framing import IMAGES_OF_VIEWS, mean_over_views
from src.dataset import IGNORE_INDEX, Data
from src.distributed.collectives import all_gather
from src.distributed.world import World
from src.metrics import JUDGED, EvalResult, judge


def evaluate(network: nn.Cell, data: Data, world: World) -> EvalResult:
    """Evaluate a network, each rank on its own images. Every rank gets the result over all images.

    The network keeps its mode (training or not). The copies that fill the last batch do not count.
    """
    training = network.training
    network.set_train(False)
    judged, classes = [np.empty(0, JUDGED)], 0
    for inputs, batch_labels in tqdm(data.epoch(0), total=data.steps_per_epoch, desc="eval", leave=False,
                                     disable=None if world.is_main_process else True):
        real = batch_labels.asnumpy() != IGNORE_INDEX
        logits = _logits(network, inputs)[real].astype(np.float32)
        judged.append(judge(logits, batch_labels.asnumpy()[real]))
        classes = logits.shape[1]
    network.set_train(training)
    images = np.concatenate(judged)
    if len(images) != data.images:
        raise AssertionError(f"{len(images)} images were scored of {data.images}")
    return _gather(images, classes, world)


def _logits(network: nn.Cell, inputs: Tensor) -> np.ndarray:
    """N x C. Of several views of an image, N x V x 3 x H x W, the mean."""
    if inputs.ndim < IMAGES_OF_VIEWS:
        return network(inputs).asnumpy()
    return mean_over_views(lambda view: network(Tensor(view)).asnumpy(), inputs.asnumpy())


def _gather(judged: np.ndarray, classes: int, world: World) -> EvalResult:
    """One result from what all ranks judged. Some ranks may have had no images."""
    if world.rank_size == 1:
        return EvalResult(judged, classes)
    counts = all_gather(np.array([len(judged), classes]), world).astype(int)
    columns = JUDGED.names or ()
    rows = np.zeros((counts[:, 0].max(), len(columns)), np.float32)  # exact for classes up to 2^24
    for column, name in enumerate(columns):
        rows[:len(judged), column] = judged[name]
    gathered = all_gather(rows.ravel(), world).reshape(world.rank_size, *rows.shape)
    every = np.empty(counts[:, 0].sum(), JUDGED)
    for rank, count in enumerate(counts[:, 0]):  # a rank has every `rank_size`-th image of the folder
        for column, name in enumerate(columns):
            every[name][rank::world.rank_size] = gathered[rank, :count, column]
    return EvalResult(every, counts[:, 1].max())
