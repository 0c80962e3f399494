"""What a process runs on, and its place among the processes of a run."""
from dataclasses import dataclass

import mindspore as ms

from src.errors import UserError
from src.model_utils.config import Config


@dataclass(frozen=True)
class World:
    """This process's rank among `rank_size` processes."""

    rank: int = 0
    rank_size: int = 1


def setup_device(config: Config) -> World:
    """Choose the device and graph mode. To be called before anything is computed.

    Raises:
        UserError: the platform is not there, or does not do what the configuration asks.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        ms.set_device(config.platform)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"platform {config.platform} is not available on this machine "
                        f"({str(error).split('.')[0]}); use --platform CPU, or install its driver") from error
    if config.platform == "CPU" and config.amp_level != "O0":
        raise UserError(f"amp_level {config.amp_level}: on CPU MindSpore trains in float32 only; use --amp_level O0")
    return World()
