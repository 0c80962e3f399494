"""Event files of a run, for TensorBoard."""
import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.log import logger
from src.model_utils.config import Config


def check_tensorboard(config: Config) -> None:
    """Check before the training that event files can be written if they are wanted.

    Raises:
        UserError: the library is missing.
    """
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError("tensorboard is True, but tensorboardX, which writes the files, is not installed: "
                        "pip install tensorboardX")


class EventFile:
    """A new event file.

    The library's own `SummaryWriter` passes events to a thread. A full disk ends that thread, and the writer then waits
    for it forever. Here each point is written at once, and a full disk only loses points.

    Args:
        folder: the event files of this run.
        step: steps done so far. Readers ignore later steps in earlier event files of the run.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        self._folder, self._event = folder, Event
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), f".{step}")  # each part of a run has its own file name
        except OSError as error:
            raise UserError(f"{folder}: cannot write event files here: {error.strerror}") from error
        if step:
            self._put(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point at optimisation step `step` to the curve of each name."""
        from tensorboardX.summary import scalar
        for name, value in values.items():
            self._put(self._event(step=step, summary=scalar(name, value)))

    def close(self, is_finished: bool, files: Sequence[Path]) -> None:
        """Nothing is left to do: each point is on the disk, and TensorBoard shows no files."""

    def _put(self, event: Any) -> None:  # noqa: ANN401 - the library's own type
        if self._writer is None:
            return
        event.wall_time = time.time()
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            logger.warning(f"{self._folder}: no more event files, training goes on: {error.strerror}")
            self._writer = None
