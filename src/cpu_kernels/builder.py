"""Compiles the C++ kernels into a shared library, once per source, compiler and processor."""
import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from src.cache_folder import cache_folder
from src.cpu_kernels.compiler import Compiler, KernelsUnavailable, find_compiler, run_compiler
from src.cpu_kernels.instructions import processor_flags
from src.turns import one_at_a_time

SOURCE_FOLDER = Path(__file__).parent / "native"
SMOKE_RUN = Path(__file__).with_name("smoke_run.py")


def build(compiler: Compiler | None = None) -> Path:
    """The shared library, compiled unless the cache holds it already.

    Of several processes, such as the ranks of a run, one builds and the others wait. If the file system of the cache
    has no locks, all build under different names and rename to the final one, which replaces an equal file.

    Args:
        compiler: by default the one that `find_compiler` finds.

    Raises:
        KernelsUnavailable: no compiler, a failed compilation (with the compiler's message), a library that cannot run
            here, or no place to write.
        UserError: another process that builds it made no progress for too long.
    """
    try:
        compiler = compiler or find_compiler()
        library = cache_folder("kernels") / f"kernels-{_key(compiler)}.so"
        if library.exists():
            return library
        with one_at_a_time(library.with_suffix(".lock"), "builds the CPU kernels") as progress:
            if not library.exists():  # another process may have built it meanwhile
                with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                    built = _compile(compiler, Path(folder) / library.name, progress)
                    _try_out(built, compiler)
                    built.replace(library)
    except OSError as error:
        raise KernelsUnavailable(f"the kernels cannot be stored: {error}") from error
    return library


def load(library: Path) -> ctypes.CDLL:
    """A built library.

    Raises:
        KernelsUnavailable: the system refuses it, for instance on a file system from which nothing may be executed.
    """
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise KernelsUnavailable(f"the kernels cannot be loaded: {error}") from error


def _key(compiler: Compiler) -> str:
    """The key of a library in the cache.

    Other machines may use the same cache. So the key has the macros of the compiler, which say what `-march=native`
    means, and the flags of the processor, because the smoke run is valid only for processors with the same flags.
    """
    macros = (f"{name} {value}" for name, value in sorted(compiler.macros.items()))
    key = hashlib.sha256("\0".join([*compiler.command, *macros, *sorted(processor_flags())]).encode())
    for path in sorted([*SOURCE_FOLDER.glob("*.cc"), *SOURCE_FOLDER.glob("*.h")]):
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    return key.hexdigest()[:20]


def _compile(compiler: Compiler, library: Path, progress: Callable[[], None]) -> Path:
    """The sources to a shared library, as many at a time as there are processors, with all files in its folder."""
    def run(words: Sequence[str]) -> None:
        try:
            run_compiler([*compiler.command, *words], library.parent)
        except KernelsUnavailable as reason:
            raise KernelsUnavailable(f"{compiler.name} said: {reason}") from reason
        progress()

    sources = sorted(SOURCE_FOLDER.glob("*.cc"))
    objects = [str(library.with_name(f"{source.stem}.o")) for source in sources]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(run, [["-c", str(source), "-o", compiled]
                                for source, compiled in zip(sources, objects, strict=True)]):
            pass
    run(["-shared", *objects, "-o", str(library)])
    return library


def _try_out(library: Path, compiler: Compiler) -> None:
    """Runs a new library in a separate process before it gets into the cache.

    Most problems are found earlier, by comparing the macros of the compiler with /proc/cpuinfo. This finds the others:
    emulators that show the flags of their host, compilers on another machine, folders without the right to execute.
    """
    result = subprocess.run([sys.executable, "-I", "-S", SMOKE_RUN, library],  # noqa: S603
                            capture_output=True, text=True, check=False)
    if result.returncode < 0:
        raise KernelsUnavailable(f"what {compiler.name} built for {compiler.instruction_set} does not run here "
                                 f"({signal.Signals(-result.returncode).name}); name an older architecture in "
                                 "CPU_KERNELS_MARCH")
    if result.returncode > 0:
        message = (result.stderr.splitlines() or [f"exit status {result.returncode}"])[-1].replace(f"{library}: ", "")
        raise KernelsUnavailable(f"what {compiler.name} built does not run here: {message}")
