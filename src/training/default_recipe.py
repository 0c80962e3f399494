"""The recipe of a run that names none."""
from pathlib import Path

from src.checkpoint.names import newest_first
from src.checkpoint.record import read_metadata
from src.distributed.collectives import any_over_ranks
from src.distributed.world import World
from src.errors import UserError
from src.log import logger
from src.model_utils.config import Config

PLAIN, FINETUNE = "plain", "finetune"


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
