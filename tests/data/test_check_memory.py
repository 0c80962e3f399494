"""Processes that check one folder at the same time share the work."""
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import Images

from src.data import shared_work
from src.data.check_memory import CheckMemory, Finding
from src.data.image_folder import ImageFolder
from src.files import lock

FILES = 10


class Checker:
    """Checks a folder as a process does, and notes which files it looks at itself. Every second one is bad."""

    def __init__(self, root: Path) -> None:
        self.folder, self.looked_at = ImageFolder.scan(root), list[int]()
        self.memory = CheckMemory(self.folder, 1024)

    def look(self, portion: np.ndarray) -> list[Finding]:
        self.looked_at += portion.tolist()
        return [Finding(fault="own") if position % 2 else Finding() for position in portion.tolist()]

    def run(self) -> dict[str, str]:
        """The faults by name."""
        unknown = self.memory.look_up()[1]
        assert sum(self.memory.check(unknown, self.look)) == len(unknown)
        return {name: finding.fault for name, finding in self.memory.look_up()[0].items()}

    def portion_path(self, number: int) -> Path:
        """The file of the portion with a number, which is there once a process has been at it."""
        shared = self.memory.share(np.arange(FILES))
        return shared.path(shared.portions[number])


@pytest.fixture
def root(images: Images, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images, of which a process takes four at a time."""
    monkeypatch.setattr(shared_work, "PORTION", 4)
    monkeypatch.setattr(shared_work, "POLL", 0.01)
    return images({"cat": FILES})


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def own_faults(positions: range) -> dict[str, str]:
    return {f"cat/{position:03d}.jpg": "own" for position in positions if position % 2}


def test_another_process_finds_nothing_left_to_do(root: Path) -> None:
    assert Checker(root).run() == own_faults(range(FILES))
    other = Checker(root)
    assert other.run() == own_faults(range(FILES))
    assert not other.looked_at


def test_a_portion_that_another_process_is_at_comes_from_there(root: Path, beside: ThreadPoolExecutor) -> None:
    checker = Checker(root)
    with checker.portion_path(1).open("wb") as file:
        assert lock(file.fileno())
        found = beside.submit(checker.run)
        wait_for(lambda: len(checker.looked_at) == FILES - 4)
        file.write(json.dumps([["other", "", ""]] * 4).encode())
    others = {f"cat/{position:03d}.jpg": "other" for position in range(4, 8)}
    assert found.result() == own_faults(range(4)) | others | own_faults(range(8, FILES))
    assert sorted(checker.looked_at) == [0, 1, 2, 3, 8, 9]


@pytest.mark.parametrize("written", [b"", b'[["own", "'])
def test_a_portion_of_a_process_that_was_killed_is_done_by_another(root: Path, beside: ThreadPoolExecutor,
                                                                   written: bytes) -> None:
    checker = Checker(root)
    with checker.portion_path(1).open("wb") as file:
        assert lock(file.fileno())
        found = beside.submit(checker.run)
        wait_for(lambda: len(checker.looked_at) == FILES - 4)
        file.write(written)
    assert found.result() == own_faults(range(FILES))
    assert sorted(checker.looked_at) == list(range(FILES))


def test_nobody_waits_for_ever(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_work, "PATIENCE", -1)
    checker = Checker(root)
    with checker.portion_path(1).open("wb") as file:
        assert lock(file.fileno())
        assert checker.run() == own_faults(range(FILES))


def test_a_check_that_was_interrupted_goes_on(root: Path) -> None:
    first = Checker(root)
    steps = first.memory.check(first.memory.look_up()[1], first.look)
    assert next(steps) == 4
    steps.close()  # type: ignore[attr-defined]  # of a generator
    second = Checker(root)
    assert second.run() == own_faults(range(FILES))
    assert second.looked_at == list(range(4, FILES))


def test_a_process_that_comes_late_reads_what_is_remembered(root: Path) -> None:
    """It has seen that all is unknown before the other one was done."""
    late = Checker(root)
    unknown = late.memory.look_up()[1]
    Checker(root).run()
    assert sum(late.memory.check(unknown, late.look)) == FILES
    assert not late.looked_at
    assert not list(late.portion_path(0).parent.iterdir())


def test_a_new_file_alone_is_checked(root: Path) -> None:
    Checker(root).run()
    (root / "cat" / "0.jpg").write_bytes((root / "cat" / "000.jpg").read_bytes())
    checker = Checker(root)
    checker.run()
    assert [checker.folder.files[position] for position in checker.looked_at] == ["cat/0.jpg"]
