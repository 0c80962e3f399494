"""Processes that wait for another one, which is a real one: they wait while it goes on, and not for ever."""
import re
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import ROOT

from src import turns
from src.cpu_kernels import builder
from src.cpu_kernels.compiler import find_compiler
from src.data.sources import train_source
from src.download import fetch
from src.errors import UserError
from src.turns import PATIENCE, one_at_a_time

# Is in the block until its input ends; each line of it is a part of the work.
HOLDER = """
import sys
from pathlib import Path
from src import turns
turns.TOUCH = 0
with turns.one_at_a_time(Path(sys.argv[1]), "unpacks photos.zip") as progress:
    print("inside", flush=True)
    for line in sys.stdin:
        progress()
        print("done", flush=True)
"""
COUNTER = """
import sys
from pathlib import Path
from src import turns
turns.POLL = 0.001
for _ in range(50):
    with turns.one_at_a_time(Path("lock"), "counts"):
        Path("count").write_text(str(int(Path("count").read_text()) + 1))
"""
SOME_SECONDS = 100.0


class Holder:
    """A process in the block of a lock file."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", HOLDER, path], cwd=ROOT, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._answer() == "inside"

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self._answer() == "done"

    def leave(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@dataclass
class Clock:
    """Stands in for the clock of the process that waits: something happens in each of its pauses."""

    events: list[Callable[[], None]] = field(default_factory=list)
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += SOME_SECONDS
        if self.events:
            self.events.pop(0)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    return clock


@pytest.fixture
def hold() -> Iterator[Callable[[Path], Holder]]:
    holders = []

    def start(path: Path) -> Holder:
        holders.append(Holder(path))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()


def test_others_wait_for_as_long_as_the_work_goes_on(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture,
                                                     hold: Callable[[Path], Holder]) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "lock"
    holder = hold(path)
    pauses = 3 * int(PATIENCE / SOME_SECONDS)
    clock.events = [*[holder.go_on] * pauses, holder.leave]
    with one_at_a_time(path, "unpacks photos.zip"):
        assert not clock.events
        assert path.read_text().startswith("process ")
    assert not list(tmp_path.iterdir())
    assert len(caplog.messages) == pauses
    assert caplog.messages[-1] == (f"waiting, {pauses * SOME_SECONDS:.0f} seconds so far: process "
                                   f"{holder.process.pid} on {socket.gethostname()} unpacks photos.zip")


def test_the_turn_of_a_killed_process_is_free(tmp_path: Path, clock: Clock, hold: Callable[[Path], Holder]) -> None:
    clock.events = [hold(tmp_path / "lock").kill]
    with one_at_a_time(tmp_path / "lock", "unpacks photos.zip"):
        assert not clock.events
    assert not list(tmp_path.iterdir())


def test_one_at_a_time_while_lock_files_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNTER], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
                 for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "150"


def unpacking(folder: Path) -> tuple[Path, Callable[[], object]]:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("cat/0.jpg", "x")
    return folder / ".photos.lock", lambda: train_source(str(folder / "photos.zip"))


def fetching(folder: Path) -> tuple[Path, Callable[[], object]]:
    return folder / ".net.pth.lock", lambda: fetch("http://127.0.0.1:1/net.pth", folder / "net.pth", "00")


def building(folder: Path) -> tuple[Path, Callable[[], object]]:
    compiler = find_compiler()
    (folder / "kernels").mkdir()
    return folder / "kernels" / f"kernels-{builder._key(compiler)}.lock", lambda: builder.build(compiler)


@pytest.mark.parametrize("work", [unpacking, fetching, building])
def test_nobody_waits_for_ever(work: Callable[[Path], tuple[Path, Callable[[], object]]], tmp_path: Path, clock: Clock,
                               monkeypatch: pytest.MonkeyPatch, hold: Callable[[Path], Holder]) -> None:
    """One line: the file, how long, which process does what, and what to do."""
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path))
    path, call = work(tmp_path)
    holder = hold(path)
    told = (f"{path}: waited for {PATIENCE:.0f} seconds without progress: process {holder.process.pid} on "
            f"{socket.gethostname()} unpacks photos.zip; look at that process, end it if it hangs, and start again")
    with pytest.raises(UserError, match=f"^{re.escape(told)}$"):
        call()
    assert clock.now == PATIENCE
    assert path.is_file()  # the other process still has its turn
