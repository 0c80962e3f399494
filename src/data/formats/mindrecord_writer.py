"""Writes image folders as MindRecord files: few large files instead of many small ones."""
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from src.data.image_folder import ImageFolder
from src.errors import UserError, first_line
from src.files import atomic_folder, check_space

SCHEMA = {"file_name": {"type": "string"}, "class_name": {"type": "string"}, "label": {"type": "int32"},
          "data": {"type": "bytes"}}
SHARD_BYTES = 2 ** 30  # of images in one file
MOST_SHARDS = 1000  # limit of MindRecord
LARGEST_PAGE = 2 ** 28  # bytes; an image must fit into a page
USUAL_PAGE = 2 ** 25
CHUNK = 64  # images in memory


def pack_mindrecord(parts: Mapping[str, ImageFolder], output: Path) -> dict[str, int]:
    """Write `output/<part>/<part>.mindrecord` with an index beside each file, whole or not at all; returns the number
    of files of each part.

    The column `data` holds an image's bytes as they are, `label` the index of its class among those of the first
    part, `class_name` and `file_name` the names of both. A data set of one part lies straight in `output`.

    Args:
        parts: "train" and "val", or one of any name.
        output: folder to make.

    Raises:
        UserError: `output` holds something; a class is not one of the first part; an image is too large; or there is
            no room.
    """
    classes = next(iter(parts.values())).classes
    for folder in parts.values():
        odd = [name for name in folder.files if not name.isprintable()]
        if odd:
            raise UserError(f"{folder.root}: MindRecord has no room for such a name: {odd[0]}; rename the file")
        if unknown := sorted(set(folder.classes) - set(classes)):
            raise UserError(f"{folder.root}: class {unknown[0]} is not one of the {len(classes)} classes to train on")
    sizes = {part: [(folder.root / name).stat().st_size for name in folder.files] for part, folder in parts.items()}
    check_space(output, [size + CHUNK for of_part in sizes.values() for size in of_part]
                + [2 * USUAL_PAGE] * len(parts), "MindRecord files")
    with atomic_folder(output) as temporary:
        return {part: _write_part(folder, sizes[part], classes, temporary / (part if len(parts) > 1 else ""),
                                  part if len(parts) > 1 else "pictures") for part, folder in parts.items()}


def _write_part(folder: ImageFolder, sizes: list[int], classes: tuple[str, ...], target: Path, name: str) -> int:
    # Imported here: MindSpore takes seconds to load, and other errors should come at once.
    from mindspore.mindrecord import FileWriter
    from mindspore.mindrecord.common.exceptions import MindRecordException

    if max(sizes) > LARGEST_PAGE - CHUNK:
        raise UserError(f"{folder.root / folder.files[sizes.index(max(sizes))]}: too large for MindRecord, which takes "
                        f"images of up to {LARGEST_PAGE // 2 ** 20} MB")
    shards = min(MOST_SHARDS, 1 + sum(sizes) // SHARD_BYTES)
    target.mkdir(exist_ok=True)
    try:
        writer = FileWriter(str(target / f"{name}.mindrecord"), shards)
        if max(sizes) > USUAL_PAGE // 2:
            writer.set_page_size(LARGEST_PAGE)
        writer.add_schema(SCHEMA)
        with tqdm(total=len(folder), desc=name, unit="image", disable=None) as bar:
            for start in range(0, len(folder), CHUNK):
                rows = [_row(folder, position, classes) for position in range(start, min(start + CHUNK, len(folder)))]
                writer.write_raw_data(rows)
                bar.update(len(rows))
        writer.commit()
    except (RuntimeError, MindRecordException) as error:
        raise UserError(f"{target}: MindSpore cannot write MindRecord files here: {first_line(error)}") from error
    for path in target.iterdir():
        path.chmod(0o644)  # MindSpore makes them readable for their owner only
    return shards


def _row(folder: ImageFolder, position: int, classes: tuple[str, ...]) -> dict[str, object]:
    class_name, path = folder.class_of(position), folder.root / folder.files[position]
    try:
        return {"file_name": path.name, "class_name": class_name, "label": classes.index(class_name),
                "data": path.read_bytes()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
