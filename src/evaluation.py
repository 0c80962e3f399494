"""Evaluates a network on a data source: every image exactly once, on any number of ranks."""
from collections.abc import Callable

import numpy as np
from mindspore import Tensor, nn
from tqdm import tqdm

from src.compiled import compiled
from src.data.framing import IMAGES_OF_VIEWS, mean_over_views
from src.dataset import IGNORE_INDEX, Data
from src.distributed.collectives import all_gather, all_reduce, sum_counts
from src.distributed.world import World
from src.metrics import JUDGED, EvalResult, judge, logit_stride


def evaluate(network: nn.Cell, data: Data, world: World) -> EvalResult:
    """Evaluate a network, each rank on its own images. Every rank gets the result over all images.

    The network keeps its mode (training or not). The copies that fill the last batch do not count.
    """
    training = network.training
    network.set_train(False)
    forward = compiled(network)
    total = int(sum_counts(np.array([data.images], np.int64), world)[0])
    judged, kept, classes, done = [np.empty(0, JUDGED)], [], 0, 0
    for inputs, batch_labels in tqdm(data.epoch(0), total=data.steps_per_epoch, desc="eval", leave=False,
                                     disable=None if world.is_main_process else True):
        real = batch_labels.asnumpy() != IGNORE_INDEX
        logits = _logits(forward, inputs)[real].astype(np.float32)
        judged.append(judge(logits, batch_labels.asnumpy()[real]))
        classes = logits.shape[1]
        kept.append(logits[_positions(done, len(logits), world) % logit_stride(total, classes) == 0])
        done += len(logits)
    network.set_train(training)
    images = np.concatenate(judged)
    if len(images) != data.images:
        raise AssertionError(f"{len(images)} images were scored of {data.images}")
    return _gather(images, np.concatenate([np.empty((0, classes), np.float32), *kept]), world)


def _logits(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> np.ndarray:
    """N x C. Of several views of an image, N x V x 3 x H x W, the mean."""
    if inputs.ndim < IMAGES_OF_VIEWS:
        return forward(inputs).asnumpy()
    return mean_over_views(lambda view: forward(Tensor(view)).asnumpy(), inputs.asnumpy())


def _positions(first: int, images: int, world: World) -> np.ndarray:
    """The positions in the folder of a rank's images: it has every `rank_size`-th one."""
    return world.rank + world.rank_size * np.arange(first, first + images)


def _gather(judged: np.ndarray, logits: np.ndarray, world: World) -> EvalResult:
    """One result from what all ranks judged, and from the logits that they kept. Some ranks may have had no images."""
    if world.rank_size == 1:
        return EvalResult(judged, logits.shape[1], logits, logit_stride(len(judged), logits.shape[1]))
    counts = all_gather(np.array([len(judged), logits.shape[1]]), world).astype(int)
    images, classes = int(counts[:, 0].sum()), int(counts[:, 1].max())
    columns = JUDGED.names or ()
    rows = np.zeros((counts[:, 0].max(), len(columns)), np.float32)  # exact for classes up to 2^24
    for column, name in enumerate(columns):
        rows[:len(judged), column] = judged[name]
    gathered = all_gather(rows.ravel(), world).reshape(world.rank_size, *rows.shape)
    every = np.empty(images, JUDGED)
    for rank, count in enumerate(counts[:, 0]):  # a rank has every `rank_size`-th image of the folder
        for column, name in enumerate(columns):
            every[name][rank::world.rank_size] = gathered[rank, :count, column]
    stride = logit_stride(images, classes)
    positions = np.arange(0, images, stride)
    shares = np.zeros((len(positions), classes), np.float32)  # each row is zero on all ranks but one
    if len(logits):
        shares[positions % world.rank_size == world.rank] = logits
    return EvalResult(every, classes, all_reduce(shares, world), stride)
