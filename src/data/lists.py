"""Lists of images with labels: CSV, text files of `path label`, and manifests of ModelArts."""
import csv
import dataclasses
import functools
import json
import os
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError, list_some
from src.files import read_names, size_and_time
from src.names import escape_name, unescape_name

TRAIN, VAL, TEST = "train", "val", "test"
PARTS = {"": TRAIN, "train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "eval": VAL,
         "evaluation": VAL, "dev": VAL, "test": TEST, "testing": TEST}
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img")
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")
PART_COLUMNS = ("split", "part", "usage", "set", "subset")
CLASSIFICATION = "modelarts/image_classification"  # type of an annotation in a manifest
NO_LABEL, SEVERAL_LABELS, NOT_TO_LEARN = "without a label", "with several labels", "for inference"
LISTED = 5  # bad lines that a message names


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a list."""

    file: str  # absolute, or relative to the root of the list
    label: str
    part: str  # TRAIN, VAL or TEST
    group: str = ""  # the value of the column that was asked for


@dataclass(frozen=True)
class ImageList:
    """A list as it was read."""

    root: Path
    entries: Sequence[Entry]
    left_out: dict[str, list[str]]  # why, to the names of files

    @property
    def parts(self) -> set[str]:
        """The parts that have images."""
        return {entry.part for entry in self.entries}


def read_list(path: Path, group_column: str = "") -> ImageList:
    """Read a list: a manifest if its lines are JSON, a table if they have commas, semicolons or tabs, else a text.

    All parts of a run come from one list, so what was read is kept until the file changes.

    Paths are relative to the list's folder, or to the one above, or to a folder of the list's name in one of them:
    where the first image is. Labels that are all whole numbers get leading zeros, so that the order of the names is
    that of the numbers.

    Args:
        path: of the list.
        group_column: the column for `Entry.group`; empty for none.

    Raises:
        UserError: the list cannot be read, has lines of another form or no such column, or names no image.
    """
    return _read_list(path, group_column, size_and_time(os.fspath(path)))


@functools.lru_cache(maxsize=2)  # one to train on and one to validate on
def _read_list(path: Path, group_column: str, _version: tuple[int, int]) -> ImageList:
    lines = [(number, line) for number, line in enumerate(read_names(path), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: this list names no image")
    lines[0] = (lines[0][0], lines[0][1].removeprefix(os.fsdecode(b"\xef\xbb\xbf")))  # a byte order mark
    left_out: dict[str, list[str]] = defaultdict(list)
    bad: list[str] = []
    is_manifest = lines[0][1].lstrip().startswith("{")
    delimiter = "" if is_manifest else _delimiter(path, lines[0][1])
    if group_column and not delimiter:
        raise UserError(f"{path}: has no columns with names, so no column {group_column}")
    if is_manifest:
        rows = _manifest_rows(lines, left_out, bad)
    elif delimiter:
        rows = _table_rows(path, lines, delimiter, bad, group_column.lower())
    else:
        rows = _text_rows(lines, bad)
    entries = list(_entries(rows, left_out, bad))
    if bad:
        raise UserError(f"{path}: {len(bad)} lines are not of an image and its label: "
                        f"{list_some(bad, LISTED, separator='; ')}")
    if not entries:
        raise UserError(f"{path}: this list names no image with a label")
    root, skipped = _locate(path, entries[0].file)
    width = max(len(entry.label) for entry in entries) if all(entry.label.isdecimal() for entry in entries) else 0
    return ImageList(root.resolve(), [dataclasses.replace(
        entry, file=_local(entry.file, skipped), label=sys.intern(entry.label.zfill(width))) for entry in entries],
        left_out)


Row = tuple[int, str, str, str, str]  # number of the line, file, label, part, group


def _entries(rows: Iterator[Row], left_out: dict[str, list[str]], bad: list[str]) -> Iterator[Entry]:
    for number, file, label, part, group in rows:
        if part.lower() == "inference":
            left_out[NOT_TO_LEARN].append(file)
        elif not file or part.lower() not in PARTS:
            bad.append(f"line {number}")
        elif not label:
            left_out[NO_LABEL].append(file)
        else:
            yield Entry(file, sys.intern(unicodedata.normalize("NFC", label)), PARTS[part.lower()], group)


def _manifest_rows(lines: Sequence[tuple[int, str]], left_out: dict[str, list[str]], bad: list[str]) -> Iterator[Row]:
    for number, line in lines:
        try:
            values = json.loads(line)
            file, part = str(values["source"]), str(values.get("usage", ""))
            labels = {str(one["name"]) for one in values.get("annotation", [])
                      if one.get("type", CLASSIFICATION) == CLASSIFICATION and "name" in one}
        except (ValueError, KeyError, TypeError, AttributeError):
            bad.append(f"line {number}")
            continue
        if len(labels) > 1:
            left_out[SEVERAL_LABELS].append(file)
        else:
            yield number, file, next(iter(labels), ""), part, ""


def _delimiter(path: Path, line: str) -> str:
    """What separates the columns of a table; empty for a text of `path label`."""
    if "\t" in line:
        return "\t"
    is_table = path.suffix.lower() == ".csv" or not re.search(r"\s", line.strip())
    return max(",;", key=line.count) if is_table and ("," in line or ";" in line) else ""


def _table_rows(path: Path, lines: Sequence[tuple[int, str]], delimiter: str, bad: list[str],
                group_column: str) -> Iterator[Row]:
    table = [(number, row) for (number, _), row in zip(
        lines, csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True), strict=True)]
    names = [name.strip().lower() for name in table[0][1]]
    columns = [next((names.index(name) for name in known if name in names), None)
               for known in (PATH_COLUMNS, LABEL_COLUMNS, PART_COLUMNS)]
    file_column, label_column, part_column = columns
    if file_column is not None and label_column is not None:
        table = table[1:]
    elif len(names) in {2, 3} and (file_column, label_column) == (None, None):  # no header
        file_column, label_column, part_column = 0, 1, 2 if len(names) == 3 else None
    else:
        raise UserError(f"{path}: its columns are {', '.join(names)}; name one of the images "
                        f"({', '.join(PATH_COLUMNS)}) and one of their labels ({', '.join(LABEL_COLUMNS)})")
    if group_column and group_column not in names:
        raise UserError(f"{path}: its columns are {', '.join(names)}; none is {group_column}")
    for number, row in table:
        if len(row) != len(names):
            bad.append(f"line {number}")
            continue
        part = row[part_column].strip() if part_column is not None else ""
        group = row[names.index(group_column)].strip() if group_column else ""
        yield number, unescape_name(row[file_column]), unescape_name(row[label_column].strip()), part, group


def _text_rows(lines: Sequence[tuple[int, str]], bad: list[str]) -> Iterator[Row]:
    """Lines whose last word is the label; the path may have spaces."""
    for number, line in lines:
        words = line.strip().rsplit(None, 1)
        if len(words) == 2:
            yield number, unescape_name(words[0]), unescape_name(words[1]), "", ""
        else:
            bad.append(f"line {number}")


def _locate(path: Path, file: str) -> tuple[Path, int]:
    """The folder that a list's paths are relative to, and how many folders at their beginning are not here.

    The latter are of a bucket, `obs://bucket/folder/image.jpg`.
    """
    parts = _parts(file)
    for skipped in range(len(parts) if "://" in file else 1):
        name = "/".join(parts[skipped:])
        for folder in (path.parent, path.parent.parent, path.parent / path.stem, path.parent.parent / path.stem):
            if (folder / name).exists():
                return folder, skipped
    if "://" in file:
        raise UserError(f"{path}: {escape_name(file)} is not here; copy the images beside the list, with their folders")
    return path.parent, 0


def _local(file: str, skipped: int) -> str:
    return "/".join(_parts(file)[skipped:]) if "://" in file else file


def _parts(file: str) -> list[str]:
    """The folders and the name of a file; those of a bucket's file are without the bucket."""
    return re.sub(r"^\w+://[^/]+/", "", file).split("/") if "://" in file else [file]
