"""Building the kernels, falling back, and the number of threads."""
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from src import cache_folder as cache_module
from src.cache_folder import cache_folder
from src.cpu_kernels import KernelsUnavailable, accelerate
from src.cpu_kernels.builder import SOURCE_FOLDER, build
from src.cpu_kernels.threads import thread_count
from src.mobilenetV2 import ConvBN

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def runs(cell: ConvBN) -> bool:
    return cell(Tensor(np.ones((1, 4, 2, 2), np.float32))).shape == (1, 8, 2, 2)


def compiler(folder: Path, script: str) -> str:
    """A command that stands where the compiler is looked for."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_no_compiler(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    cell = ConvBN(4, 8)
    line = accelerate(cell, "auto")
    assert line.startswith("CPU kernels: off: no C++ compiler found")
    assert "\n" not in line
    assert type(cell) is ConvBN
    assert runs(cell)
    with pytest.raises(KernelsUnavailable, match="install g"):
        accelerate(cell, "on")


def test_failing_compiler_shows_its_message(empty_cache: Path, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    script = '[ "$1" = --version ] && exit 0\necho "kernels.cc:1: error: no such vector" >&2\nexit 1'
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    cell = ConvBN(4, 8)
    line = accelerate(cell, "auto")
    assert "error: no such vector" in line
    assert "\n" not in line
    assert runs(cell)
    with pytest.raises(KernelsUnavailable, match="no such vector"):
        accelerate(cell, "on")
    assert not list(empty_cache.rglob("*.so*"))


def test_broken_compiler_is_named(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "compiler"
    path.write_bytes(b"not a program")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    with pytest.raises(KernelsUnavailable, match="cannot be started"):
        build()


def test_off_leaves_the_network_alone_and_other_words_are_refused() -> None:
    cell = ConvBN(4, 8)
    assert accelerate(cell, "off") == "CPU kernels: off"
    assert type(cell) is ConvBN
    with pytest.raises(ValueError, match="auto, on or off"):
        accelerate(cell, "yes")


def test_cells_that_no_kernel_knows_stay() -> None:
    cell = ConvBN(4, 8, kernel_size=5)
    assert "float32" in accelerate(cell, "auto")
    assert type(cell) is ConvBN


def test_two_processes_build_at_once(empty_cache: Path, tmp_path: Path) -> None:
    # A compiler that leaves a mark for every real compilation; the second process waits, and takes what the first made.
    script = f'[ "$1" = --version ] || echo built >> {tmp_path}/marks\nexec g++ -O0 "$@" -O0'
    environment = os.environ | {"CXX": compiler(tmp_path, script), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from src.cpu_kernels.builder import build; print(build())"]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  cwd=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    paths = {output[0].strip().splitlines()[-1] for output in outputs}
    assert len(paths) == 1
    assert [path.name for path in empty_cache.rglob("*") if path.is_file()] == [Path(paths.pop()).name]
    marks = (tmp_path / "marks").read_text()
    assert len(marks.splitlines()) == len(list(SOURCE_FOLDER.glob("*.cc"))) + 1  # and once more, to link
    again = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert again.stdout.strip().splitlines()[-1] == outputs[0][0].strip().splitlines()[-1]
    assert (tmp_path / "marks").read_text() == marks


@pytest.mark.parametrize(("environment", "expected"), [
    ({}, len(os.sched_getaffinity(0))),
    ({"OMP_NUM_THREADS": "1"}, 1),
    ({"OMP_NUM_THREADS": "1,4"}, 1),
    ({"OMP_NUM_THREADS": "1000"}, len(os.sched_getaffinity(0))),
    ({"OMP_NUM_THREADS": "many"}, len(os.sched_getaffinity(0))),
    ({"MS_WORKER_NUM": "1000"}, 1),
    ({"MS_WORKER_NUM": "1000", "MS_LOCAL_WORKER_NUM": "1"}, len(os.sched_getaffinity(0))),
])
def test_thread_count(environment: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MS_WORKER_NUM", "MS_LOCAL_WORKER_NUM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert 1 <= thread_count() <= expected


def test_thread_count_respects_the_affinity_mask() -> None:
    script = ("import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
              "from src.cpu_kernels.threads import thread_count; print(thread_count())")
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip().splitlines()[-1] == "1"


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOBILENETV2_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("features") == tmp_path / "xdg" / "mobilenetv2-mindspore" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("features") == tmp_path / "home" / ".cache" / "mobilenetv2-mindspore" / "features"
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "own"))
    assert cache_folder("features") == tmp_path / "own" / "features"
    assert cache_folder("features").is_dir()


def test_cache_folder_falls_back_to_a_private_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file is no folder")
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache_module.tempfile, "tempdir", str(tmp_path))
    folder = cache_folder("kernels")
    assert folder.is_dir()
    assert folder.parent.parent == tmp_path
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
