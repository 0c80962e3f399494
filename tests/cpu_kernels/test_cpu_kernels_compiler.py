"""Which compiler is taken, what it is told to build for, and what is said where none will do."""
import importlib.util
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from src.cpu_kernels import instructions
from src.cpu_kernels.compiler import find_compiler
from tests.support.compiler_tools import COMPILERS, has, off_in_one_line, stand_in, version
from tests.support.launcher_tools import SCRIPTS

X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="asks compilers of x86-64 for its instruction sets")


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of PATH; no ziglang, no wishes."""
    for name in ("CXX", "CPU_KERNELS_MARCH"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    with_ziglang(monkeypatch, False)
    return folder


def with_ziglang(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: (found or None) if name == "ziglang" else real(name, *rest))


def use(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a compiler of this machine taken."""
    monkeypatch.undo()
    if not has(kind):
        pytest.skip(f"there is no {kind} here")
    monkeypatch.setenv("CXX", shlex.join(COMPILERS[kind]))


def pretend(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another processor."""
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n\nprocessor\t: 1\n")
    monkeypatch.setattr(instructions, "CPUINFO", tmp_path / "cpuinfo")


def test_no_compiler_says_what_to_do() -> None:
    line = off_in_one_line()
    assert "no C++ compiler found (looked for g++, clang++ and ziglang)" in line
    assert "many times slower" in line
    assert "pip install ziglang" in line


@pytest.mark.parametrize(("kind", "numbers", "oldest"), [
    ("g++", (9, 4, 0), "10.3"), ("g++", (10, 2, 1), "10.3"), ("clang", (13, 0, 1), "14")])
def test_a_compiler_that_is_too_old_is_named(kind: str, numbers: tuple[int, ...], oldest: str, tools: Path) -> None:
    stand_in(tools / "g++", version(kind, *numbers))
    line = off_in_one_line()
    assert f"{kind} {'.'.join(map(str, numbers))} is too old for the CPU kernels ({oldest} or newer)" in line
    assert "pip install ziglang" in line


@pytest.mark.parametrize(("kind", "numbers"), [
    ("g++", (10, 3, 0)), ("g++", (15, 1, 0)), ("clang", (14, 0, 0)), ("clang", (22, 1, 8))])
def test_one_that_is_new_enough_is_taken(kind: str, numbers: tuple[int, ...], tools: Path) -> None:
    stand_in(tools / "g++", version(kind, *numbers))
    assert find_compiler().name == f"{kind} {'.'.join(map(str, numbers))}"


def test_the_first_that_will_do_is_taken(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tools / "g++", version("g++", 9, 4, 0))
    monkeypatch.setattr(sys, "executable", str(stand_in(tools / "python", version("clang", 22, 1, 8), "echo 0.17.1")))
    with_ziglang(monkeypatch, True)
    assert find_compiler().name == "zig 0.17.1"
    # A clang++ without a C++ library, as where only the compiler's own package is installed.
    (tools / "clang++").write_text("#!/bin/sh\necho \"1: fatal error: 'cstddef' file not found\" >&2\nexit 1\n")
    (tools / "clang++").chmod(0o755)
    assert find_compiler().name == "zig 0.17.1"
    stand_in(tools / "clang++", version("clang", 14, 0, 6))
    assert find_compiler().name == "clang 14.0.6"
    stand_in(tools / "g++", version("g++", 12, 2, 0))
    assert find_compiler().name == "g++ 12.2.0"


def test_cxx_is_the_users_word(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tools / "g++", version("g++", 12, 2, 0))
    mine = stand_in(tmp_path / "my c++", version("clang", 15, 0, 0))
    monkeypatch.setenv("CXX", f"'{mine}' --sysroot=/")
    assert find_compiler().name == "clang 15.0.0"
    assert find_compiler().command[:2] == (str(mine), "--sysroot=/")
    monkeypatch.setenv("CXX", "nonsense")
    assert "no C++ compiler found (CXX is nonsense)" in off_in_one_line()
    monkeypatch.setenv("CXX", "g++ 'half")
    assert "CXX is g++ 'half, which is no command" in off_in_one_line()
    (tmp_path / "text").write_bytes(b"not a program")
    (tmp_path / "text").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "text"))
    assert "text cannot be started" in off_in_one_line()


@pytest.mark.parametrize(("words", "macros", "wanted", "flag"), [
    (["g++"], version("g++", 12, 2, 0), "", "-march=native"),
    (["g++"], version("g++", 12, 2, 0), "x86-64-v3", "-march=x86-64-v3"),
    (["g++"], version("g++", 12, 2, 0) | {"__aarch64__": 1}, "", "-march=native"),
    (["clang++"], version("clang", 14, 0, 6), "", "-march=native"),
    (["clang++"], version("clang", 14, 0, 6) | {"__aarch64__": 1}, "", "-mcpu=native"),
    (["clang++"], version("clang", 14, 0, 6) | {"__aarch64__": 1}, "armv8.2-a", "-march=armv8.2-a"),
    (["zig", "c++"], version("clang", 22, 1, 8), "", "-march=native"),
    (["zig", "c++"], version("clang", 22, 1, 8), "x86-64-v3", "-march=x86_64_v3"),
    (["zig", "c++"], version("clang", 22, 1, 8), "armv8-a", "-march=generic+v8a"),
    (["zig", "c++"], version("clang", 22, 1, 8), "armv8.2-a", "-march=generic+v8_2a"),
])
def test_each_compiler_is_told_the_architecture_in_its_own_words(
        words: list[str], macros: dict[str, int], wanted: str, flag: str, tools: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tools / words[0], macros, "echo 0.17.1")
    monkeypatch.setenv("CXX", shlex.join(words))
    monkeypatch.setenv("CPU_KERNELS_MARCH", wanted)
    assert find_compiler().command[-1] == flag


@X86
@pytest.mark.parametrize("kind", COMPILERS)
def test_instruction_sets_of_real_compilers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(kind, monkeypatch)
    pretend("", tmp_path, monkeypatch)  # a processor that tells nothing is taken for able
    found = {}
    for version_of_x86 in ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"):
        monkeypatch.setenv("CPU_KERNELS_MARCH", version_of_x86)
        found[version_of_x86] = find_compiler().instruction_set
    assert found == {"x86-64": "SSE2", "x86-64-v2": "SSE4", "x86-64-v3": "AVX2", "x86-64-v4": "AVX-512"}


@pytest.mark.parametrize("kind", COMPILERS)
def test_a_misspelt_architecture_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(kind, monkeypatch)
    monkeypatch.setenv("CPU_KERNELS_MARCH", "x86-64-v9")
    line = off_in_one_line()
    assert "CPU_KERNELS_MARCH=x86-64-v9: " in line
    assert f"{kind} " in line
    assert "cannot build for it" in line


@X86
@pytest.mark.parametrize("kind", COMPILERS)
def test_an_architecture_that_the_processor_has_not_is_refused(kind: str, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    use(kind, monkeypatch)
    v2 = "pni ssse3 sse4_1 sse4_2 popcnt"
    pretend(v2, tmp_path, monkeypatch)
    monkeypatch.setenv("CPU_KERNELS_MARCH", "x86-64-v2")
    assert find_compiler().instruction_set == "SSE4"
    monkeypatch.setenv("CPU_KERNELS_MARCH", "x86-64-v3")
    line = off_in_one_line()
    assert "CPU_KERNELS_MARCH=x86-64-v3: this processor has no avx, avx2, fma" in line
    monkeypatch.setenv("CPU_KERNELS_MARCH", "native")  # the compiler asks the processor itself
    assert find_compiler().command[-1] == "-march=native"
    monkeypatch.setenv("CPU_KERNELS_MARCH", "x86-64-v3")
    pretend(f"{v2} avx avx2 fma f16c movbe bmi1 bmi2", tmp_path, monkeypatch)
    assert find_compiler().instruction_set == "AVX2"
    monkeypatch.setenv("CPU_KERNELS_MARCH", "x86-64-v4")
    assert "this processor has no avx512f" in off_in_one_line()


def test_use_compiler_installs_ziglang_only_where_nothing_will_do(tools: Path, tmp_path: Path) -> None:
    """As quickstart.sh calls it: python is the environment's, and pip is written down, not run."""
    for name in ("dirname", "grep", "tail"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    python = tools / "python"
    hide = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: n != 'ziglang' and f(n) or None; "
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} -c "{hide}$2"\n'
                      f'echo "$@" >> {tmp_path}/installed\necho "ERROR: no network"\nexit $STATUS\n')
    python.chmod(0o755)
    folder = tmp_path / "clone"
    (folder / "scripts").mkdir(parents=True)
    (folder / ".venv").mkdir()
    (folder / "scripts" / "environment.sh").write_text((SCRIPTS / "environment.sh").read_text())
    (folder / "src").symlink_to(SCRIPTS.parent / "src")

    def run(**environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(["/bin/bash", "-euc", f". '{folder}/scripts/environment.sh'; use_compiler"], text=True,
                              env={"PATH": str(tools), "STATUS": "0", **environment}, capture_output=True, check=True)

    run(CXX="my-compiler")
    stand_in(tools / "g++", version("g++", 12, 2, 0))
    assert run().stdout == ""
    assert not (tmp_path / "installed").exists()
    stand_in(tools / "g++", version("g++", 9, 4, 0))
    done = run()
    assert done.stdout.count("\n") == 1
    assert "installing ziglang" in done.stdout
    assert f"--requirement={folder}/requirements-compiler.txt" in (tmp_path / "installed").read_text()
    failed = run(STATUS="1")
    assert failed.stderr.startswith("warning: pip could not install it (ERROR: no network)")
    assert failed.stderr.count("\n") == 1
