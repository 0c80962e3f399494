"""Building the kernels, falling back, and the number of threads."""
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from src import cache_folder as cache_module
from src import turns
from src.cache_folder import cache_folder
from src.cpu_kernels import accelerate, instructions
from src.cpu_kernels.builder import SOURCE_FOLDER, build
from src.cpu_kernels.threads import thread_count
from src.mobilenetV2 import ConvBN
from tests.support.compiler_tools import COMPILERS, has, off_in_one_line, stand_in, version

ROOT = Path(__file__).resolve().parents[2]


# What a stand-in links in the place of the kernels: the operator that the smoke run calls, and no others.
WORKS = "*(float *)parameters[1] = 1; return 0;"
FINDS_NOTHING = "*(float *)parameters[1] = 0; return 0;"
ILLEGAL = "raise(SIGILL); return 0;"
UNRESOLVED = "int nowhere(); return nowhere();"

needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to link")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def linker(folder: Path, body: str) -> str:
    """A script for a stand-in that compiles nothing, links one operator, and leaves a mark for each library."""
    (folder / "operator.cc").write_text(f'#include <csignal>\nextern "C" int all_finite(int, void **parameters, ...) '
                                        f'{{ {body} }}\n')
    return (f'for word; do last=$word; done\ncase "$*" in *" -c "*) exit;; esac\necho linked >> {folder}/marks\n'
            f'exec g++ -shared -fPIC -Wl,-z,now {folder}/operator.cc -o "$last"')


@pytest.mark.parametrize(("says", "end", "told"), [
    ("kernels.cc:1: error: no such vector", "exit 1", "g++ 12.2.0 said: kernels.cc:1: error: no such vector"),
    ("In file included from kernels.cc:\nkernels.h:2: fatal error: no vector", "exit 1", "fatal error: no vector"),
    ("/usr/bin/ld: final link failed: No space left on device\ncollect2: error: ld returned 1 exit status", "exit 1",
     "final link failed: No space left on device"),
    ("", "exit 1", "compiler ended with 1"),
    ("In file included from kernels.cc:", "kill -KILL $$", "compiler was ended by SIGKILL"),
])
def test_failing_compiler_shows_its_message(says: str, end: str, told: str, empty_cache: Path, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "says").write_text(says)
    script = f"cat {tmp_path}/says >&2; {end}"
    monkeypatch.setenv("CXX", str(stand_in(tmp_path / "compiler", version("g++", 12, 2, 0), script)))
    assert told in off_in_one_line()
    assert not list(empty_cache.rglob("*.so*"))


def test_nowhere_to_write(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(stand_in(tmp_path / "compiler", version("g++", 12, 2, 0))))
    empty_cache.write_text("a file is no folder")
    monkeypatch.setattr(cache_module.tempfile, "tempdir", str(empty_cache))
    assert "the kernels cannot be stored" in off_in_one_line()


@needs_gcc
@pytest.mark.parametrize(("body", "told"), [
    (ILLEGAL, "what clang 15.0.7 built for AVX-512 does not run here (SIGILL); name an older architecture in "
              "CPU_KERNELS_MARCH"),
    (UNRESOLVED, "what clang 15.0.7 built does not run here: OSError: undefined symbol: "),
    (FINDS_NOTHING, "what clang 15.0.7 built does not run here: all_finite ended with 0 and found 0.0"),
])
def test_what_does_not_run_here_does_not_get_into_the_cache(body: str, told: str, empty_cache: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    macros = version("clang", 15, 0, 7) | {"__AVX512F__": 1}
    monkeypatch.setattr(instructions, "CPUINFO", tmp_path / "none")
    monkeypatch.setenv("CXX", str(stand_in(tmp_path / "compiler", macros, linker(tmp_path, body))))
    assert told in off_in_one_line()
    assert not list(empty_cache.rglob("*.so*"))


@needs_gcc
def test_a_library_that_cannot_be_loaded_any_more(empty_cache: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = stand_in(tmp_path / "compiler", version("g++", 12, 2, 0), linker(tmp_path, WORKS))
    monkeypatch.setenv("CXX", str(compiler))
    build().write_text("a copy that went wrong")
    assert "the kernels cannot be loaded: " in off_in_one_line()


@needs_gcc
def test_a_library_of_another_machine_is_not_taken(empty_cache: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache, seen by machines that differ in what -march=native is, the processor's flags, or the compiler."""
    compiler, cpuinfo = tmp_path / "compiler", tmp_path / "cpuinfo"
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(instructions, "CPUINFO", cpuinfo)

    def build_on(numbers: tuple[int, int, int], flags: str, **native: int) -> Path:
        stand_in(compiler, version("g++", *numbers) | native, linker(tmp_path, WORKS))
        cpuinfo.write_text(f"flags\t: {flags}\n")
        return build()

    machines: list[tuple] = [
        ((12, 2, 0), "avx2 avx512f", {"__AVX2__": 1, "__AVX512F__": 1}),
        ((12, 2, 0), "avx2 avx512f", {"__AVX2__": 1}),
        ((12, 2, 0), "avx2", {"__AVX2__": 1}),
        ((12, 2, 1), "avx2", {"__AVX2__": 1}),
    ]
    libraries = [build_on(numbers, flags, **native) for numbers, flags, native in machines]
    assert len(set(libraries)) == len(machines)
    assert [build_on(numbers, flags, **native) for numbers, flags, native in machines] == libraries
    assert (tmp_path / "marks").read_text() == "linked\n" * len(machines)  # the second time each found its own
    monkeypatch.setenv("CPU_KERNELS_MARCH", "haswell")
    assert build() not in libraries


# All kinds of layers against the stock cells, within test_cpu_kernels.py's bounds, and a network that learns.
TRIAL = """
import mindspore as ms
import numpy as np
ms.set_context(mode=ms.GRAPH_MODE)
ms.set_device("CPU")
from tests.cpu_kernels.test_cpu_kernels import CELLS, assert_equal, pair, results, train
from src.cpu_kernels import accelerate
from src.mobilenetV2 import ConvBN
for name in ("1x1, more than a tile", "depthwise, stride 2, odd sides", "full, stride 2", "block with shortcut"):
    make, shape = CELLS[name]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    for training in (True, False) if "block" in name else (True,):
        expected, found = (results(cell, x) for cell in pair(make, training))
        assert all(np.isfinite(value).all() for value in found.values()), name
        assert_equal(expected, found)
np.testing.assert_allclose(train("on", 5)[0], train("off", 5)[0], rtol=1e-3)
print(accelerate(ConvBN(4, 8), "on"))
"""


@pytest.mark.parametrize("kind", COMPILERS)
def test_every_compiler(kind: str, tmp_path: Path) -> None:
    """zig: with no compiler and nothing else on PATH, and without a home, as in a bare container."""
    if not has(kind):
        pytest.skip(f"there is no {kind} here")
    folders = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "CXX": shlex.join(COMPILERS[kind]), "PYTHONPATH": os.pathsep.join(folders)}
    if kind == "zig":
        environment = {name: value for name, value in environment.items() if name not in ("CXX", "HOME")}
        environment["PATH"] = str(tmp_path)
    run = subprocess.run([sys.executable, "-c", TRIAL], env=environment, cwd=tmp_path, capture_output=True, text=True,
                         check=False)
    assert run.returncode == 0, run.stderr
    assert re.search(rf"^CPU kernels: on, .*, {re.escape(kind)} \d+\.\d+", run.stdout, re.MULTILINE)


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


@needs_gcc
def test_two_processes_build_at_once(empty_cache: Path, tmp_path: Path) -> None:
    # The build is long enough that the second process comes meanwhile; it waits, and takes what the first made.
    compiler = stand_in(tmp_path / "compiler", version("g++", 12, 2, 0), f"sleep 0.5\n{linker(tmp_path, WORKS)}")
    environment = os.environ | {"CXX": str(compiler), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from src.cpu_kernels.builder import build; print(build())"]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  cwd=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    paths = {output[0].strip().splitlines()[-1] for output in outputs}
    assert len(paths) == 1
    assert [path.name for path in empty_cache.rglob("*") if path.is_file()] == [Path(paths.pop()).name]
    assert (tmp_path / "marks").read_text() == "linked\n"
    again = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert again.stdout.strip().splitlines()[-1] == outputs[0][0].strip().splitlines()[-1]
    assert (tmp_path / "marks").read_text() == "linked\n"


@needs_gcc
def test_each_file_that_is_compiled_is_progress(empty_cache: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes wait as long as there is some: `tests/test_turns.py`."""
    calls: list[int] = []
    monkeypatch.setattr(turns, "_progress_mark", lambda _: lambda: calls.append(1))
    monkeypatch.setenv("CXX", str(stand_in(tmp_path / "compiler", version("g++", 12, 2, 0), linker(tmp_path, WORKS))))
    build()
    assert len(calls) == len(list(SOURCE_FOLDER.glob("*.cc"))) + 1


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


@pytest.mark.parametrize("reason", ["a file in its place", "a user without a home"])
def test_cache_folder_falls_back_to_a_private_one(reason: str, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    if reason == "a file in its place":
        (tmp_path / "file").write_text("a file is no folder")
        monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "file"))
    else:
        for name in ("MOBILENETV2_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", dict[int, object]().__getitem__)
    monkeypatch.setattr(cache_module.tempfile, "tempdir", str(tmp_path))
    folder = cache_folder("kernels")
    assert folder.is_dir()
    assert folder.parent.parent == tmp_path
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
