"""Compares this project with PyTorch, TensorFlow, ONNX Runtime and OpenVINO on the same work and machine.

    python tools/compare_frameworks.py
    python tools/compare_frameworks.py --peers torch,onnxruntime --batch_size 32 --mode train,eval --rounds 5
    python tools/compare_frameworks.py --instruction_set AVX2 > avx2.md

The work is MobileNetV2 1.0 in float32 on images in memory. `train` is a step: forward, label-smoothed cross entropy,
backward, SGD with momentum and weight decay. `eval` is a batch to logits, `latency` one image from and to numpy.
Every measurement is a process of its own. The frameworks take turns, `--rounds` times for each kind of work, every
second time in the opposite order; the table has the medians. Before it is timed, a framework that can take this
project's weights must give its logits or, in training, its first losses.

Each framework gets a virtual environment with the versions that `tools/peers/*.txt` pin, made when it is first needed
and kept (`--environments`): about 3 GB for all. A framework that cannot be installed or fails is named and left out.
The table goes to the standard output, progress to the standard error.
"""
import argparse
import datetime
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.cache_folder import cache_folder
from src.cpu_kernels.threads import thread_count
from src.environments import Environment, make_environment, run_child
from src.errors import UserError, run_command
from src.reports.provenance import processor_name
from tools.benchmark import positive
from tools.peers.prepare import CHECKPOINT
from tools.peers.work import MODES, ONNX

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "tools" / "peers"
QUIET = 0.1  # share of the processors' time that other programs may take
INSTRUCTION_SETS: dict[str, dict[str, str]] = {  # environment variables that hold frameworks down to one
    "native": {},
    "AVX2": {"CPU_KERNELS_MARCH": "x86-64-v3",  # this project
             "ATEN_CPU_CAPABILITY": "avx2", "TORCHINDUCTOR_CPP_MARCH": "x86-64-v3",  # PyTorch
             "ONEDNN_MAX_CPU_ISA": "AVX2"},  # oneDNN in PyTorch, TensorFlow and OpenVINO
}

# Without these glibc returns each large tensor to the system and allocates it again. PyTorch is twice as slow then.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2 ** 33), "MALLOC_TRIM_THRESHOLD_": str(2 ** 33)}


@dataclass(frozen=True)
class Peer:
    """A framework, or one way to use it."""

    name: str  # on the command line
    title: str  # in the table
    script: Path
    requirements: Path | None = None  # of its environment; None for this one
    options: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES
    runs_onnx: bool = False
    has_switch: bool = True  # whether its instruction set can be chosen

    def __str__(self) -> str:
        return self.title


OURS = Peer("mindspore", "this project", SCRIPTS / "measure_mindspore.py")
PEERS = (
    Peer("torch", "PyTorch eager", SCRIPTS / "measure_torch.py", SCRIPTS / "torch.txt"),
    Peer("torch_compile", "PyTorch compiled", SCRIPTS / "measure_torch.py", SCRIPTS / "torch.txt", ("--compile",)),
    Peer("tensorflow", "TensorFlow", SCRIPTS / "measure_tensorflow.py", SCRIPTS / "tensorflow.txt"),
    Peer("onnxruntime", "ONNX Runtime", SCRIPTS / "measure_onnxruntime.py", SCRIPTS / "onnxruntime.txt",
         modes=("eval", "latency"), runs_onnx=True, has_switch=False),
    Peer("openvino", "OpenVINO, latency", SCRIPTS / "measure_openvino.py", SCRIPTS / "openvino.txt",
         modes=("eval", "latency"), runs_onnx=True),
    Peer("openvino_throughput", "OpenVINO, throughput", SCRIPTS / "measure_openvino.py", SCRIPTS / "openvino.txt",
         ("--throughput",), ("eval",), runs_onnx=True),
)


@dataclass(frozen=True)
class Case:
    """A row of the table: a kind of work."""

    mode: str
    batch_size: int

    def __str__(self) -> str:
        if self.mode == "latency":
            return "latency of one image, ms"
        kind = {"train": "training", "eval": "evaluation"}[self.mode]
        return f"{kind}, {self.batch_size} image{'s' if self.batch_size > 1 else ''}"

    def figure(self, images_per_second: float) -> float:
        """The text in the table."""
        return 1000 / images_per_second if self.mode == "latency" else images_per_second


@dataclass
class Results:
    """The results."""

    speeds: dict[tuple[Case, Peer], list[float]] = field(default_factory=dict)  # images per second, by round
    reports: dict[Peer, dict] = field(default_factory=dict)  # the report of each peer
    failures: list[str] = field(default_factory=list)

    def median(self, case: Case, peer: Peer) -> float | None:
        """The median of images per second; None if there is none."""
        speeds = self.speeds.get((case, peer))
        return statistics.median(speeds) if speeds else None


def main(argv: Sequence[str] | None = None) -> None:
    """Compare as the command line says."""
    options = read_options(argv)
    results = Results()

    # ---- an environment for each framework
    pythons = {OURS: Path(sys.executable)}
    for requirements in dict.fromkeys(peer.requirements for peer in options.peers):
        users = [peer for peer in options.peers if peer.requirements == requirements]
        try:
            python = Path(sys.executable) if requirements is None else make_environment(
                Environment(requirements), options.environments, say)
            pythons |= dict.fromkeys(users, python)
        except UserError as error:
            results.failures.append(f"{' and '.join(map(str, users))}: cannot be installed: {error}")
            say(results.failures[-1])
    peers = tuple(pythons)

    with tempfile.TemporaryDirectory() as folder:
        # ---- the work, and what this project makes of it
        variables = {"OMP_NUM_THREADS": str(options.threads), **INSTRUCTION_SETS[options.instruction_set],
                     "TORCHINDUCTOR_CACHE_DIR": str(options.environments / f"inductor-{options.instruction_set}"),
                     **KEEP_MEMORY}
        prepare(Path(folder), options, peers, variables)

        # ---- rounds
        def measure(case: Case, peer: Peer) -> dict:
            command = [pythons[peer], peer.script, *peer.options, "--folder", folder, "--mode", case.mode,
                       "--batch_size", case.batch_size, "--threads", options.threads, "--steps", options.steps,
                       "--seconds", options.seconds]
            return read_report(run_child(command, variables))
        cases, load = cases_of(options.mode, options.batch_size), Load()
        measure_all(cases, peers, options.rounds, measure, results)

    # ---- the table
    print(table(cases, peers, results))
    print()
    for line in (*machine(options, load.others()), *notes(peers, options.instruction_set, results)):
        print(f"- {line}")


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `peers` are Peers, `batch_size` numbers, `mode` names."""
    names = {peer.name: peer for peer in PEERS}
    some_peers = _list_of(names.__getitem__)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=lambda text: some_peers(text) if text else (), default=",".join(names),
                        help=f"of {', '.join(names)} (default all); an empty word for none")
    parser.add_argument("--batch_size", type=_list_of(positive), default="32,8,1",
                        help="numbers of images, a row each (default 32,8,1)")
    parser.add_argument("--image_size", type=positive, default=224, help="pixels a side (default 224)")
    parser.add_argument("--mode", type=_list_of({mode: mode for mode in MODES}.__getitem__), default=",".join(MODES),
                        help=f"of {', '.join(MODES)} (default all)")
    parser.add_argument("--rounds", type=positive, default=3, help="that the medians are of (default 3)")
    parser.add_argument("--steps", type=positive, default=8, help="that count in each process, at least (default 8)")
    parser.add_argument("--seconds", type=float, default=2.0,
                        help="that shorter steps are repeated for (default 2)")
    parser.add_argument("--threads", type=positive, default=thread_count(),
                        help="of each framework (default %(default)s)")
    parser.add_argument("--environments", type=Path, default=None, help="where the virtual environments are made and "
                        "kept (default peers/ in the cache folder)")
    parser.add_argument("--instruction_set", choices=tuple(INSTRUCTION_SETS), default="native",
                        help="that the frameworks are held down to, as far as they can be (default native)")
    options = parser.parse_args(argv)
    if options.threads > (cores := len(os.sched_getaffinity(0))):
        raise UserError(f"--threads {options.threads}: this process may use {cores} cores; give as many or fewer")
    options.environments = (options.environments or cache_folder("peers")).absolute()
    return options


def _list_of(one: Callable) -> Callable[[str], tuple]:
    """A type for argparse: words separated by commas. `one` converts each word; no word may come twice."""
    def words(text: str) -> tuple:
        try:
            return tuple(dict.fromkeys(map(one, text.split(","))))
        except (KeyError, ValueError):
            raise argparse.ArgumentTypeError(f"{text!r}: not a list of what --help says") from None
    return words


def cases_of(modes: Sequence[str], batch_sizes: Sequence[int]) -> list[Case]:
    """The table's rows."""
    return [Case(mode, size) for mode in modes for size in ((1,) if mode == "latency" else batch_sizes)]


# ---- processes

def heed_signals() -> None:
    """Handle SIGTERM and a closed terminal like Ctrl-C, so that the children end first."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))


def prepare(folder: Path, options: argparse.Namespace, peers: Sequence[Peer], variables: Mapping[str, str]) -> None:
    """Write the files that all peers read."""
    say("preparing the work ...")
    run_child([sys.executable, SCRIPTS / "prepare.py", "--folder", folder, "--image_size", options.image_size,
               "--batch_size", ",".join(map(str, options.batch_size)), "--mode", ",".join(options.mode)], variables)
    if any(peer.runs_onnx for peer in peers):
        run_child([sys.executable, ROOT / "export.py", "--platform", "CPU", "--ckpt_file", folder / CHECKPOINT,
                   "--file_format", "ONNX", "--file_name", folder / ONNX, "--export_batch_size", "0"], variables)


def read_report(output: str) -> dict:
    """The last line that a script printed, as JSON."""
    try:
        return json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise UserError("it printed no result") from None


# ---- measuring

def measure_all(cases: Sequence[Case], peers: Sequence[Peer], rounds: int, measure: Callable[[Case, Peer], dict],
                results: Results) -> None:
    """Measure all peers in turns for each case, this project first. A peer that fails is left out of the case.

    Raises:
        UserError: this project failed, so there is nothing to compare with.
    """
    for case in cases:
        failed: set[Peer] = set()
        for number, peer in turns([peer for peer in peers if case.mode in peer.modes], rounds):
            if peer in failed:
                continue
            try:
                report = measure(case, peer)
            except UserError as error:
                if peer is OURS:
                    raise UserError(f"{case}, {peer}: {error}") from error
                failed.add(peer)
                results.speeds.pop((case, peer), None)
                results.failures.append(f"{peer}, {case}: left out: {error}")
                say(results.failures[-1])
                continue
            results.speeds.setdefault((case, peer), []).append(report["images_per_second"])
            known = results.reports.setdefault(peer, report)
            known["difference"] = max(filter(None, (known["difference"], report["difference"])), default=None)
            say(f"{case}, round {number + 1}: {peer} {case.figure(report['images_per_second']):.3g}")


def turns(peers: Sequence[Peer], rounds: int) -> Iterator[tuple[int, Peer]]:
    """Yield (round from 0, peer). Every second round goes from the last peer to the first."""
    for number in range(rounds):
        for peer in peers[::-1] if number % 2 else peers:
            yield number, peer


class Load:
    """Measures the load of other programs on the machine, from its creation on."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.monotonic(), busy_seconds(), own_seconds()

    def others(self) -> float | None:
        """The fraction of processor time that other programs took; None if unknown."""
        if self._busy is None or (busy := busy_seconds()) is None:
            return None
        seconds = (time.monotonic() - self._start) * (os.cpu_count() or 1)
        return max(0.0, (busy - self._busy - own_seconds() + self._own) / seconds)


def busy_seconds() -> float | None:
    """Busy seconds of all processors since the machine was started; None if unknown."""
    try:
        user, nice, system, _idle, _wait, *rest = Path("/proc/stat").read_text(encoding="ascii").split()[1:9]
    except (OSError, ValueError):
        return None
    return sum(map(int, (user, nice, system, *rest))) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Processor time of this process and of its children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def say(text: str) -> None:
    """Print progress to the standard error."""
    print(text, file=sys.stderr, flush=True)


# ---- the table

def table(cases: Sequence[Case], peers: Sequence[Peer], results: Results) -> str:
    """Markdown: a row for each case, a column for each peer, this project's first."""
    rows = [[str(case), *(cell(case, peer, results) for peer in peers)] for case in cases]
    lines = [f"| {' | '.join(row)} |" for row in [["images a second", *map(str, peers)], *rows]]
    return "\n".join([lines[0], f"|{'---|' * (1 + len(peers))}", *lines[1:]])


def cell(case: Case, peer: Peer, results: Results) -> str:
    """A figure, and for a peer how many times as fast this project is."""
    median, ours = results.median(case, peer), results.median(case, OURS)
    if median is None or ours is None:
        return "–"
    text = f"{case.figure(median):.3g}"
    return text if peer is OURS else f"{text} ({ours / median:.2f})"


def machine(options: argparse.Namespace, others: float | None) -> list[str]:
    """The conditions that the figures depend on."""
    limit = "" if options.instruction_set == "native" else f", held down to {options.instruction_set}"
    share = "" if others is None else f"; other programs took {others:.0%} of the processors' time meanwhile"
    if others is not None and others > QUIET:
        share += ": measure again on a quiet machine, for this slows some frameworks more than others"
    return [
        f"{processor_name()}{limit}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores usable, "
        f"{options.threads} thread{'s' if options.threads > 1 else ''}; {platform.platform()}; Python "
        f"{platform.python_version()}; {datetime.datetime.now().astimezone():%Y-%m-%d}{share}",
        f"MobileNetV2 1.0, float32, {options.image_size}x{options.image_size}; medians of {options.rounds} rounds; in "
        "brackets: how many times as fast this project is",
    ]


def notes(peers: Sequence[Peer], instruction_set: str, results: Results) -> Iterator[str]:
    """Versions and particulars of each peer, and what is missing."""
    for peer in peers:
        if report := results.reports.get(peer):
            parts = [" ".join(pair) for pair in report["versions"].items()]
            parts += [report["details"]] if report["details"] else []
            if report["difference"] is not None and peer is not OURS:
                parts.append(f"logits and first losses as this project's within {report['difference']:.1g} of them")
            if instruction_set != "native" and not peer.has_switch:
                parts.append(f"has no switch for the instruction set: its figures are not for {instruction_set} but "
                             "for all that the processor has")
            yield f"{peer}: {'; '.join(parts)}"
    yield from results.failures


if __name__ == "__main__":
    heed_signals()
    run_command(main)
