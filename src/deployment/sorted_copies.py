"""Copies of images in folders by predicted class, for a person to look through."""
import collections
import filecmp
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from src.deployment.prediction import Prediction
from src.errors import UserError, list_some
from src.files import atomic_write, check_space
from src.names import escape_name

UNSURE = "unsure"  # the folder of the images that are unsure
LONGEST_NAME = 200  # bytes in the name of a folder; file systems take 255
LISTED = 8  # folders that the message names


def check_target(folder: Path, images: Path) -> None:
    """Raise UserError if the folder of the copies is no folder, or is among the images: a second run would sort them.

    Args:
        folder: for the copies. It need not exist.
        images: the image, folder or list that is classified.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: --sort_into needs a folder, and this is a file; name another one")
    if images.is_dir() and folder.resolve().is_relative_to(images.resolve()):
        raise UserError(f"{folder}: is inside {images}, so that a second run would take the copies for images; name a "
                        "folder for --sort_into that is not")


def sort_into(predictions: Sequence[Prediction], folder: Path) -> str:
    """Copy each image to `folder`/<class>/, or to `folder`/unsure/ if it is unsure. Bad images are left out.

    A file that is there already is never overwritten: if it has the same content, nothing is copied, else the copy gets
    a number.

    Returns:
        A line for the user.

    Raises:
        UserError: there is no room, or a file cannot be read or written.
    """
    good = [prediction for prediction in predictions if not prediction.fault]
    check_space(folder, (prediction.path.stat().st_size for prediction in good), "a copy of each image")
    images: collections.Counter[str] = collections.Counter()
    new = 0
    for prediction in good:
        name = UNSURE if prediction.unsure else class_folder(prediction.classes[0])
        new += _copy(prediction.path, folder / name)
        images[name] += 1
    counts = list_some([f"{count} in {name}/" for name, count in images.most_common()], LISTED)
    before = f"; {len(good) - new} were there before" if new < len(good) else ""
    return f"sorted into {escape_name(folder)}: {new} new copies{before}; of these images {counts}"


def class_folder(name: str) -> str:
    r"""The name of a folder for a class. Different classes have different folders, and none has that of `UNSURE`.

    What a folder's name cannot have is escaped as `src.names` escapes: `\x2f` is a slash.
    """
    text = escape_name(name).replace("/", r"\x2f")
    if text.startswith(".") or text == UNSURE:
        text = rf"\x{ord(text[0]):02x}{text[1:]}"
    if not text or len(os.fsencode(text)) > LONGEST_NAME:
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        text = f"{os.fsencode(text)[:LONGEST_NAME - 20].decode(errors='ignore')}-{digest}"
    return text


def _copy(source: Path, folder: Path) -> bool:
    """Copy a file into a folder, whole or not at all; False if its content is there already under its name."""
    target, number = folder / source.name, 1
    while os.path.lexists(target):
        if target.is_file() and filecmp.cmp(source, target, shallow=False):
            return False
        number += 1
        target = folder / f"{source.stem}-{number}{source.suffix}"
    with atomic_write(target) as temporary:
        shutil.copy2(source, temporary)
    return True
