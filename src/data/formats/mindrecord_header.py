"""Checks the header of a MindRecord file. MindSpore's reader does not: a missing key ends the process."""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.json_records import make_record

LENGTH_BYTES = 8  # at the beginning of the file: the length of the JSON after it
LARGEST = 2 ** 28  # bytes; each page of a file takes some 200


@dataclass(frozen=True)
class RowGroup:
    """Where a group of rows begins in a page."""

    id: int
    offset: int


@dataclass(frozen=True)
class Page:
    """A part of the file."""

    page_id: int
    shard_id: int
    page_type: str
    page_type_id: int
    start_row_id: int
    end_row_id: int
    row_group_ids: list[RowGroup]
    page_size: int


@dataclass(frozen=True)
class IndexField:
    """A column that the index has."""

    schema_id: int
    index_field: str


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    type: str
    shape: list[int] | None = None


@dataclass(frozen=True)
class Schema:
    """The columns of a row."""

    desc: str
    blob_fields: list[str]
    schema: dict[str, Column]


@dataclass(frozen=True)
class Header:
    """The keys of the header that MindSpore reads."""

    shard_addresses: list[str]
    shard_id: int
    header_size: int
    page_size: int
    index_fields: list[IndexField]
    page: list[Page]
    schema: list[Schema]
    version: str
    statistics: Any

    def __post_init__(self) -> None:
        if self.header_size <= 0 or self.page_size <= 0:
            raise ValueError("a size of 0 or less")


def check_header(path: Path) -> None:
    """Check that MindSpore can read the header of a MindRecord file.

    Raises:
        UserError: it cannot.
    """
    fault = f"{path}: not a MindRecord file, or damaged; copy or write it anew"
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            content = file.read(length) if length <= LARGEST else b""
        values = json.loads(content)
    except OSError as error:
        raise UserError(f"{path}: cannot read this file: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(fault) from error
    make_record(Header, values, fault)
