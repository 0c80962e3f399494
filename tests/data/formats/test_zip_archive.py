"""Data sets in zip files: which images come out, and what is refused."""
import stat
import zipfile
from pathlib import Path

import pytest

from src.data.formats.zip_archive import unpack
from src.errors import UserError


def zipped(path: Path, names: dict[str, str], **changes: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in names.items():
            info = zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6))
            for key, value in changes.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(("names", "found"), [
    (["train/a/0.jpg", "val/a/0.jpg"], ["train/a/0.jpg", "val/a/0.jpg"]),
    (["root/train/a/0.jpg", "root/val/a/0.jpg"], ["train/a/0.jpg", "val/a/0.jpg"]),
    (["root/a/0.jpg", "root/b/0.jpg"], ["a/0.jpg", "b/0.jpg"]),
    (["train/a/0.jpg"], ["train/a/0.jpg"]),
    (["a/0.jpg"], ["a/0.jpg"]),
    (["a/0.JPG"], ["a/0.JPG"]),
    (["root/data.mindrecord", "root/data.mindrecord.db"], ["data.mindrecord", "data.mindrecord.db"]),
    (["root/a/0.jpg", "root/b/0.jpg", "__MACOSX/root/._a", "root/.DS_Store"], ["a/0.jpg", "b/0.jpg"]),
])
def test_root_folder_of_a_zip(tmp_path: Path, names: list[str], found: list[str]) -> None:
    target = unpack(zipped(tmp_path / "x.zip", dict.fromkeys(names, "y")), tmp_path / "x")
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == found
    assert {path.name for path in tmp_path.iterdir()} == {"x", "x.zip"}
    assert {int((target / name).stat().st_mtime) for name in found} == {1580702706}  # 2020-02-03 04:05:06 UTC


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/x.jpg", "..\\x.jpg", "C:\\x.jpg"])
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="would be written outside of the data set; nothing was unpacked"):
        unpack(zipped(tmp_path / "x.zip", {"a/0.jpg": "y", name: "y"}), tmp_path / "in" / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_links_and_passwords_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'a/0.jpg' in it is a link"):
        unpack(zipped(tmp_path / "l.zip", {"a/0.jpg": "/etc"}, external_attr=(stat.S_IFLNK | 0o777) << 16,
                      create_system=3), tmp_path / "x")
    with pytest.raises(UserError, match="has no file in it"):
        unpack(zipped(tmp_path / "n.zip", {}), tmp_path / "x")
    locked = zipped(tmp_path / "p.zip", {"a/0.jpg": "y"})
    content = bytearray(locked.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    locked.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        unpack(locked, tmp_path / "x")


def test_a_flipped_byte_is_found_and_nothing_stays(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"a/0.jpg": "yyyy", "b/0.jpg": "zzzz"})
    archive.write_bytes(archive.read_bytes().replace(b"zzzz", b"zzzy"))
    with pytest.raises(UserError, match="not a whole zip file"):
        unpack(archive, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_an_existing_folder_is_not_written_to(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"a/0.jpg": "y"})
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").touch()
    with pytest.raises(UserError, match=r"cannot unpack x\.zip"):
        unpack(archive, tmp_path / "x")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["mine"]
