"""How two sets of named arrays differ, as a text of one line."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from src.errors import list_some

LISTED = 3  # names that an error shows of each kind


class Shaped(Protocol):
    """An array or a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""


@dataclass(frozen=True)
class Mismatch:
    """How two sets of named arrays differ. False if they do not."""

    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, str]  # each name with a text of both shapes

    @classmethod
    def between(cls, wanted: Mapping[str, Shaped], offered: Mapping[str, Shaped]) -> "Mismatch":
        """Compare names and shapes."""
        return cls([name for name in wanted if name not in offered], [name for name in offered if name not in wanted],
                   {name: f"{name} {_shape(offered[name])} instead of {_shape(value)}" for name, value in wanted.items()
                    if name in offered and offered[name].shape != value.shape})

    @property
    def names(self) -> list[str]:
        """All names that differ."""
        return [*self.missing, *self.unexpected, *self.reshaped]

    def __bool__(self) -> bool:
        return bool(self.names)

    def __str__(self) -> str:
        return "; ".join(f"{kind} {list_some(names, LISTED)}" for kind, names in (
            ("missing", self.missing), ("unexpected", self.unexpected),
            ("of another shape:", list(self.reshaped.values()))) if names)


def _shape(value: Shaped) -> str:
    return "x".join(map(str, value.shape)) or "a single number"
