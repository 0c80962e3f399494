"""Decides at the end of each epoch how many epochs a run has: no more than `patience` allows."""
from src.checkpoint.record import Plan
from src.data.image_folder import ImageFolder
from src.data.transforms import train_sizes
from src.distributed.collectives import any_over_ranks
from src.distributed.world import World
from src.errors import UserError
from src.log import logger
from src.training.resume import Run
from src.training.state import TrainingState


class Planner:
    """Changes the plan of a run. The state keeps it, and checkpoints have it.

    Rank 0 decides: a resumed run has the history there alone.

    Args:
        eval_folder: the validation images, if there are any.

    Raises:
        UserError: `patience` without validation images.
    """

    def __init__(self, run: Run, eval_folder: ImageFolder | None, world: World) -> None:
        if run.config.patience and not eval_folder:
            raise UserError("--patience needs validation images: name them (--eval_dataset_path), or hold some out "
                            "(--val_share 0.2)")
        self._run, self._world = run, world

    def epoch_end(self, state: TrainingState) -> None:
        """Take notice of the epoch that the state has just finished."""
        config = self._run.config
        is_over = config.patience > 0 and self._world.is_main_process and state.epochs_since_best >= config.patience
        if not any_over_ranks(is_over, self._world) or self._run.is_finished(state):
            return
        done = state.step // self._run.steps_per_epoch
        state.plans.append(Plan(done, done, train_sizes(config)[1]))
        if self._world.is_main_process:
            logger.info(f"the last {config.patience} epochs were not better than epoch {done - config.patience}: the "
                        "run ends here (--patience)")
