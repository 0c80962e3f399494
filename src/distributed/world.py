"""The rank of this process, and the number of ranks."""
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """This process's rank among `rank_size` processes."""

    rank: int = 0
    rank_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is the rank that prints results and writes files."""
        return self.rank == 0


ALONE = World()
