"""The cache server of MindSpore's data engine, which keeps the encoded images of a slow file system in memory.

`scripts/run_train_nfs_cache.sh` starts it and makes a session. MS_CACHE_HOST and MS_CACHE_PORT name host and port.
"""
import os

import mindspore.dataset as ds

from src.errors import UserError
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
