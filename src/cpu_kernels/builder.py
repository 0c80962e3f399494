"""Compiles the C++ kernels into a shared library, once per source, compiler and processor."""
import contextlib
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from src.cache_folder import cache_folder
from src.errors import UserError

SOURCE_FOLDER = Path(__file__).parent / "native"
# No option that lets the compiler treat NaN, infinity or the order of sums as it likes.
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-pthread")


class KernelsUnavailable(UserError, RuntimeError):  # noqa: N818 - a state of affairs more than an error
    """The accelerated kernels cannot run here; the message says why in one line."""


def find_compiler() -> list[str]:
    """The C++ compiler as the first words of a command: `$CXX`, which may hold options, else g++, else clang++.

    Raises:
        KernelsUnavailable: there is none.
    """
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    for candidate in candidates:
        words = shlex.split(candidate)
        if words and shutil.which(words[0]):
            return words
    raise KernelsUnavailable(f"no C++ compiler found (looked for {', '.join(candidates)}; install g++)")


def _processor() -> str:
    """What -march=native depends on: the processor's instruction sets, or its name where the kernel lists none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _run(command: list[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise KernelsUnavailable(f"the compiler {command[0]} cannot be started: {error}") from error
    if result.returncode != 0:
        lines = [line.strip() for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        message = (errors or lines or [f"exit code {result.returncode}"])[0]
        raise KernelsUnavailable(f"the compiler said: {message} (command: {shlex.join(command)})")
    return result.stdout


def build() -> Path:
    """The shared library, compiled unless the cache holds it already.

    Of several processes, as the ranks of a run, one builds and the others wait. Where the cache's file system has no
    locks all build, each under a name of its own, and rename to the final one, which replaces an equal file.

    Raises:
        KernelsUnavailable: no compiler, a failed compilation (with the compiler's message), or no place to write.
    """
    compiler = find_compiler()
    sources = sorted(SOURCE_FOLDER.glob("*.cc"))
    key = hashlib.sha256("\0".join([*compiler, *FLAGS, _run([*compiler, "--version"]), _processor()]).encode())
    for path in [*sources, *sorted(SOURCE_FOLDER.glob("*.h"))]:
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    try:
        library = cache_folder("kernels") / f"kernels-{key.hexdigest()[:20]}.so"
        if library.exists():
            return library
        with _locked(library.parent):
            if not library.exists():  # another process may have built it meanwhile
                with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                    _compile(compiler, sources, Path(folder) / library.name).replace(library)
    except OSError as error:
        raise KernelsUnavailable(f"the kernels cannot be stored: {error}") from error
    return library


def _compile(compiler: Sequence[str], sources: Sequence[Path], library: Path) -> Path:
    """Sources to a shared library, as many at a time as there are processors."""
    objects = [library.with_name(f"{source.stem}.o") for source in sources]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        commands = [[*compiler, *FLAGS, "-c", str(source), "-o", str(compiled)]
                    for source, compiled in zip(sources, objects, strict=True)]
        for _ in pool.map(_run, commands):
            pass
    _run([*compiler, *FLAGS, "-shared", *map(str, objects), "-o", str(library)])
    return library


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """For one process at a time, if the file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
