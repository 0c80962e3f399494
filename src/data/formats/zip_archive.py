"""Unpacks data sets from zip files, whole or not at all. The archive is checked before anything is written."""
import calendar
import contextlib
import os
import stat
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from src.data.image_folder import EVAL_FOLDERS
from src.data.images import IMAGE_ENDINGS
from src.errors import UserError, first_line
from src.files import check_space, temporary_folder

DATASET_FOLDERS = ("train", "test", *EVAL_FOLDERS)
LITTER = ("__MACOSX", ".DS_Store")  # macOS adds these


def unpack(archive: Path, target: Path, advice: str = "choose another --data_path",
           progress: Callable[[], None] = lambda: None) -> Path:
    """Unpack a zip file into the new folder `target`, whole or not at all; returns `target`.

    If all files are in one outer folder, that folder is left out, unless it is a part of the data set such as train.
    Files get the times in the archive, so that unpacking again gives the same data set. What a killed process left is
    replaced.

    Args:
        archive: the zip file.
        target: the folder to make.
        advice: what to do if the disk has no room.
        progress: called after each file.

    Raises:
        UserError: the archive is damaged or encrypted, has links or names that leave the folder, or needs more room
            than the disk has; nothing is written then. Or the disk became full.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked(archive, opened.infolist())
            check_space(target.parent, (member.file_size for member in members), f"unpacking {archive.name}",
                        advice)
            with temporary_folder(target) as temporary:
                for member in members:
                    _extract(opened, member, temporary)
                    progress()
                outer_folder(temporary).rename(target)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{error.filename or archive}: cannot unpack {archive.name}: "
                        f"{error.strerror or error}") from error
    except Exception as error:  # zipfile and the decompressors raise many types of error
        raise UserError(f"{archive}: not a whole zip file ({first_line(error)}); make it anew") from error
    return target


def check_member(archive: Path, name: str, is_link: bool) -> None:
    """Check that a member of an archive stays inside the target folder.

    Raises:
        UserError: its name leads outside, or it is a link.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise UserError(f"{archive}: '{name}' in it would be written outside of the data set; nothing was unpacked")
    if is_link:
        raise UserError(f"{archive}: '{name}' in it is a link; pack the file itself")


def _checked(archive: Path, members: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The members to unpack."""
    for member in members:
        check_member(archive, member.filename, stat.S_ISLNK(member.external_attr >> 16))
        if member.flag_bits & 0x1:
            raise UserError(f"{archive}: is encrypted; pack it without a password")
    wanted = [member for member in members if not set(PurePosixPath(member.filename).parts) & set(LITTER)]
    if not any(not member.is_dir() for member in wanted):
        raise UserError(f"{archive}: has no file in it")
    return wanted


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """Unpack one file or folder. zipfile checks the checksum."""
    path = Path(opened.extract(member, folder))
    with contextlib.suppress(ValueError, OverflowError):  # a date that does not exist
        seconds = calendar.timegm((*member.date_time, 0, 0, 0))
        os.utime(path, (seconds, seconds))


def outer_folder(folder: Path) -> Path:
    """`folder`, or the one folder in it that holds everything else; not if that is a part or a class of a data set."""
    entries = list(folder.iterdir())
    if len(entries) != 1 or not entries[0].is_dir() or entries[0].name in DATASET_FOLDERS:
        return folder
    holds_images = any(file.name.lower().endswith(IMAGE_ENDINGS) for file in entries[0].iterdir())
    return folder if holds_images else entries[0]
