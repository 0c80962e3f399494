"""What the processes of a job on one machine agree by."""
from pathlib import Path

import pytest

from src.errors import UserError
from src.modelarts.lock import JobLock


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
