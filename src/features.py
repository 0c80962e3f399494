"""Pooled features of a frozen backbone: computed once, kept in a cache, trained on from memory."""
import hashlib

import numpy as np
from mindspore import nn
from tqdm import tqdm

from src.cache_folder import cache_folder
from src.dataset import CROP_SHARE, MEAN, PADDING, STD, ImageData
from src.files import whole_file
from src.image_folder import ImageFolder
from src.utils import network_parameters


def pooled_features(backbone: nn.Cell, folder: ImageFolder, image_size: int, batch_size: int,
                    num_workers: int) -> np.ndarray:
    """N x C x 1 x 1 float32: the backbone's output for each picture of a folder, in its order, averaged over the map.

    Pictures go through the evaluation transform. The cache is keyed by the weights, the transform and the pictures.
    """
    path = cache_folder("features") / f"{_key(backbone, folder, image_size)}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    data = ImageData(folder, image_size, batch_size, training=False, num_workers=num_workers)
    backbone.set_train(False)
    features = []
    for images, labels in tqdm(data.epoch(), total=data.steps_per_epoch, desc="features", disable=None, leave=False):
        features.append(backbone(images).asnumpy().mean(axis=(2, 3), keepdims=True)[labels.asnumpy() != PADDING])
    result = np.concatenate(features)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, result, allow_pickle=False)
    return result


def _key(backbone: nn.Cell, folder: ImageFolder, image_size: int) -> str:
    hasher = hashlib.sha256(repr((folder.root, folder.digest(), image_size, CROP_SHARE, MEAN, STD)).encode())
    for name, parameter in sorted(network_parameters(backbone).items()):
        hasher.update(name.encode())
        hasher.update(parameter.asnumpy().tobytes())
    return hasher.hexdigest()[:32]
