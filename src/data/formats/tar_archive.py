"""Lists and reads tar files, and checks them before any content is used.

Python's tarfile stops silently at a damaged header, or if the file is cut between two members. Here that is an error.
"""
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from src.data.formats.zip_archive import LITTER, check_member, outer_folder
from src.errors import UserError, first_line
from src.files import check_space, temporary_folder

BLOCK = tarfile.BLOCKSIZE
LATEST_TIME = 2 ** 32  # s; a header can have any number, but a file system cannot


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str  # without the folder
    offset: int  # of its first byte in the archive
    size: int  # bytes
    time: int  # of its last change, in s


def tar_members(archive: Path, within: Member | None = None) -> list[Member]:
    """The files of an uncompressed tar file, or of a tar file inside it.

    Raises:
        UserError: it is missing, damaged or cut off, or holds links, special files or names that leave the folder.
    """
    where = archive if within is None else archive / within.name
    with _readable(archive), tarfile.open(archive, "r:") as tar:
        if within is None:
            return _listed(where, tar, archive.stat().st_size, 0)
        info = tarfile.TarInfo(within.name)
        info.offset_data, info.size = within.offset, within.size
        with _content(tar, info) as file, tarfile.open(fileobj=file, mode="r:") as inner:
            return _listed(where, inner, within.size, within.offset)


def compressed_members(archive: Path, names: set[str], largest: int) -> dict[str, bytes]:
    """The content of the files with these names, in any folder, of a tar file with or without compression.

    Args:
        archive: the tar file.
        names: base names of files. Names that the archive does not have are missing in the result.
        largest: a file with more bytes than this is refused before it is read.

    Raises:
        UserError: as `tar_members`.
    """
    found = {}
    with _readable(archive), tarfile.open(archive, "r:*") as tar:
        for info in _infos(tar):
            name = PurePosixPath(info.name).name
            if name not in names:
                continue
            check_member(archive, info.name, not info.isreg() or info.issparse())
            if info.size > largest:
                raise UserError(f"{archive}: '{info.name}' in it has {info.size:,} bytes, which no such file has")
            with _content(tar, info) as file:
                found[name] = file.read()
        while tar.fileobj is not None and tar.fileobj.read(2 ** 20):  # up to the end, where the checksum of gzip is
            pass
    return found


def unpack_tar(archive: Path, target: Path, advice: str, progress: Callable[[], None]) -> Path:
    """Unpack a tar file, with or without compression, as `zip_archive.unpack` does a zip file.

    Raises:
        UserError: as `tar_members`; or the disk has no room.
    """
    with _readable(archive), tarfile.open(archive, "r:*") as tar:
        infos = [info for info in _each(_infos(tar), progress) if not set(PurePosixPath(info.name).parts) & set(LITTER)]
        if tar.fileobj is None or tar.fileobj.read(BLOCK) != bytes(BLOCK):  # the second block of the end mark
            raise tarfile.ReadError("cut off or damaged")
        while tar.fileobj.read(2 ** 20):  # up to the end, where the checksum of gzip is
            pass
        for info in infos:
            check_member(archive, info.name, not (info.isreg() or info.isdir()) or info.issparse())
        if not any(info.isreg() for info in infos):
            raise UserError(f"{archive}: has no file in it")
        check_space(target.parent, (info.size for info in infos), f"unpacking {archive.name}", advice)
        with temporary_folder(target) as temporary:
            tar.extractall(temporary, _each(infos, progress), filter="data")
            outer_folder(temporary).rename(target)
    return target


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    if not archive.is_file():
        raise UserError(f"{archive}: no such file")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tarfile and the decompressors raise many types of error
        if isinstance(error, OSError) and error.errno:  # gzip raises OSErrors without a number
            raise UserError(f"{archive}: cannot read this file: {error.strerror}") from error
        raise UserError(f"{archive}: not a whole tar file ({first_line(error).rstrip(':')}); download or "
                        "copy it anew") from error


def _infos(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file. Refuses a negative size, which would put tarfile into an endless loop."""
    for info in tar:
        if info.size < 0 or info.offset_data < info.offset:
            raise tarfile.ReadError(f"{info.name} has a size below 0")
        yield info


def _each(infos: Iterable[tarfile.TarInfo], progress: Callable[[], None]) -> Iterator[tarfile.TarInfo]:
    for info in infos:
        progress()
        yield info


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(info)
    if file is None:
        raise tarfile.ReadError(f"{info.name} is no file")
    return file


def _listed(where: Path, tar: tarfile.TarFile, size: int, start: int) -> list[Member]:
    """The files of an opened tar file of `size` bytes that begins at byte `start` of the archive."""
    infos = list(_infos(tar))
    end = max((info.offset_data + -(-info.size // BLOCK) * BLOCK for info in infos), default=0)
    file = tar.fileobj
    if end + BLOCK > size or file is None:
        raise tarfile.ReadError("cut off")
    file.seek(end)
    if any(file.read(BLOCK)):  # a complete archive has its end mark here
        raise tarfile.ReadError(f"damaged at byte {start + end}")
    members = []
    for info in infos:
        if info.isdir():
            continue
        check_member(where, info.name, not info.isreg() or info.issparse())
        members.append(Member(PurePosixPath(info.name).name, start + info.offset_data, info.size,
                              min(max(0, int(info.mtime)), LATEST_TIME)))
    return members
