"""Pooled features of a frozen backbone: computed once, kept in a cache, and read from memory in training."""
import hashlib
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops
from tqdm import tqdm

from src.cache_folder import cache_folder
from src.compiled import compiled
from src.data.framing import Framing
from src.data.image_folder import ImageFolder
from src.data.transforms import CENTRE
from src.dataset import IGNORE_INDEX, ImageData
from src.distributed.collectives import all_reduce, sum_counts
from src.distributed.world import World
from src.files import atomic_write
from src.mobilenetV2 import MobileNetV2Backbone
from src.normalisation import IMAGENET_PIXELS, Normalisation
from src.utils import network_parameters

EXCHANGED = 4096  # number of images whose features the ranks exchange at a time


class PooledBackbone(nn.Cell):
    """A backbone whose feature maps are averaged on the device: N x 3 x H x W images to N x C x 1 x 1 features."""

    def __init__(self, backbone: nn.Cell) -> None:
        super().__init__()
        self.backbone = backbone

    def construct(self, images: Tensor) -> Tensor:
        return ops.mean(self.backbone(images), (2, 3), True)


def pooled_features(backbone: MobileNetV2Backbone, folder: ImageFolder, image_size: int, batch_size: int,
                    num_workers: int, world: World, normalisation: Normalisation = IMAGENET_PIXELS,
                    framing: Framing = CENTRE) -> np.ndarray:
    """The backbone's output for each image of a folder, averaged over the feature map: N x C x 1 x 1 float32.

    Images go through the evaluation transform. The key of the cache is made of the weights, the transform and the
    images. Each rank computes its shard, and all ranks get the features of all images. Those of a part of a folder are
    taken from those of the whole folder.
    """
    if folder.part_of:
        whole, positions = folder.part_of
        return pooled_features(backbone, whole, image_size, batch_size, num_workers, world, normalisation,
                               framing)[positions]
    path = cache_folder("features") / f"{_key(backbone, folder, image_size, normalisation, framing)}.npy"
    shape = (len(folder), backbone.out_channels, 1, 1)
    cached = _cached(path, shape)
    # Machines may have different caches. Either all ranks load the features, or all compute them.
    if sum_counts(np.array([cached is None], np.int64), world)[0] == 0 and cached is not None:
        return cached
    data = ImageData(folder, image_size, batch_size, training=False, num_workers=num_workers, rank=world.rank,
                     rank_size=world.rank_size, normalisation=normalisation, framing=framing)
    backbone.set_train(False)
    forward = compiled(PooledBackbone(backbone))
    result = np.zeros(shape, np.float32)
    done = 0
    for images, labels in tqdm(data.epoch(), total=data.steps_per_epoch, desc="features", leave=False,
                               disable=None if world.is_main_process else True):
        pooled = forward(images).asnumpy()[labels.asnumpy() != IGNORE_INDEX]
        rows = world.rank + world.rank_size * np.arange(done, done + len(pooled))
        result[rows] = pooled
        done += len(pooled)
    for rows in np.array_split(np.arange(len(result)), -(-len(result) // EXCHANGED)):
        result[rows] = all_reduce(result[rows], world)  # the rows of other ranks are zero here
    if cached is None:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, result, allow_pickle=False)
    return result


def _cached(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Features from a file, in memory that processes share; None if there are none of this shape."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # numpy raises many types of error for a damaged file; computing anew is safe
        return None
    return np.asarray(found) if isinstance(found, np.ndarray) and (found.shape, found.dtype) == (
        shape, np.float32) else None


def _key(backbone: MobileNetV2Backbone, folder: ImageFolder, image_size: int, normalisation: Normalisation,
         framing: Framing) -> str:
    computed = (folder.root, folder.digest(), image_size, framing, normalisation, backbone.padding, backbone.bn_eps)
    hasher = hashlib.sha256(repr(computed).encode())
    for copy in folder.copies:
        hasher.update(Path(copy).name.encode())
    for name, parameter in sorted(network_parameters(backbone).items()):
        hasher.update(name.encode())
        hasher.update(parameter.asnumpy().tobytes())
    return hasher.hexdigest()[:32]
