"""From images to batches, in the order of an epoch. src/data/transforms.py makes the views of the images.

A data source has `steps_per_epoch`, and `epoch(n)` gives the batches of epoch n. Everything random in epoch n follows
from (seed, n), so that a resumed run sees the same batches as a run without a stop.
"""
import itertools
import os
from collections.abc import Iterator
from typing import Protocol

import mindspore.dataset as ds
import numpy as np
from mindspore import Tensor

from src.data.cache_server import cached_images
from src.data.image_cache import LEAST_SHORTER_SIDE, copies_folder
from src.data.image_check import check_file
from src.data.image_folder import ImageFolder
from src.data.mixing import BatchAugmentation
from src.data.transforms import IMAGENET, Augmentation, eval_transforms, train_transforms
from src.errors import UserError, first_line
from src.normalisation import IMAGENET_PIXELS, Normalisation

MOST_READERS = 4  # threads that read files: they are Python's, of which one runs at a time
IGNORE_INDEX = -1  # label of the copies that fill the last evaluation batch
MIXING_THREADS = 4  # at most: each holds a batch

Batch = tuple[Tensor, Tensor]


class Data(Protocol):
    """The interface of a data source for training and evaluation."""

    images: int  # of this rank
    batch_size: int  # as configured, or smaller if there are fewer images
    steps_per_epoch: int

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0), from a step on.

        A batch is inputs and N int32 labels. For mixed images N x classes float32 targets replace the labels.
        """


def usable_workers(num_workers: int) -> int:
    """`num_workers`, but no more than the cores this process may use: MindSpore refuses more."""
    return min(num_workers, len(os.sched_getaffinity(0)))


def training_order(images: int, seed: int, epoch: int, rank: int = 0, rank_size: int = 1,
                   repeats: int = 1) -> np.ndarray:
    """Indices of this rank's shard of the images, in the order of this epoch.

    With `repeats` above 1 an epoch keeps its length. It has fewer images, and `repeats` views of each of them one after
    the other; with several ranks the views go to different ranks: Hoffer et al., "Augment your batch",
    https://arxiv.org/abs/1901.09335.
    """
    order = np.random.default_rng((seed, epoch)).permutation(images)
    return np.repeat(order, repeats)[:images][rank::rank_size]


class ImageData:
    """Batches of labelled images.

    Training drops the images that do not fill a batch, others in each epoch. Evaluation drops nothing: it fills the
    last batch with copies labelled `IGNORE_INDEX`, so that all batches have one shape and no image counts twice.
    Evaluation without a normalisation gives pixels of 0 to 255.
    """

    def __init__(self, folder: ImageFolder, image_size: int, batch_size: int, *, training: bool, seed: int = 0,
                 augmentation: Augmentation = IMAGENET, num_workers: int = 1, rank: int = 0,
                 rank_size: int = 1, cache: ds.DatasetCache | None = None,
                 normalisation: Normalisation | None = IMAGENET_PIXELS) -> None:
        self.images, self.batch_size, self.steps_per_epoch = shard(len(folder), batch_size, training, rank, rank_size)
        self.training, self._augmentation = training, augmentation
        self._transforms = train_transforms(image_size, augmentation, normalisation or IMAGENET_PIXELS) if training \
            else eval_transforms(image_size, normalisation)
        self._folder, self._workers = folder, usable_workers(num_workers)
        self._seed, self._rank, self._rank_size, self._cache = seed, rank, rank_size, cache

    def epoch(self, epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch: N x 3 x size x size float32 images and N int32 labels.

        For mixed images N x classes float32 targets replace the labels. Batches before `first_step` are computed and
        dropped, so that the random operators draw the same numbers afterwards.

        Raises:
            UserError: an image cannot be read.
        """
        if self.training:
            order = training_order(len(self._folder), self._seed, epoch, self._rank, self._rank_size,
                                   self._augmentation.aug_repeats)
            order = order[:self.steps_per_epoch * self.batch_size]
        else:
            order = np.arange(self._rank, len(self._folder), self._rank_size)
        if len(order) == 0:
            return  # more ranks than images to score
        # The operators take their seeds from here when the pipeline below is built.
        ds.config.set_seed(int(np.random.default_rng((self._seed, epoch, self._rank)).integers(1, 2 ** 31)))
        pipeline = self._pipeline(order, epoch)
        try:
            batches = pipeline.create_tuple_iterator(num_epochs=1, do_copy=False)
            for images, labels in itertools.islice(batches, first_step, None):
                yield (images, labels) if labels.shape[0] == self.batch_size else self._pad(images, labels)
        except RuntimeError as error:
            raise UserError(self._message(error, order)) from error

    def _encoded(self, order: np.ndarray) -> ds.Dataset:
        """The images as encoded bytes, with their labels, in the given order."""
        if self._cache:
            return cached_images(self._folder, order, self._workers, self._cache)
        return ds.GeneratorDataset(_EncodedImages(self._folder), ["image", "label"],
                                   sampler=ds.SubsetSampler(order.tolist()),
                                   num_parallel_workers=max(1, min(MOST_READERS, self._workers // 2)),
                                   python_multiprocessing=False)

    def _pipeline(self, order: np.ndarray, epoch: int) -> ds.Dataset:
        pipeline = self._encoded(order)
        pipeline = pipeline.map(self._transforms, "image", num_parallel_workers=self._workers)
        if self.training and self._augmentation.changes_batches:
            change = BatchAugmentation(self._augmentation, len(self._folder.classes), self._seed, epoch, self._rank)
            return pipeline.batch(self.batch_size, num_parallel_workers=min(self._workers, MIXING_THREADS),
                                  per_batch_map=change)
        return pipeline.batch(self.batch_size, num_parallel_workers=1)

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
        return (Tensor(np.pad(images.asnumpy(), ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")),
                Tensor(np.pad(labels.asnumpy(), (0, missing), constant_values=IGNORE_INDEX)))


class _EncodedImages:
    """The encoded bytes and the label of each image of a folder, for MindSpore to index."""

    def __init__(self, folder: ImageFolder) -> None:
        self._folder = folder

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        return self._folder.encoded(position), self._folder.labels[position]


class FeatureData:
    """Batches from features in memory, with the same interface and the same order as `ImageData`.

    Args:
        features: N x C x 1 x 1 float32, of the images of all ranks.
        labels: N int32.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, batch_size: int, *, training: bool,
                 seed: int = 0, rank: int = 0, rank_size: int = 1) -> None:
        self.images, self.batch_size, self.steps_per_epoch = shard(len(labels), batch_size, training, rank, rank_size)
        self._features, self._labels, self._training, self._seed = features, labels, training, seed
        self._rank, self._rank_size = rank, rank_size

    def epoch(self, epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch: N x C x 1 x 1 float32 features and N int32 labels."""
        if self._training:
            order = training_order(len(self._labels), self._seed, epoch, self._rank, self._rank_size)
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
