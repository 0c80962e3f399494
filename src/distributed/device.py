"""Chooses the device of a process and joins the other ranks."""
import logging
import os

import mindspore as ms
from mindspore import communication
from mindspore.device_context import ascend, gpu

from src.distributed.world import ALONE, World
from src.errors import UserError, first_line
from src.log import setup_log, without_mindspore_logs
from src.model_utils.config import Config
from src.model_utils.device_adapter import find_process_environment

LAUNCHERS = "bash scripts/run_train.sh, bash scripts/run_eval.sh, or msrun"


def setup_device(config: Config, device_prefetch: bool = False) -> World:
    """Choose the device and MindSpore's mode, and join the other ranks. To be called before anything is computed.

    Args:
        config: of the run.
        device_prefetch: whether batches are to be copied while a step computes. In graph mode MindSpore waits for the
            end of each step; in PyNative mode it does not, and `compiled` has to be around each network.

    Raises:
        UserError: the platform is missing or does not support the configuration; or the launcher and the configuration
            disagree on the number of processes.
    """
    _check_launch(config)
    _check_boost(config)
    if device_prefetch:
        _check_prefetch(config)
    ms.set_context(mode=ms.PYNATIVE_MODE if device_prefetch else ms.GRAPH_MODE)
    platform = "CPU" if config.dry_run else config.platform  # a dry run needs no card
    try:
        # For a missing platform MindSpore writes pages of warnings. The error below is enough.
        with without_mindspore_logs(logging.ERROR):
            # The processes of msrun choose the devices among themselves.
            ms.set_device(platform, None if platform == "CPU" or "MS_ROLE" in os.environ else _device_id(config))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"platform {config.platform} is not available on this machine "
                        f"({first_line(error).split('.')[0]}); use --platform CPU, or install its driver") from error
    if config.platform == "CPU" and config.amp_level != "O0":
        raise UserError(f"amp_level {config.amp_level}: on CPU MindSpore trains in float32 only; use --amp_level O0")
    if platform != "CPU":
        ms.set_context(jit_config={"jit_level": config.jit_level})
        if config.amp_level == "O0":
            _compute_in_float32(platform)
    return _join_ranks() if config.distribute else ALONE


def _compute_in_float32(platform: str) -> None:
    """Switch off the shorter formats that cards convolve float32 in by default: HF32 on Ascend, TF32 on GPU."""
    if platform == "Ascend":
        ascend.op_precision.conv_allow_hf32(False)
        ascend.op_precision.matmul_allow_hf32(False)
    else:
        gpu.op_precision.conv_allow_tf32(False)
        gpu.op_precision.matmul_allow_tf32(False)


def _join_ranks() -> World:
    """Join the other ranks. msrun starts the scheduler from the same script; that process ends inside `init`."""
    try:
        communication.init()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"could not join the other ranks: {first_line(error)}") from error
    world = World(communication.get_rank(), communication.get_group_size())
    setup_log(world.rank, world.rank_size)
    ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True,
                                 device_num=world.rank_size)
    return world


def _check_launch(config: Config) -> None:
    """Check that launcher and configuration agree. MindSpore would write a page, or train each process alone."""
    launched = "MS_ROLE" in os.environ or {"RANK_ID", "RANK_TABLE_FILE"} <= os.environ.keys()
    if config.distribute and not launched:
        raise UserError(f"distribute is True, but this process was started alone; start it with {LAUNCHERS}")
    ranks = os.environ.get("MS_WORKER_NUM" if "MS_ROLE" in os.environ else "RANK_SIZE", "1")
    if launched and not config.distribute and ranks != "1":
        raise UserError(f"this is one of {ranks} processes, but distribute is False; add --distribute True")


def _check_boost(config: Config) -> None:
    """Refuse what boost mode does not support. MindSpore would silently ignore the boost mode."""
    if config.boost_mode == "O1" and config.amp_level == "O2":
        raise UserError("boost_mode O1 and amp_level O2: the casts around batch norms hide them from MindSpore's boost "
                        "mode; use --amp_level O3, or O0 on CPU")
    if config.boost_mode == "O1" and config.cpu_kernels == "on":
        raise UserError("boost_mode O1 and cpu_kernels on: MindSpore's boost mode knows its own cells only; choose one")


def _check_prefetch(config: Config) -> None:
    """Refuse what MindSpore's `Tensor.to` and `ms.jit` do not know."""
    if config.platform == "GPU":
        raise UserError("device_prefetch True: MindSpore 2.10 sends batches ahead to Ascend only; leave it out on GPU")
    if config.platform == "Ascend" and config.jit_level == "O2":
        raise UserError("device_prefetch True and jit_level O2: ms.jit compiles at O0 and O1 only; choose one of these")


def _device_id(config: Config) -> int | None:
    """The card that the environment names, as in a start from a rank table or on ModelArts; None if it names none."""
    return find_process_environment(config.enable_modelarts).device_id
