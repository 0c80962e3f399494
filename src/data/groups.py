"""Groups of images that a split keeps together: by a pattern of their names, or by a column of a list."""
import re
from collections.abc import Sequence
from pathlib import Path

from src.data.lists import read_list
from src.errors import UserError


def find_groups(files: Sequence[str], source: Path, pattern: str, column: str) -> dict[str, str]:
    """The group of each file, by a pattern or by a column of the list `source`; no groups if both are empty.

    Raises:
        UserError: both are given, or as the functions below.
    """
    if pattern and column:
        raise UserError("--group_pattern and --group_column: groups come from one of them; leave the other out")
    if pattern:
        return groups_by_pattern(files, pattern)
    return groups_by_column(source, column) if column else {}


def groups_by_pattern(files: Sequence[str], pattern: str) -> dict[str, str]:
    """The group of each file in which a regular expression is found, by file.

    A group's name is what the pattern's own groups match, else what all of it matches.

    Raises:
        UserError: the pattern is no regular expression, or is found in no file.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UserError(f"--group_pattern {pattern}: not a regular expression: {error}") from None
    matches = {file: match for file in files if (match := search(file))}
    if not matches:
        raise UserError(f"--group_pattern {pattern}: is found in none of {len(files)} names, such as {files[0]}")
    return {file: "\0".join(part or "" for part in match.groups()) if match.re.groups else match[0]
            for file, match in matches.items()}


def groups_by_column(source: Path, column: str) -> dict[str, str]:
    """The values of a column of a list, by file; files without a value are left out.

    Raises:
        UserError: the source is not a list, or has no such column.
    """
    if not source.is_file():
        raise UserError(f"--group_column {column}: {source} is not a list; name a CSV file as the source")
    return {entry.file: entry.group for entry in read_list(source, column).entries if entry.group}
