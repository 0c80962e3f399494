"""The figures of a run as event files, for TensorBoard."""
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from src.errors import UserError
from src.model_utils.config import Config


def check_tensorboard(config: Config) -> None:
    """See, before the work begins, that event files can be written if they are wanted.

    Raises:
        UserError: the library is missing.
    """
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError("tensorboard is True, but tensorboardX, which writes the files, is not installed: "
                        "pip install tensorboardX")


class EventFile:
    """A new event file in a folder of them.

    Args:
        folder: of this run's files.
        step: steps that the run has done; what an earlier part of it wrote of later ones, readers pass over.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX import SummaryWriter
        try:
            self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        except OSError as error:
            raise UserError(f"{folder}: cannot write event files here: {error.strerror}") from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each name, at `step` optimisation steps from the beginning."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()
