"""Files and folders that are there whole or not at all, and room for them."""
import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from src.errors import UserError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes `path`'s name when the block is through.

    The content reaches the disk before the name does, so a crash leaves the old file or the new one.

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
        with contextlib.suppress(OSError):  # where nothing could be written there is nothing to remove
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to fill; it takes `path`'s name when the block is through, else it is removed.

    What an earlier attempt left, which was killed, is replaced.

    Raises:
        UserError: `path` is there and is not an empty folder, or cannot be made.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: already exists and is not an empty folder; name another one, or remove it")
    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        yield temporary
        temporary.rename(path)  # over an empty folder, never over a full one
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(f"{path}: cannot be made: {where}{error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_names(path: Path) -> list[str]:
    """The lines of a text file that lists names.

    They may have escapes, for `unescape_name`; bytes that are not UTF-8 are taken as they are, as `ls` writes them.

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


def check_space(folder: Path, sizes: Iterable[int], what: str, advice: str = "choose a disk with more room") -> None:
    """See that files of these sizes, in bytes, have room in a folder, which need not exist yet.

    Raises:
        UserError: they have not; the text says that `what` takes so much, and gives the advice.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    block = os.statvfs(existing).f_frsize
    needed = sum(-(-size // block) * block for size in sizes)
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(f"{existing}: {what} takes up to {needed / 2 ** 20:,.1f} MB, and {free / 2 ** 20:,.1f} MB are "
                        f"free; {advice}")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, as a hard link where the file system has them."""
    with atomic_write(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            temporary.write_bytes(source.read_bytes())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
