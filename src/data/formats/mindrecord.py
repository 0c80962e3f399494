"""MindRecord data sets as image folders: each image with its bytes unchanged, in a folder named after its label.

The rest of the project reads image folders alone: lists, checks and resuming work with files.
"""
import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.data.formats.mindrecord_header import check_header
from src.data.image_folder import EVAL_FOLDERS, has_mindrecords, mindrecords
from src.errors import UserError
from src.files import atomic_folder, check_space

IMAGE_COLUMNS = ("image", "data", "img")
LABEL_COLUMNS = ("class_name", "label", "labels", "class", "target")
NAME_COLUMNS = ("file_name", "filename", "name")
SIGNATURES = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG\r\n", ".png"), (b"BM", ".bmp"), (b"II*\0", ".tif"),
              (b"MM\0*", ".tif"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))
HELD_OUT = re.compile(r"(?<![a-z])(e?val|valid|validation|test)(?![a-z])", re.IGNORECASE)  # in a file's name
LONGEST_NAME = 200  # bytes; file systems allow 255, and a number and an ending may be added


def find_parts(source: Path) -> dict[str, list[list[Path]]]:
    """The MindRecord files of a data set, as lists of shards, by the part (folder) of the data set.

    The parts are `train` and `val` if these folders have MindRecord files; else there is one part, named "".

    Raises:
        UserError: training and validation files are in one folder.
    """
    parts = {name: _sets(source / name) for name in ("train", *EVAL_FOLDERS) if has_mindrecords(source / name)}
    if not parts and has_mindrecords(source):
        parts = {"": _sets(source)}
        held_out = [bool(HELD_OUT.search(shards[0].name)) for shards in parts[""]]
        if any(held_out) and not all(held_out):
            raise UserError(f"{source}: holds files to train on and to validate on, by their names; put them into "
                            f"{source}/train and {source}/val")
    return parts


def unpack_mindrecord(source: Path, target: Path) -> Path:
    """Write the images of a folder of MindRecord files, or of one with `train` and `val`, to the new image folder
    `target`, whole or not at all; returns `target`.

    Integer labels become class names of equal length in the whole data set, so that sorting them keeps their order.
    The images get the time of their MindRecord file, so that unpacking again gives the same data set. What a killed
    process left is replaced.

    Raises:
        UserError: there is no MindRecord file, or one is damaged, incomplete or has no images with labels; `target`
            holds something; or the disk has no room.
    """
    parts = find_parts(source)
    if not parts:
        raise UserError(f"{source}: no MindRecord files here; expected *.mindrecord with a .db beside each, in this "
                        "folder, or in train and val in it")
    with atomic_folder(target) as temporary:
        _check_space(parts, temporary)
        numbers: list[Path] = []
        for name, sets in parts.items():
            numbers += _write_part(sets, temporary / name)
        width = max((len(folder.name) for folder in numbers), default=0)
        for folder in numbers:
            folder.rename(folder.with_name(folder.name.zfill(width)))
    return target


def _sets(folder: Path) -> list[list[Path]]:
    """The files of a folder, grouped into sets that differ only in the shard's number, sorted by that number."""
    found: dict[str, list[Path]] = {}
    for path in mindrecords(folder):
        found.setdefault(path.name.rstrip("0123456789"), []).append(path)
    return [sorted(paths, key=lambda path: (len(path.name), path.name)) for _, paths in sorted(found.items())]


def _check_space(parts: Mapping[str, list[list[Path]]], folder: Path) -> None:
    """Check the free space. MindRecord files are padded, so the images need a little less than this."""
    sizes: list[int] = []
    for shards in (shards for sets in parts.values() for shards in sets):
        with _opened(shards) as reader:
            sizes += [path.stat().st_size for path in shards] + [1] * reader.len()  # a block more for each image
    check_space(folder, sizes, "unpacking MindRecord files")


@contextlib.contextmanager
def _opened(shards: list[Path]) -> Iterator[Any]:
    """A reader of some shards.

    Given one file name, MindSpore looks for all shards of its set and reports a missing one. Given a list, it reads
    these files alone. So a reader of the first kind checks, and one of the second kind reads.
    """
    # Imported here: jobs without such data should not load MindSpore before they copy.
    from mindspore.mindrecord import FileReader
    from mindspore.mindrecord.common.exceptions import MindRecordException

    for path in shards:
        if not path.with_name(f"{path.name}.db").is_file():
            raise UserError(f"{path}: its index {path.name}.db is missing; copy it, too")
        check_header(path)
    reader = None
    try:
        FileReader(str(shards[0]), num_consumer=1).close()
        reader = FileReader([str(path) for path in shards], num_consumer=1)  # one consumer keeps the order
        yield reader
    except (RuntimeError, MindRecordException) as error:
        raise UserError(_fault(shards, str(error))) from error
    finally:
        if reader is not None:
            reader.close()


def _fault(shards: list[Path], said: str) -> str:
    """MindSpore's message of many lines as one line, with what to do."""
    missing = re.search(r"mindrecord file: (.+?) can not be found", said)
    if missing:
        return f"{missing[1]}: this shard is missing; copy all files that were written together, and do not rename them"
    if "can not match" in said:
        return f"{shards[0]}: it or its .db file was renamed, or they are not of one set; restore their names"
    named = next((path for path in shards if f"{path}]" in said or f"{path} " in said), shards[0])
    if "Failed to read file" in said:
        return f"{named}{' or another of its shards' if len(shards) > 1 else ''}: cut off; copy or write it anew"
    return f"{named}: not a MindRecord file, or damaged; copy or write it anew"


def _write_part(sets: list[list[Path]], folder: Path) -> list[Path]:
    """Write the images of some sets of shards. Returns the class folders whose names are numbers."""
    numbers: set[Path] = set()
    known = total = 0
    for shards in sets:
        seconds = shards[0].stat().st_mtime_ns
        with _opened(shards) as reader:
            image, label, name = _columns(shards[0], reader.schema())
            count = 0
            for row in reader.get_next():
                class_name, is_number = _class_name(row.get(label), f"{shards[0]}: record {count}")
                class_folder = folder / class_name
                class_folder.mkdir(parents=True, exist_ok=True)
                if is_number:
                    numbers.add(class_folder)
                content = row[image]
                ending = next((ending for start, ending in SIGNATURES if content.startswith(start)), "")
                known += bool(ending)
                # A record that is no image becomes a file, too: the check of images will name it.
                path = _write(class_folder, str(row.get(name, "")), total + count, ending or ".jpg", content)
                os.utime(path, ns=(seconds, seconds))
                count += 1
            if count != reader.len():
                # MindSpore stops silently at the end of a truncated file.
                what = "this set of shards is " if len(shards) > 1 else ""
                raise UserError(f"{shards[0]}: {what}cut off after {count} of {reader.len()} records; copy or write it "
                                "anew")
        total += count
    if not known:
        raise UserError(f"{sets[0][0]}: none of {total} records holds an encoded image in its column {image!r}; "
                        "jpg, png, bmp and tiff are read")
    return sorted(numbers)


def _columns(path: Path, schema: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
    """The columns of the image, of its label and of its file name; "" if there are no file names."""
    of_bytes = [column for column, properties in schema.items() if properties["type"] == "bytes"]
    usual = [column for column in IMAGE_COLUMNS if column in of_bytes]
    image = next(iter(usual or of_bytes), "")
    if not image or (not usual and len(of_bytes) > 1):
        raise UserError(f"{path}: has no column of encoded images, of type bytes and named "
                        f"{', '.join(IMAGE_COLUMNS)}; its columns are {', '.join(schema)}")
    label = next((column for column in LABEL_COLUMNS
                  if column in schema and schema[column]["type"] in {"int32", "int64", "string"}), "")
    if not label:
        raise UserError(f"{path}: has no column of labels, of type int or string and named {', '.join(LABEL_COLUMNS)}; "
                        f"its columns are {', '.join(schema)}")
    return image, label, next((column for column in NAME_COLUMNS
                                 if column in schema and schema[column]["type"] == "string"), "")


def _class_name(label: object, where: str) -> tuple[str, bool]:
    """A label as the name of a folder, and whether it is a number."""
    if isinstance(label, np.ndarray) and label.size == 1:
        label = label.item()
    if isinstance(label, str):
        if not label or label.startswith(".") or set(label) & set("/\0") or len(os.fsencode(label)) > LONGEST_NAME:
            raise UserError(f"{where}: has no label, or one that cannot be a folder's name: '{label[:80]}'")
        return label, False
    if not isinstance(label, int) or label < 0:
        raise UserError(f"{where}: has no label, or one that is no class: '{str(label)[:80]}'")
    return str(label), True


def _write(folder: Path, given: str, number: int, ending: str, content: bytes) -> Path:
    """Write an image under its old name if that is a valid file name, else under its number. Never overwrites."""
    stem = re.sub(r"\.\w{1,5}$", "", given.replace("\\", "/").rpartition("/")[2])
    if not stem or stem.startswith(".") or not stem.isprintable() or len(os.fsencode(stem)) > LONGEST_NAME:
        stem = f"{number:08d}"
    path = folder / f"{stem}{ending}"
    if path.exists():
        path = folder / f"{stem}-{number:08d}{ending}"
    with path.open("xb") as file:
        file.write(content)
    return path
