"""What a process runs on, and how it joins the other processes of a run."""
import logging
import os

import mindspore as ms
from mindspore import communication

from src.distributed.world import ALONE, World
from src.errors import UserError, first_line
from src.model_utils.config import Config
from src.model_utils.device_adapter import find_process_environment

LAUNCHERS = "bash scripts/run_train.sh, bash scripts/run_eval.sh, or msrun"


def setup_device(config: Config) -> World:
    """Choose the device and graph mode, and join the other ranks. To be called before anything is computed.

    Raises:
        UserError: the platform is not there, or does not do what the configuration asks; or the launcher and the
            configuration disagree on how many processes there are.
    """
    _check_launch(config)
    _check_boost(config)
    ms.set_context(mode=ms.GRAPH_MODE)
    # MindSpore's own words for a missing platform are pages of warnings; the error below says what is in them.
    logging.disable(logging.ERROR)
    try:
        # msrun's processes settle among themselves who takes which device.
        ms.set_device(config.platform, None if "MS_ROLE" in os.environ else _device_id(config))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"platform {config.platform} is not available on this machine "
                        f"({first_line(error).split('.')[0]}); use --platform CPU, or install its driver") from error
    finally:
        logging.disable(logging.NOTSET)
    if config.platform == "CPU" and config.amp_level != "O0":
        raise UserError(f"amp_level {config.amp_level}: on CPU MindSpore trains in float32 only; use --amp_level O0")
    return _join_ranks() if config.distribute else ALONE


def _join_ranks() -> World:
    """The scheduler, which msrun starts from this same script, ends within `init`."""
    try:
        communication.init()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"could not join the other ranks: {first_line(error)}") from error
    world = World(communication.get_rank(), communication.get_group_size())
    ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True,
                                 device_num=world.rank_size)
    return world


def _check_launch(config: Config) -> None:
    """MindSpore's own words for these two are a page long, or there are none and each process trains for itself."""
    launched = "MS_ROLE" in os.environ or {"RANK_ID", "RANK_TABLE_FILE"} <= os.environ.keys()
    if config.distribute and not launched:
        raise UserError(f"distribute is True, but this process was started alone; start it with {LAUNCHERS}")
    ranks = os.environ.get("MS_WORKER_NUM" if "MS_ROLE" in os.environ else "RANK_SIZE", "1")
    if launched and not config.distribute and ranks != "1":
        raise UserError(f"this is one of {ranks} processes, but distribute is False; add --distribute True")


def _check_boost(config: Config) -> None:
    """MindSpore would say nothing and leave out nothing."""
    if config.boost_mode == "O1" and config.amp_level == "O2":
        raise UserError("boost_mode O1 and amp_level O2: the casts around batch norms hide them from MindSpore's boost "
                        "mode; use --amp_level O3, or O0 on CPU")
    if config.boost_mode == "O1" and config.cpu_kernels == "on":
        raise UserError("boost_mode O1 and cpu_kernels on: MindSpore's boost mode knows its own cells only; choose one")


def _device_id(config: Config) -> int | None:
    """The card that the environment names, as a start from a rank table and ModelArts do."""
    return find_process_environment(config.enable_modelarts).device_id if config.platform != "CPU" else None
