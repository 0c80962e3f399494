"""The process environment that this project's launchers, msrun and Ascend's own launcher set."""
import os
from dataclasses import dataclass

from src.errors import UserError

# ModelArts' Ascend images set the second one. It counts the cards that the container sees, from 0.
DEVICE_VARIABLES = ("DEVICE_ID", "ASCEND_DEVICE_ID")


@dataclass(frozen=True)
class ProcessEnvironment:
    """The rank of this process in its job, and its device."""

    device_id: int | None  # number of the card; None if none was chosen
    rank: int  # 0 to rank_size - 1, over all machines
    rank_size: int
    machines: int
    job_id: str  # empty where there is none

    @property
    def ranks_per_machine(self) -> int:
        """Processes on each machine."""
        return max(1, self.rank_size // self.machines)

    @property
    def is_first_on_machine(self) -> bool:
        """Whether this is the process with the lowest rank of its machine."""
        return self.rank % self.ranks_per_machine == 0

    @property
    def is_on_first_machine(self) -> bool:
        """Whether this machine has rank 0, which is the one that writes checkpoints."""
        return self.rank < self.ranks_per_machine


def local_environment() -> ProcessEnvironment:
    """The environment of this process outside of ModelArts: one machine, no job.

    Raises:
        UserError: an environment variable is not a number.
    """
    return ProcessEnvironment(device_id=number_from(*DEVICE_VARIABLES), rank=number_from("RANK_ID") or 0,
                 rank_size=number_from("RANK_SIZE") or 1, machines=1, job_id="")


def number_from(*names: str) -> int | None:
    """The first of these environment variables that is set, as a number; None if none is set.

    Raises:
        UserError: it is not a whole number of 0 or more.
    """
    name, value = next(((name, os.environ[name]) for name in names if os.environ.get(name)), ("", ""))
    if not name:
        return None
    if not value.isdecimal():
        raise UserError(f"environment variable {name} must be a number, not {value!r}")
    return int(value)
