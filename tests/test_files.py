"""Files and folders are there whole or not at all."""
import os
import shutil
import stat
from pathlib import Path

import pytest

from src.errors import UserError
from src.files import atomic_folder, atomic_write, check_space, link_or_copy


def test_the_name_appears_when_the_content_is_through(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent  # one file system: the rename is atomic
    assert path.read_text() == "half"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_others_may_read_as_the_umask_says(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "file") as temporary:
            temporary.write_text("x")
            temporary.chmod(0o400)  # as MindSpore leaves its files
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below.txt"
    with pytest.raises(UserError, match=f"^{path}: cannot write this file"), atomic_write(path) as temporary:
        temporary.write_text("x")


def test_a_second_name_replaces_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    (tmp_path / "a").unlink()
    assert (tmp_path / "b").read_text() == "new"


# ---- folders

def test_a_folder_appears_when_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    (path.parent / ".folder.unfinished").mkdir(parents=True)  # of an attempt that was killed
    (path.parent / ".folder.unfinished" / "left").touch()
    with atomic_folder(path) as temporary:
        (temporary / "file").write_text("x")
        assert not path.exists()
    assert [entry.name for entry in path.parent.iterdir()] == ["folder"]
    assert [entry.name for entry in path.iterdir()] == ["file"]


def test_an_interruption_leaves_no_folder(tmp_path: Path) -> None:
    def fill_half() -> None:
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_half()
    assert not list(tmp_path.iterdir())


def test_files_are_counted_in_blocks(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path / "not" / "yet", [1] * 10, "a test")
    with pytest.raises(UserError, match=f"^{tmp_path}: a test takes up to .* MB are free; choose a disk"):
        check_space(tmp_path / "not" / "yet", [1] * (free // os.statvfs(tmp_path).f_frsize + 100_000), "a test")
