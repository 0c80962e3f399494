"""The figures of a run as event files, for TensorBoard."""
import importlib.util
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

    The library's own `SummaryWriter` hands events to a thread that a full disk ends, and then waits for it for ever.
    Here a point is written when it is given, and a full disk costs the points.

    Args:
        folder: of this run's files.
        step: steps that the run has done; what an earlier part of it wrote of later ones, readers pass over.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        self._folder, self._event = folder, Event
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), f".{step}")  # no part of a run takes another's name
        except OSError as error:
            raise UserError(f"{folder}: cannot write event files here: {error.strerror}") from error
        if step:
            self._put(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each name, at `step` optimisation steps from the beginning."""
        from tensorboardX.summary import scalar
        for name, value in values.items():
            self._put(self._event(step=step, summary=scalar(name, value)))

    def _put(self, event: Any) -> None:  # noqa: ANN401 - the library's own type
        if self._writer is None:
            return
        event.wall_time = time.time()
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            print(f"warning: {self._folder}: no more event files, training goes on: {error.strerror}", file=sys.stderr)
            self._writer = None
