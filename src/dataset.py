"""From images to batches, in the order of an epoch. src/data/transforms.py makes the views of the images.

A data source has `steps_per_epoch`, and `epoch(n)` gives the batches of epoch n. Everything random in epoch n follows
from (seed, n), so that a resumed run sees the same batches as a run without a stop.
"""
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import mindspore.dataset as ds
import numpy as np
from mindspore import Tensor

from src.data.cache_server import cached_images, write_manifest
from src.data.framing import Framing
from src.data.image_cache import LEAST_SHORTER_SIDE, copies_folder
from src.data.image_check import check_file
from src.data.image_folder import ImageFolder
from src.data.mixing import SIZE_STEP, BatchAugmentation
from src.data.transforms import CENTRE, IMAGENET, Augmentation, eval_transforms, train_transforms
from src.errors import UserError, first_line
from src.normalisation import IMAGENET_PIXELS, Normalisation

MOST_READERS = 4  # threads that read files: they are Python's, of which one runs at a time
LOOKAHEAD = 2  # batches of an epoch that are still to be trained on when the next epoch is begun
IGNORE_INDEX = -1  # label of the copies that fill the last evaluation batch
MIXING_THREADS = 4  # at most: each holds a batch

Batch = tuple[Tensor, Tensor]
T = TypeVar("T")


class Data(Protocol):
    """The interface of a data source for training and evaluation."""

    images: int  # of this rank
    batch_size: int  # as configured, or smaller if there are fewer images
    steps_per_epoch: int

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0), from a step on.

        A batch is inputs and N int32 labels. For mixed images N x classes float32 targets replace the labels.
        """

    def replan(self, first_size: int, image_size: int, epochs: int) -> None:
        """Let a training that has not begun have another number of epochs, and images of other sizes in pixels."""


def usable_workers(num_workers: int) -> int:
    """`num_workers`, but no more than the cores this process may use: MindSpore refuses more."""
    return min(num_workers, len(os.sched_getaffinity(0)))


def training_order(images: int, seed: int, epoch: int, rank: int = 0, rank_size: int = 1,
                   repeats: int = 1, balanced_labels: np.ndarray | None = None) -> np.ndarray:
    """Indices of this rank's shard of the images, in the order of this epoch.

    With `repeats` above 1 an epoch keeps its length. It has fewer images, and `repeats` views of each of them one after
    the other; with several ranks the views go to different ranks: Hoffer et al., "Augment your batch",
    https://arxiv.org/abs/1901.09335.

    With `balanced_labels`, the class index of each image, an epoch keeps its length, too, but draws from all classes
    equally often.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(images) if balanced_labels is None else _balanced_order(balanced_labels, generator)
    return np.repeat(order, repeats)[:images][rank::rank_size]


def _balanced_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many positions as there are labels, drawn from all classes equally often, in a random order.

    What does not divide by the number of classes goes to classes at random. No image of a class is drawn again before
    all images of the class have been drawn.
    """
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.unique(labels, return_counts=True)[1])[:-1])
    share, rest = divmod(len(labels), len(by_class))
    one_more = generator.permutation(len(by_class)) < rest
    drawn = [np.concatenate([generator.permutation(positions) for _ in range(-(-count // len(positions)))])[:count]
             for positions, count in zip(by_class, share + one_more, strict=True) if count]
    return generator.permutation(np.concatenate(drawn))


class ImageData:
    """Batches of labelled images.

    Training drops the images that do not fill a batch, others in each epoch. Evaluation drops nothing: it fills the
    last batch with copies labelled `IGNORE_INDEX`, so that all batches have one shape and no image counts twice.
    Without a normalisation it gives pixels of 0 to 255: uint8 in training, where no batch may be mixed then, else
    float32.

    MindSpore's random operators take their seed when a pipeline is built, so each epoch has a pipeline of its own. The
    next one begins to work during the last batches of the present one, so that training does not wait for it.

    Args:
        image_size: of the batches, in pixels.
        first_size: of the first epoch of a training, in pixels, if its images grow to `image_size`.
        framing: of evaluation. With several views of an image, each batch has N x V x 3 x size x size images.
        epochs: of the run. No epoch is begun beforehand after the last one.
        batches_per_step: batches at the end of an epoch that do not fill a step are not used.
        balanced: training draws from all classes equally often: see `training_order`.
    """

    def __init__(self, folder: ImageFolder, image_size: int, batch_size: int, *, training: bool, seed: int = 0,
                 augmentation: Augmentation = IMAGENET, num_workers: int = 1, rank: int = 0, rank_size: int = 1,
                 cache: ds.DatasetCache | None = None, normalisation: Normalisation | None = IMAGENET_PIXELS,
                 framing: Framing = CENTRE, epochs: int = 1, batches_per_step: int = 1, balanced: bool = False,
                 first_size: int = 0) -> None:
        self.images, self.batch_size, self.steps_per_epoch = shard(len(folder), batch_size, training, rank, rank_size)
        self.training, self._augmentation = training, augmentation
        self._sizes, self._normalisation, self._framing = (first_size or image_size, image_size), normalisation, framing
        self._folder, self._workers = folder, usable_workers(num_workers)
        self._seed, self._rank, self._rank_size = seed, rank, rank_size
        self._cache, self._manifest = cache, write_manifest(folder) if cache else Path()
        self._epochs = epochs
        self._balanced_labels = folder.labels if balanced else None
        self._lookahead_step = self.steps_per_epoch // batches_per_step * batches_per_step - LOOKAHEAD
        self._begun: dict[int, Iterator[Batch]] = {}  # by epoch: at most one

    def epoch(self, epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch: N x 3 x size x size images and N int32 labels.

        For mixed images N x classes float32 targets replace the labels. Images before `first_step` are not read, except
        from the cache server: blank ones of their size let the random operators draw the same numbers.

        Raises:
            UserError: an image cannot be read.
        """
        if self.images == 0:
            return  # more ranks than images to score
        begun, self._begun = self._begun, {}
        try:
            batches = begun[epoch] if epoch in begun and first_step == 0 else self._begin(epoch, first_step)
            for step, (images, labels) in enumerate(batches, first_step):
                if step >= self._lookahead_step and epoch + 1 < self._epochs and not self._begun:
                    self._begun = {epoch + 1: fetch_first(self._begin(epoch + 1))}
                yield (images, labels) if labels.shape[0] == self.batch_size else self._pad(images, labels)
        except RuntimeError as error:
            raise UserError(self._message(error, self._order(epoch))) from error

    def replan(self, first_size: int, image_size: int, epochs: int) -> None:
        """Images grow from `first_size` to `image_size` pixels in so many epochs."""
        self._sizes, self._epochs, self._begun = (first_size, image_size), epochs, {}

    def _order(self, epoch: int) -> np.ndarray:
        """Positions of this rank's images in an epoch, without those that fill no batch in training."""
        if not self.training:
            return np.arange(self._rank, len(self._folder), self._rank_size)
        order = training_order(len(self._folder), self._seed, epoch, self._rank, self._rank_size,
                               self._augmentation.aug_repeats, self._balanced_labels)
        return order[:self.steps_per_epoch * self.batch_size]

    def _begin(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch as MindSpore makes them."""
        # The operators take their seeds from here when the iterator below is made.
        ds.config.set_seed(int(np.random.default_rng((self._seed, epoch, self._rank)).integers(1, 2 ** 31)))
        return self._pipeline(epoch, first_step).create_tuple_iterator(num_epochs=1, do_copy=False)

    def _pipeline(self, epoch: int, first_step: int) -> ds.Dataset:
        skipped = first_step * self.batch_size
        pipeline = self._encoded(self._order(epoch), skipped)
        pipeline = pipeline.map(self._transforms(epoch), "image", num_parallel_workers=self._workers)
        if skipped:
            pipeline = pipeline.skip(skipped)
        if self.training and self._augmentation.changes_batches:
            change = BatchAugmentation(self._augmentation, len(self._folder.classes), self._seed, epoch, self._rank,
                                       first_step)
            return pipeline.batch(self.batch_size, num_parallel_workers=min(self._workers, MIXING_THREADS),
                                  per_batch_map=change)
        return pipeline.batch(self.batch_size, num_parallel_workers=1)

    def _transforms(self, epoch: int) -> list:
        if not self.training:
            return eval_transforms(self._sizes[1], self._normalisation, self._framing)
        return train_transforms(growing_size(*self._sizes, epoch, self._epochs), self._augmentation,
                                self._normalisation)

    def _encoded(self, order: np.ndarray, skipped: int) -> ds.Dataset:
        """The images as encoded bytes, with their labels, in the given order; blank ones for the first `skipped`."""
        if self._cache:
            return cached_images(self._manifest, self._folder.classes, order, self._workers, self._cache)
        return ds.GeneratorDataset(_EncodedImages(self._folder, order, skipped), ["image", "label"], shuffle=False,
                                   num_parallel_workers=max(1, min(MOST_READERS, self._workers // 2)),
                                   python_multiprocessing=False)

    def _message(self, error: RuntimeError, order: np.ndarray) -> str:
        """What went wrong: the first image of the epoch that cannot be read, else MindSpore's own message."""
        copies = copies_folder()
        for position in order.tolist():
            path = self._folder.root / self._folder.files[position]
            if fault := check_file(path, copies, LEAST_SHORTER_SIDE).fault:
                return f"{path}: {fault}; remove or mend it, or use --bad_images skip"
        message = next((line for line in str(error).splitlines() if line.startswith("[ERROR]")), first_line(error))
        return f"reading images failed: {message.removeprefix('[ERROR]').strip()}"

    def _pad(self, images: Tensor, labels: Tensor) -> Batch:
        missing = self.batch_size - labels.shape[0]
        return (Tensor(np.pad(images.asnumpy(), ((0, missing), *[(0, 0)] * (images.ndim - 1)), mode="edge")),
                Tensor(np.pad(labels.asnumpy(), (0, missing), constant_values=IGNORE_INDEX)))


def growing_size(first: int, last: int, epoch: int, epochs: int) -> int:
    """Height and width, in pixels, of the images of an epoch (from 0): from `first` in a line to `last`.

    Each size is compiled, so there are no more of them than steps of 32 pixels. Tan and Le, "EfficientNetV2", section
    4, https://arxiv.org/abs/2104.00298.
    """
    share = min(1.0, epoch / (epochs - 1)) if epochs > 1 else 1.0
    return first + SIZE_STEP * round((last - first) / SIZE_STEP * share)


def fetch_first(items: Iterator[T]) -> Iterator[T]:
    """The same items, of which a thread fetches the first one now. MindSpore begins to work when one is asked for."""
    pool = ThreadPoolExecutor(1)
    first = pool.submit(next, items)
    pool.shutdown(wait=False)

    def fetched() -> Iterator[T]:
        yield first.result()
        yield from items
    return fetched()


class _EncodedImages:
    """The encoded bytes and the label of each image in an order, for MindSpore to index; blank ones at first."""

    def __init__(self, folder: ImageFolder, order: np.ndarray, skipped: int) -> None:
        self._folder, self._order, self._skipped = folder, order, skipped

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        position = self._order[row]
        image = self._folder.blank(position) if row < self._skipped else self._folder.encoded(position)
        return image, self._folder.labels[position]


class FeatureData:
    """Batches from features in memory, with the same interface and the same order as `ImageData`.

    Args:
        features: N x C x 1 x 1 float32, of the images of all ranks.
        labels: N int32.
        balanced: training draws from all classes equally often: see `training_order`.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, batch_size: int, *, training: bool,
                 seed: int = 0, rank: int = 0, rank_size: int = 1, balanced: bool = False) -> None:
        self.images, self.batch_size, self.steps_per_epoch = shard(len(labels), batch_size, training, rank, rank_size)
        self._features, self._labels, self._training, self._seed = features, labels, training, seed
        self._rank, self._rank_size = rank, rank_size
        self._balanced_labels = labels if balanced else None

    def replan(self, first_size: int, image_size: int, epochs: int) -> None:
        """Features have no size, and no epoch is begun beforehand: nothing changes."""

    def epoch(self, epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch: N x C x 1 x 1 float32 features and N int32 labels."""
        if self._training:
            order = training_order(len(self._labels), self._seed, epoch, self._rank, self._rank_size,
                                   balanced_labels=self._balanced_labels)
        else:
            order = np.arange(self._rank, len(self._labels), self._rank_size)
        for step in range(first_step, self.steps_per_epoch):
            chosen = order[step * self.batch_size:(step + 1) * self.batch_size]
            missing = self.batch_size - len(chosen)
            labels = np.pad(self._labels[chosen], (0, missing), constant_values=IGNORE_INDEX)
            yield Tensor(self._features[np.pad(chosen, (0, missing), mode="edge")]), Tensor(labels)


def shard(images: int, batch_size: int, training: bool, rank: int, rank_size: int) -> tuple[int, int, int]:
    """Size of a rank's shard of the data: (images, batch size, number of batches).

    In training all ranks have the same batch size and number of batches: those of the smallest shard.
    """
    own = len(range(rank, images, rank_size))
    if not training:
        batch_size = max(1, min(batch_size, own))
        return own, batch_size, -(-own // batch_size)
    smallest_shard = images // rank_size
    if smallest_shard == 0:
        raise UserError(f"{images} training images are too few for {rank_size} processes")
    batch_size = min(batch_size, smallest_shard)
    return own, batch_size, smallest_shard // batch_size
