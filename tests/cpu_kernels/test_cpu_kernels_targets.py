"""The kernels on every processor that they are written for, with both compilers: no warnings, sums that stay in
registers, and the results of plain loops.
"""
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from src.cpu_kernels.builder import SOURCE_FOLDER
from src.cpu_kernels.compiler import FLAGS

PROGRAMS = Path(__file__).parents[1] / "cpp"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
# What /proc/cpuinfo must list to run a program for an architecture.
X86_FLAGS = {"x86-64-v2": {"sse4_2", "ssse3", "popcnt"}, "x86-64-v3": {"avx2", "fma", "bmi2"},
             "x86-64-v4": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
ARM = "armv8-a"
# A loop of multiplications that is longer has the stores behind the sums in it.
LONGEST_INNER_LOOP, FEWEST_PRODUCTS = 140, 8


class Target(NamedTuple):
    compiler: str
    architecture: str

    @property
    def command(self) -> list[str]:
        """The compiler with the options for the architecture."""
        words = [self.compiler, *FLAGS, f"-march={self.architecture}"]
        if self.architecture == ARM and platform.machine() != "aarch64":
            return ["aarch64-linux-gnu-g++", *words[1:]] if self.compiler == "g++" else [
                *words, "--target=aarch64-linux-gnu"]
        return words

    @property
    def needs(self) -> list[str]:
        """The programs without which it cannot be compiled for and looked at here."""
        cross = self.architecture == ARM and platform.machine() != "aarch64"
        return [self.command[0], self.objdump, *(["aarch64-linux-gnu-g++"] if cross else [])]

    @property
    def objdump(self) -> str:
        cross = self.architecture == ARM and platform.machine() != "aarch64"
        return "aarch64-linux-gnu-objdump" if cross else "objdump"

    @property
    def run(self) -> list[str] | None:
        """What a program is started with; None if this machine cannot run it."""
        if self.architecture == ARM:
            if platform.machine() == "aarch64":
                return []
            # Emulated they take long: what one compiler made is enough.
            emulator = "qemu-aarch64-static"
            return [emulator] if self.compiler == "g++" and shutil.which(emulator) else None
        flags = set(re.findall(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0].split())
        return [] if flags >= X86_FLAGS[self.architecture] else None


TARGETS = [Target(compiler, architecture) for compiler in ("g++", "clang++") for architecture in (*X86_FLAGS, ARM)]


@dataclass
class Built:
    target: Target
    objects: dict[str, Path]
    messages: str


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: f"{target.compiler} {target.architecture}")
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    target: Target = request.param
    if target.architecture != ARM and platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 machine")
    missing = [program for program in target.needs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("objects")
    sources = sorted(SOURCE_FOLDER.glob("*.cc"))
    objects = {source.stem: folder / f"{source.stem}.o" for source in sources}
    commands = [[*target.command, *WARNINGS, "-c", str(source), "-o", str(objects[source.stem])] for source in sources]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        runs = list(pool.map(lambda command: subprocess.run(command, capture_output=True, text=True, check=False),
                             commands))
    yield Built(target, objects, "".join(run.stderr for run in runs))
    shutil.rmtree(folder)


def test_no_warnings(built: Built) -> None:
    assert built.messages == ""
    assert all(path.exists() for path in built.objects.values())


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


def functions_of(target: Target, compiled: Path) -> list[list[Instruction]]:
    listing = subprocess.run([target.objdump, "-d", "--no-show-raw-insn", compiled], capture_output=True, text=True,
                             check=True).stdout
    functions: list[list[Instruction]] = []
    for line in listing.splitlines():
        if re.match(r"[0-9a-f]+ <.*>:$", line):
            functions.append([])
        elif found := re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*(.*)$", line):
            functions[-1].append(Instruction(int(found[1], 16), found[2], found[3]))
    return functions


def inner_loops(function: list[Instruction]) -> list[list[Instruction]]:
    """From the target of each jump back to the jump, where no other such loop lies within."""
    spans = set()
    for at in function:
        target = re.search(r"(?:^|, )([0-9a-f]+) <", at.operands)
        if target and re.match(r"j|b$|b\.|cbn?z|tbn?z", at.name):
            first = int(target[1], 16)
            if function[0].address <= first <= at.address:
                spans.add((first, at.address))
    inner = [span for span in spans if not any(
        span != other and span[0] <= other[0] and other[1] <= span[1] for other in spans)]
    return [[at for at in function if first <= at.address <= last] for first, last in inner]


def is_product(at: Instruction) -> bool:
    return re.match(r"v?mulps|vfn?madd|vfn?msub|fmla|fmul", at.name) is not None


def stores_to_the_stack(at: Instruction) -> bool:
    if re.match(r"st[rpu1]", at.name):
        return "[sp" in at.operands
    return re.match(r"v?mov", at.name) is not None and re.search(r"\(%rsp\)$", at.operands) is not None


@pytest.mark.parametrize("source", ["conv_gemm", "conv_depthwise", "fused_inference", "fused_training"])
def test_sums_stay_in_registers(built: Built, source: str) -> None:
    """Nothing is stored to the stack in the loops that all time is spent in."""
    loops = [loop for function in functions_of(built.target, built.objects[source]) for loop in inner_loops(function)
             if len(loop) <= LONGEST_INNER_LOOP and sum(map(is_product, loop)) >= FEWEST_PRODUCTS]
    assert len(loops) >= 2
    spilled = [at for loop in loops for at in loop if stores_to_the_stack(at)]
    assert spilled == []


def test_programs(built: Built, tmp_path: Path) -> None:
    """Gemm, convolutions and whole backbones give what plain loops give, on the instructions of the architecture."""
    run = built.target.run
    if run is None:
        pytest.skip("this machine has no such processor, or only an emulator, which is for g++ alone")
    kernels = list(built.objects.values())
    for name in ("gemm_test", "conv_test", "folded_test", "fused_training_test", "backbone_test"):
        program = tmp_path / name
        # g++ links, for clang does not know where the libraries of another processor are.
        linker = Target("g++", built.target.architecture).command
        subprocess.run([*built.target.command, f"-I{SOURCE_FOLDER}", "-c", PROGRAMS / f"{name}.cc", "-o",
                        f"{program}.o"], check=True)
        subprocess.run([*linker, "-static", f"{program}.o", *kernels, "-o", program], check=True)
        found = subprocess.run([*run, program], capture_output=True, text=True, check=False)
        assert found.returncode == 0, f"{name}: {found.stderr[-3000:]}"
