"""What a run has that its user did not say: the recipe, and the epochs that fit."""
import dataclasses
import math
from pathlib import Path

from src.checkpoint.names import newest_first
from src.checkpoint.record import read_metadata
from src.distributed.collectives import any_over_ranks
from src.distributed.world import World
from src.errors import UserError
from src.log import logger
from src.model_utils.config import Config

PLAIN, FINETUNE = "plain", "finetune"

FEWEST_STEPS = 450  # that fine-tuning should have: 20 epochs of 736 images by 32
MOST_EPOCHS = 60  # that a run is given without being asked


def settle_recipe(config: Config, world: World) -> Config:
    """The configuration with the recipe `finetune` if none was chosen and the whole of a trained network is trained on
    CPU. A run that an earlier version began without a recipe goes on as it began.
    """
    is_finetuning = config.platform == "CPU" and config.pretrain_ckpt and config.freeze_layer == "none"
    if "recipe" in config.chosen or config.recipe != PLAIN or not is_finetuning or config.qat:
        return config
    if any_over_ranks(world.is_main_process and _is_of_earlier_version(config), world):
        logger.info(f"recipe: {PLAIN}, as this run was begun; --recipe {FINETUNE} chooses that for trained weights")
        return config
    logger.info(f"recipe: {FINETUNE}, as training starts from a checkpoint; --recipe {PLAIN} chooses the other one")
    return config.with_recipe(FINETUNE)


def with_fitting_epochs(config: Config, images: int, world: World) -> Config:
    """The configuration with an `epoch_size` for so many training images, unless the user set one.

    Few images are few steps an epoch, so the recipe `finetune` takes more epochs of them. `max_minutes` is a limit of
    its own: it may plan more epochs than the recipe has.
    """
    epochs, limited = config.epoch_size, config.max_minutes > 0
    steps = max(1, images // (config.batch_size * config.grad_accum_steps * world.rank_size))
    if "epoch_size" in config.chosen or not (limited or config.recipe == FINETUNE):
        return config
    wanted = MOST_EPOCHS if limited else min(MOST_EPOCHS, math.ceil(FEWEST_STEPS / steps))
    if wanted > epochs and not limited:
        logger.info(f"epoch_size: {wanted}, for with {images} images an epoch is {steps} steps")
    return dataclasses.replace(config, epoch_size=max(epochs, wanted))


def _is_of_earlier_version(config: Config) -> bool:
    """Whether the run to resume had no choice but the plain recipe or `best`, and had the plain one."""
    if config.resume == "never":
        return False
    folder = Path(config.save_checkpoint_path)
    newest = next(iter(newest_first(folder)), None) if config.resume == "auto" else Path(config.resume)
    try:
        metadata = read_metadata(newest) if newest else None
    except UserError:  # it is told of where the run resumes
        return False
    return metadata is not None and metadata.training is not None and "linear_probe" not in metadata.config \
        and metadata.config.get("recipe", PLAIN) == PLAIN
