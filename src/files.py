"""Files and folders: written whole or not at all, checks of free space, locks."""
import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from src.errors import UserError

DIGEST_CHUNK = 2 ** 20  # bytes


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to. It is renamed to `path` at the end of the block.

    The content is on the disk before the rename, so a crash leaves either the old file or the new one.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # MindSpore writes files that only their owner may read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot write this file: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # nothing was written
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to fill. It is renamed to `path` at the end of the block, or removed after an error.

    What a killed process left is replaced.

    Raises:
        UserError: `path` exists and is not an empty folder, or cannot be made.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: already exists and is not an empty folder; name another one, or remove it")
    try:
        with temporary_folder(path) as temporary:
            yield temporary
            temporary.rename(path)  # over an empty folder, never over a full one
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(f"{path}: cannot be made: {where}{error.strerror or error}") from error


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to fill and to rename. It is removed at the end if it still has its first name.

    A folder that a killed process left under the same name is removed first.
    """
    temporary = path.with_name(f".{path.name}.unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    if temporary.exists():
        shutil.rmtree(temporary)
    try:
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder, without waiting for it.

    The kernel frees the lock when the descriptor is closed or the process ends.

    Args:
        descriptor: of the open file or folder.
        shared: allow other shared locks at the same time.

    Returns:
        False if another process has the lock.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Free a lock that `lock` took."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def read_names(path: Path) -> list[str]:
    """The lines of a text file that lists names.

    Lines may have escapes, for `unescape_name`. Bytes that are not UTF-8 are kept as they are.

    Raises:
        UserError: the file cannot be read, or is not a text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read this list of names: {error.strerror}") from error
    if b"\0" in content:
        raise UserError(f"{path}: not a text file, which a list of names must be")
    return [os.fsdecode(line.removesuffix(b"\r")) for line in content.split(b"\n")]


def size_and_time(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns of a file; if it cannot be asked, -1 and the error's number."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a path object takes longer, and there may be a million files
    except OSError as error:
        return -1, error.errno or 0
    return status.st_size, status.st_mtime_ns


def file_version(path: Path) -> tuple[int, int] | None:
    """What changes when `atomic_write` replaces a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def check_space(folder: Path, sizes: Iterable[int], what: str, advice: str = "choose a disk with more room") -> None:
    """Check that files of these sizes, in bytes, have room in a folder. The folder need not exist yet.

    Raises:
        UserError: there is not enough room. The text says how much `what` takes, and gives the advice.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    block = os.statvfs(existing).f_frsize
    needed = sum(-(-size // block) * block for size in sizes)
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(f"{existing}: {what} takes up to {needed / 2 ** 20:,.1f} MB, and {free / 2 ** 20:,.1f} MB are "
                        f"free; {advice}")


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy if the file system has no hard links."""
    with atomic_write(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            temporary.write_bytes(source.read_bytes())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(DIGEST_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
