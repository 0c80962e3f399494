"""The cache server of MindSpore's data engine, which keeps the encoded images of a slow file system in memory.

`scripts/run_train_nfs_cache.sh` starts it and makes a session. MS_CACHE_HOST and MS_CACHE_PORT name host and port.
"""
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import mindspore.dataset as ds
import numpy as np

from src.cache_folder import cache_folder
from src.data.image_folder import ImageFolder
from src.errors import UserError
from src.files import atomic_write
from src.model_utils.config import Config

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 50052  # of dataset-cache


def dataset_cache(config: Config) -> ds.DatasetCache | None:
    """The cache for one image folder, or None if no cache is wanted.

    Raises:
        UserError: a cache is wanted, but no session is named.
    """
    if not config.enable_cache:
        return None
    if config.cache_session_id == 0:
        raise UserError("enable_cache is True, but there is no session: give --cache_session_id (dataset-cache -g "
                        "makes one), or start with bash scripts/run_train_nfs_cache.sh, which does all that")
    return ds.DatasetCache(session_id=config.cache_session_id, size=0,  # 0: as much as the server has
                           hostname=os.environ.get("MS_CACHE_HOST") or DEFAULT_HOST,
                           port=int(os.environ.get("MS_CACHE_PORT") or DEFAULT_PORT))


def write_manifest(folder: ImageFolder) -> Path:
    """Write the list of all images of a folder from which `cached_images` reads, and return its path.

    Raises:
        UserError: a file's name is not UTF-8, which MindSpore's reader of lists does not read.
    """
    lines = [json.dumps({"source": folder.copies[position] if folder.copies and folder.copies[position]
                         else str(folder.root / folder.files[position]), "usage": "train",
                         "annotation": [{"name": str(label), "type": "modelarts/image_classification"}]},
                        ensure_ascii=False) for position, label in enumerate(folder.labels.tolist())]
    try:
        content = "\n".join(lines).encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder.root}: has a file or folder whose name is not UTF-8, which the cache server does not "
                        "take; rename it, or leave out --enable_cache") from None
    path = cache_folder("lists") / f"{hashlib.sha256(content).hexdigest()[:32]}.manifest"
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    return path


def cached_images(manifest: Path, classes: Sequence[str], order: np.ndarray, workers: int,
                  cache: ds.DatasetCache) -> ds.Dataset:
    """Encoded images and labels in the given order, from the cache.

    The server keeps what MindSpore's own readers read, by its position in a list: so the list has all images.
    """
    return ds.ManifestDataset(str(manifest), usage="train", num_parallel_workers=workers, decode=False,
                              sampler=ds.SubsetSampler(order.tolist()), cache=cache,
                              class_indexing={str(label): label for label in range(len(classes))})
