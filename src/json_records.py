"""Reads JSON files into dataclasses and checks the types, so that bad content is an error of one line."""
import dataclasses
import json
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from src.errors import UserError, first_line

LARGEST = 2 ** 53  # whole numbers up to this are exact in every reader of JSON
KEY = "key"  # in the metadata of a field: its key in the JSON, if that differs from its name

Record = TypeVar("Record")


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read this file: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file, or a damaged one ({first_line(error)})") from error


def read_record(record: type[Record], path: Path, what: str) -> Record:
    """The record in a JSON file; see `make_record`."""
    return make_record(record, read_json(path), f"{path}: not {what}")


def make_record(record: type[Record], values: object, fault: str) -> Record:
    """A dataclass from a JSON object. The keys are the names of the fields; other keys are ignored.

    Args:
        record: a dataclass. Its fields may have these types: bool, int, float, str, None, `list`, `dict` and `tuple`
            of them, other dataclasses, unions, and Any.
        values: as `json.loads` returns them.
        fault: the beginning of the error text.

    Raises:
        UserError: a value is missing or has another type, or `record` itself raises a ValueError.
    """
    try:
        return _make(record, values)
    except ValueError as error:
        raise UserError(f"{fault}: {error}") from None


def to_json(record: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    """A dataclass as a JSON object that `make_record` reads."""
    return {field.metadata.get(KEY, field.name): _plain(getattr(record, field.name))
            for field in dataclasses.fields(record)}


def _plain(value: Any) -> Any:  # noqa: ANN401 - what a field may have
    """A value of a record's field without dataclasses."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return to_json(value) if dataclasses.is_dataclass(value) else value


def _make(record: Any, values: object) -> Any:  # noqa: ANN401 - any dataclass
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    types, found = get_type_hints(record), {}
    for field in dataclasses.fields(record):
        key = field.metadata.get(KEY, field.name)
        if key in values:
            try:
                found[field.name] = _convert(values[key], types[field.name])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{key} is missing")
    return record(**found)


def _convert(value: Any, wanted: Any) -> Any:  # noqa: ANN401, PLR0911 - a value for each type
    """`value` as the wanted type; ValueError if it has another type."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in {Union, UnionType}:
        return None if value is None and NoneType in inner else _convert_to_any(value, inner)
    if wanted is Any:
        return value
    if wanted is float and type(value) in {int, float}:
        return float(_bounded(value))
    if wanted is int and type(value) is int:
        return _bounded(value)
    if wanted in {bool, str} and type(value) is wanted:
        return value
    if origin in {list, tuple} and isinstance(value, list):
        return origin(_convert(item, inner[0]) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(item, inner[1]) for key, item in value.items()}
    if dataclasses.is_dataclass(wanted):
        return _make(wanted, value)
    raise ValueError("of another type than expected")


def _convert_to_any(value: object, types: tuple[Any, ...]) -> Any:  # noqa: ANN401 - of one of the types
    *others, last = (wanted for wanted in types if wanted is not NoneType)
    for wanted in others:
        try:
            return _convert(value, wanted)
        except ValueError:
            continue
    return _convert(value, last)


def _bounded(number: Any) -> Any:  # noqa: ANN401 - an int or a float
    if isinstance(number, int) and abs(number) > LARGEST:
        raise ValueError("too large")
    return number


def read_text_lists(path: Path, length: int) -> dict[str, list[str]]:
    """What a cache remembers: a list of `length` texts for each name. Empty if the file is missing or damaged."""
    try:
        entries = read_json(path)
    except UserError:
        return {}
    well_formed = isinstance(entries, dict) and all(are_texts(entry, length) for entry in entries.values())
    return entries if well_formed else {}


def are_texts(entry: object, length: int) -> bool:
    """Whether a value from JSON is a list of so many texts."""
    return isinstance(entry, list) and len(entry) == length and all(isinstance(part, str) for part in entry)
