"""Where a process stands, which pictures come out of a zip, how often the storage is asked."""
import json
import os
import stat
import sys
import types
import zipfile
from pathlib import Path

import mindspore as ms
import pytest

from src.data.formats.zip_archive import unpack
from src.distributed.device import setup_device
from src.errors import UserError
from src.model_utils.config import get_config
from src.model_utils.device_adapter import find_place
from src.model_utils.local_adapter import Place
from src.model_utils.moxing_adapter import Storage, is_remote
from src.modelarts.environment import await_rank_table
from src.modelarts.lock import JobLock


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEVICE_ID", "ASCEND_DEVICE_ID", "RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE", "MA_NUM_HOSTS",
                 "VC_WORKER_NUM", "MA_VJ_NAME", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)


# ---- the environment

@pytest.mark.parametrize(("variables", "modelarts", "place"), [
    ({}, False, Place(None, 0, 1, 1, "")),
    ({}, True, Place(None, 0, 1, 1, "")),
    ({"ASCEND_DEVICE_ID": "3", "RANK_ID": "11", "RANK_SIZE": "16", "MA_NUM_HOSTS": "2", "JOB_ID": "j"}, True,
     Place(3, 11, 16, 2, "j")),
    ({"DEVICE_ID": "5", "ASCEND_DEVICE_ID": "3", "VC_WORKER_NUM": "4", "MA_VJ_NAME": "v", "JOB_ID": "j"}, True,
     Place(5, 0, 1, 4, "v")),
    ({"DEVICE_ID": "5", "RANK_ID": "1", "RANK_SIZE": "2", "MA_NUM_HOSTS": "2", "JOB_ID": "j"}, False,
     Place(5, 1, 2, 1, "")),
    ({"DEVICE_ID": "", "ASCEND_DEVICE_ID": "0"}, True, Place(0, 0, 1, 1, "")),
])
def test_place(variables: dict[str, str], modelarts: bool, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_place(modelarts) == place


def test_a_variable_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK_ID", "one")
    with pytest.raises(UserError, match="environment variable RANK_ID must be a number, not 'one'"):
        find_place(True)


@pytest.mark.parametrize(("variables", "device"), [({}, None), ({"ASCEND_DEVICE_ID": "6"}, 6),
                                                   ({"DEVICE_ID": "2", "ASCEND_DEVICE_ID": "6"}, 2)])
def test_the_card_that_is_asked_of_mindspore(variables: dict[str, str], device: int | None,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []
    monkeypatch.setattr(ms, "set_device", lambda *wanted: asked.append(wanted))
    monkeypatch.delenv("MS_ROLE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    setup_device(get_config(["--platform", "Ascend", "--enable_modelarts"]))
    assert asked == [("Ascend", device)]


@pytest.mark.parametrize(("rank", "size", "machines", "first", "on_first"), [
    (0, 1, 1, True, True), (0, 8, 1, True, True), (7, 8, 1, False, True), (8, 16, 2, True, False),
    (9, 16, 2, False, False), (1, 2, 2, True, False)])
def test_first_on_a_machine(rank: int, size: int, machines: int, first: bool, on_first: bool) -> None:
    place = Place(None, rank, size, machines, "")
    assert (place.is_first_on_machine, place.is_on_first_machine) == (first, on_first)


def test_rank_table_in_a_folder_is_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, contents = tmp_path / "jobstart_hccl.json", ["", '{"status": "initial', '{"status": "initializing"}',
                                                        '{"status": "completed"}']
    monkeypatch.setenv("RANK_TABLE_FILE", str(tmp_path))

    def later(seconds: float) -> None:
        table.write_text(contents.pop(0))

    await_rank_table(60, later)
    assert (contents, Path(os.environ["RANK_TABLE_FILE"])) == ([], table)
    await_rank_table(0)  # a file is taken as it is
    monkeypatch.setenv("RANK_TABLE_FILE", str(tmp_path))
    table.write_text(json.dumps({"status": "initializing"}))
    with pytest.raises(UserError, match="did not complete this rank table within 0 seconds"):
        await_rank_table(0)


# ---- the storage

def test_schemes() -> None:
    assert [is_remote(url) for url in ("obs://b/x", "S3://b/x", "/cache/x", "x", "file:///x", "")] == [
        True, True, False, False, False, False]


def test_waits_double_and_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def exists(url: str) -> bool:
        raise RuntimeError("no answer\nand more")

    file = types.SimpleNamespace(exists=exists, copy_parallel=print)
    monkeypatch.setitem(sys.modules, "moxing", types.SimpleNamespace(file=file))
    with pytest.raises(UserError, match="cannot look for obs://b: no answer; tried 7 times"):
        Storage(7, 5.0, waits.append).exists("obs://b")
    assert waits == [5, 10, 20, 40, 80, 120]


# ---- zip files

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


# ---- the lock

def test_notes_of_a_job_without_living_members_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second, other = (JobLock(name, 1) for name in ("a/b", "a/b", "c"))
    for lock in (first, second, other):
        with lock.gate("begin"):
            lock.join()
            if lock is first:
                lock.note("data", "here")
    assert [lock.noted("data") for lock in (first, second, other)] == ["here", "here", None]
    with first.gate("look"):
        assert not first.is_alone()
    second.leave()
    with first.gate("look"):
        assert first.is_alone()
    first.leave()
    late = JobLock("a/b", 1)
    with late.gate("begin"):
        late.join()
        assert late.noted("data") is None
    late.leave()
    other.leave()


def test_who_is_on_the_way_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = JobLock("a", 1)
    with first.gate("begin"):
        first.join()
        second = JobLock("a", 1)
        assert first.is_awaited()
    with second.gate("begin"):
        second.join()
        assert not first.is_awaited()
    first.leave()
    second.leave()


def test_lock_files_that_are_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    JobLock("a", 1).leave()
    file = next(tmp_path.glob("*.notes"))
    file.rename(tmp_path / "victim")
    file.symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="cannot make this lock file"):
        JobLock("a", 1)
