"""Finds a C++ compiler that is new enough for the kernels, and asks it what it builds for."""
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.cache_folder import cache_folder
from src.cpu_kernels.instructions import instruction_set, missing_instructions
from src.errors import UserError

STANDARD = "-std=c++17"
# No option that lets the compiler treat NaN, infinity or the order of sums as it likes. zig alone would add debug
# information, four times the size of the code.
FLAGS = (STANDARD, "-O3", "-fno-math-errno", "-g0", "-fPIC", "-pthread")  # a sqrt that may set errno has no vectors

# What a compiler is by its predefined macros: its kind, the macros of its version, and the oldest that will do. The
# first that fits: clang defines GCC's macros, too.
KINDS = (("clang", ("__clang_major__", "__clang_minor__", "__clang_patchlevel__"), (14,)),
         ("g++", ("__GNUC__", "__GNUC_MINOR__", "__GNUC_PATCHLEVEL__"), (10, 3)))


class KernelsUnavailable(UserError, RuntimeError):  # noqa: N818 - a state of affairs more than an error
    """The accelerated kernels cannot run here; the message says why in one line."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that the kernels can be built with.

    Attributes:
        command: the first words of its commands, with all flags.
        name: with its version, for the user.
        macros: what it predefines with these flags, by name: its version, the instructions that it may use, which
            `-march=native` takes from the processor, and the C library.
    """

    command: tuple[str, ...]
    name: str
    macros: Mapping[str, str]

    @property
    def instruction_set(self) -> str:
        """What the code that it compiles runs on, for the user."""
        return instruction_set(self.macros)


def wanted_architecture() -> str:
    """What to build for, in GCC's words: `$CPU_KERNELS_MARCH`, as in x86-64-v3 or armv8.2-a, else native."""
    return os.environ.get("CPU_KERNELS_MARCH") or "native"


def find_compiler() -> Compiler:
    """`$CXX`, which may hold options, else the first of g++, clang++ and PyPI's ziglang that is new enough.

    Raises:
        KernelsUnavailable: there is none, or it does not know the wanted architecture, or the processor has not got it.
    """
    reasons = []
    for words in _candidates():
        try:
            name, macros = _identify(words)
        except KernelsUnavailable as reason:
            reasons.append(str(reason))
        else:
            return _for_the_wanted_architecture(words, name, macros)
    given = os.environ.get("CXX", "").strip()
    if given:
        raise KernelsUnavailable("; ".join(reasons) or f"no C++ compiler found (CXX is {given})")
    raise KernelsUnavailable("; ".join(reasons or ["no C++ compiler found (looked for g++, clang++ and ziglang)"])
                             + "; training is many times slower without the kernels: pip install ziglang, or install a "
                             "recent g++")


def run_compiler(words: Sequence[str], temporary_folder: Path | None = None) -> str:
    """What a command of the compiler prints.

    Args:
        words: the command.
        temporary_folder: where the compiler keeps files between its passes, if not in the system's place for them.

    Raises:
        KernelsUnavailable: it cannot be started or fails; the message is the compiler's first complaint.
    """
    environment = os.environ | {"LC_ALL": "C"}  # complaints would else be in the user's language
    if temporary_folder:
        environment["TMPDIR"] = str(temporary_folder)
    if _is_zig(words):
        # It compiles its C++ library once and keeps it, and every object; without this below $HOME, which may not be
        # there or not be writable.
        try:
            kept = cache_folder("zig")
        except OSError as error:
            raise KernelsUnavailable(f"zig has no place for its cache: {error}") from error
        environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(kept))
        environment.setdefault("ZIG_LOCAL_CACHE_DIR", str(temporary_folder or kept))
    try:
        result = subprocess.run(words, env=environment, capture_output=True, text=True, errors="replace",  # noqa: S603
                                check=False)
    except OSError as error:
        raise KernelsUnavailable(f"{words[0]} cannot be started: {error}") from error
    if result.returncode < 0:
        raise KernelsUnavailable(f"{words[0]} was ended by {signal.Signals(-result.returncode).name}")
    if result.returncode > 0:
        lines = [line.strip() for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        complaints = [line for line in lines if re.search(r"\berror\b|\bfailed\b|no ?space ?left", line, re.IGNORECASE)]
        raise KernelsUnavailable((complaints or lines or [f"{words[0]} ended with {result.returncode}"])[0])
    return result.stdout


def _candidates() -> Iterator[list[str]]:
    """How the commands of the compilers begin that there are, the best first."""
    try:
        given = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise KernelsUnavailable(f"CXX is {os.environ['CXX']}, which is no command: {error}") from error
    for words in [given] if given else [["g++"], ["clang++"]]:
        if shutil.which(words[0]):
            yield words
    if not given and importlib.util.find_spec("ziglang"):
        yield [sys.executable, "-m", "ziglang", "c++"]


def _is_zig(words: Sequence[str]) -> bool:
    return any(Path(word).name in ("zig", "ziglang") for word in words[:3])


def _macros(words: Sequence[str]) -> dict[str, str]:
    """The macros that a compiler defines by itself or in the most basic header of the C++ library, by name."""
    text = run_compiler([*words, "-dM", "-E", "-include", "cstddef", "-x", "c++", os.devnull])
    return dict(re.findall(r"^#define (\S+) ?(.*)$", text, re.MULTILINE))


def _identify(words: list[str]) -> tuple[str, dict[str, str]]:
    """The name of a compiler that will do, and its macros."""
    try:
        macros = _macros(words)
    except KernelsUnavailable as reason:
        raise KernelsUnavailable(f"the compiler {shlex.join(words)} does not work: {reason}") from reason
    for kind, names, oldest in KINDS:
        if names[0] in macros:
            version = [int(macros[name]) for name in names]
            name = f"{kind} {_dotted(version)}"
            if version < list(oldest):
                raise KernelsUnavailable(f"{name} is too old for the CPU kernels ({_dotted(oldest)} or newer)")
            if _is_zig(words):
                name = f"zig {run_compiler([*words[:words.index('c++')], 'version']).strip()}"
            return name, macros
    raise KernelsUnavailable(f"the compiler {shlex.join(words)} is neither g++ nor clang")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _architecture_flag(words: Sequence[str], macros: Mapping[str, str]) -> str:
    architecture = wanted_architecture()
    if _is_zig(words):
        # zig's -march is clang's -mcpu. It knows processors only, by names with underscores (x86_64_v3), and the
        # versions of ARM's architecture as features of a generic one (generic+v8_2a).
        architecture = re.sub(r"^armv(\d+)(?:\.(\d+))?-a", lambda m: f"generic+v{'_'.join(filter(None, m.groups()))}a",
                              architecture).replace("-", "_")
    elif architecture == "native" and "__clang__" in macros and "__aarch64__" in macros:
        return "-mcpu=native"  # clang 14 has no -march=native there
    return f"-march={architecture}"


def _for_the_wanted_architecture(words: list[str], name: str, macros: Mapping[str, str]) -> Compiler:
    architecture = wanted_architecture()
    command = (*words, *FLAGS, _architecture_flag(words, macros))
    try:
        macros = _macros(command)
    except KernelsUnavailable as reason:
        raise KernelsUnavailable(f"CPU_KERNELS_MARCH={architecture}: {name} cannot build for it: {reason}") from reason
    # What is native, the compiler has asked the processor itself.
    missing = missing_instructions(macros) if architecture != "native" else []
    if missing:
        raise KernelsUnavailable(f"CPU_KERNELS_MARCH={architecture}: this processor has no {', '.join(missing)}; "
                                 "name an older architecture, or none")
    return Compiler(command, name, macros)
