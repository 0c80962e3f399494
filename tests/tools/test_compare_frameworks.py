"""The comparison with other frameworks, by stand-ins for them; and this project's side of it for real."""
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from tests.conftest import ROOT, run_script
from tools import compare_frameworks, stopwatch
from tools.compare_frameworks import PEERS, Case, Peer, Results
from tools.peers import work
from tools.peers.work import Work

# Writes down what it was asked to do, and in which environment; then does what the test wants.
STAND_IN = """
import json, os, sys
from pathlib import Path
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open({calls!r}, "a") as calls:
    calls.write(json.dumps([{name!r}, options["--mode"], options["--batch_size"]]) + "\\n")
def answer(speed, difference=None):
    print("compiling ...")
    print(json.dumps(dict(images_per_second=speed, versions=dict({name}="1.0"), details=sys.prefix + os.environ.get(
        "ONEDNN_MAX_CPU_ISA", ""), difference=difference)))
{body}
"""

MakePeer = Callable[..., Peer]


@pytest.fixture
def make_peer(tmp_path: Path) -> MakePeer:
    """A factory: `make_peer("fast", "answer(100)")` writes a stand-in for a framework's script."""
    def make(name: str, body: str, **fields: object) -> Peer:
        script = tmp_path / f"{name}.py"
        script.write_text(STAND_IN.format(name=name, calls=str(tmp_path / "calls"), body=body))
        return Peer(name, name.capitalize(), script, **fields)  # type: ignore[arg-type]
    return make


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """The tool with these peers, the first in the place of this project; returns what it prints."""
    for name in compare_frameworks.INSTRUCTION_SETS["AVX2"]:
        monkeypatch.delenv(name, raising=False)  # the table tells of those that are set

    def run(peers: Sequence[Peer], *argv: str) -> str:
        monkeypatch.setattr(compare_frameworks, "OURS", peers[0])
        monkeypatch.setattr(compare_frameworks, "PEERS", tuple(peers[1:]))
        monkeypatch.setattr(compare_frameworks, "prepare", lambda *_: None)
        compare_frameworks.main(["--environments", str(tmp_path / "environments"), "--threads", "1", *argv])
        return capsys.readouterr().out
    return run


def calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


# ---- the table

def test_the_table_has_medians_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (Peer(name, name, Path()) for name in ("here", "there"))
    train, latency = Case("train", 1), Case("latency", 1)
    results = Results({(train, here): [10, 1000, 30.04], (train, there): [12, 10], (latency, here): [200]})
    monkeypatch.setattr(compare_frameworks, "OURS", here)
    assert compare_frameworks.table([train, Case("eval", 8), latency], [here, there], results) == """\
| images a second | here | there |
|---|---|---|
| training, 1 image | 30 | 11 (2.73) |
| evaluation, 8 images | – | – |
| latency of one image, ms | 5 | – |"""


def test_every_second_round_goes_the_other_way() -> None:
    first, second = (Peer(name, name, Path()) for name in "ab")
    assert [(number, peer.name) for number, peer in compare_frameworks.turns([first, second], 3)] == [
        (0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_peers_take_turns_at_each_kind_of_work(make_peer: MakePeer, compare: Callable[..., str],
                                               tmp_path: Path) -> None:
    peers = [make_peer("ours", "answer(100)"), make_peer("other", "answer(40, 2e-6)"),
             make_peer("scorer", "answer(50)", modes=("eval",), has_switch=False)]
    told = compare(peers, "--mode", "train,eval", "--batch_size", "4,2", "--rounds", "2")
    one_round = [[["ours", mode, size], ["other", mode, size], *([["scorer", mode, size]] if mode == "eval" else [])]
                 for mode in ("train", "eval") for size in ("4", "2")]
    assert calls(tmp_path) == [call for turn in one_round for call in (*turn, *turn[::-1])]
    lines = told.splitlines()
    assert lines[:3] == ["| images a second | Ours | Other | Scorer |", "|---|---|---|---|",
                         "| training, 4 images | 100 | 40 (2.50) | – |"]
    assert "| evaluation, 2 images | 100 | 40 (2.50) | 50 (2.00) |" in lines
    assert "1 thread; " in told
    assert "medians of 2 rounds" in told
    assert f"- Other: other 1.0; {sys.prefix}; logits and first losses as this project's within 2e-06 of them" in lines
    assert "switch" not in told


def test_an_instruction_set_is_asked_for_and_who_has_no_switch_is_named(make_peer: MakePeer,
                                                                        compare: Callable[..., str]) -> None:
    peers = [make_peer("ours", "answer(100)"), make_peer("scorer", "answer(50)", has_switch=False)]
    told = compare(peers, "--mode", "eval", "--batch_size", "1", "--rounds", "1", "--instruction_set", "AVX2")
    ours, scorer = (next(line for line in told.splitlines() if line.startswith(f"- {name}: "))
                    for name in ("Ours", "Scorer"))
    assert ours.endswith(f"{sys.prefix}AVX2")
    assert "held down to AVX2" in told
    assert "has no switch for the instruction set: its figures are not for AVX2" in scorer


def test_onnx_runtime_has_no_switch_and_pytorch_has() -> None:
    assert [peer.name for peer in PEERS if not peer.has_switch] == ["onnxruntime"]


# ---- who fails is left out

def test_a_peer_that_fails_is_left_out_of_that_work_alone(make_peer: MakePeer, compare: Callable[..., str],
                                                          tmp_path: Path) -> None:
    breaks = "if options['--mode'] == 'train': raise ValueError('no room\\nfor this')\nanswer(10)"
    peers = [make_peer("ours", "answer(100)"), make_peer("broken", breaks), make_peer("other", "answer(40)"),
             make_peer("silent", "pass"), make_peer("wordless", "os._exit(3)")]
    told = compare(peers, "--mode", "train,eval", "--batch_size", "4", "--rounds", "2")
    assert "| training, 4 images | 100 | – | 40 (2.50) | – | – |" in told
    assert "| evaluation, 4 images | 100 | 10 (10.00) | 40 (2.50) | – | – |" in told
    assert "- Broken, training, 4 images: left out: ValueError: no room\n" in told
    assert "- Silent, training, 4 images: left out: it printed no result\n" in told
    assert "- Wordless, training, 4 images: left out: ended with status 3\n" in told
    assert [call for call in calls(tmp_path) if call[0] == "broken"] == [
        ["broken", "train", "4"], ["broken", "eval", "4"], ["broken", "eval", "4"]]


def test_without_this_project_there_is_nothing_to_compare(make_peer: MakePeer, compare: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="^training, 1 image, Ours: ZeroDivisionError: "):
        compare([make_peer("ours", "1 / 0"), make_peer("other", "answer(40)")], "--batch_size", "1")


# ---- environments

def test_an_environment_is_made_once_and_a_peer_runs_in_it(make_peer: MakePeer, compare: Callable[..., str],
                                                           tmp_path: Path) -> None:
    requirements, missing = tmp_path / "other.txt", tmp_path / "missing.txt"
    requirements.write_text("# nothing\n")
    missing.write_text("--no-index\nno-such-package==1.0\n")
    peers = [make_peer("ours", "answer(100)"), make_peer("other", "answer(40)", requirements=requirements),
             make_peer("absent", "answer(40)", requirements=missing),
             make_peer("missing", "answer(40)", requirements=missing)]
    short = ("--mode", "eval", "--batch_size", "1", "--rounds", "1")
    told = compare(peers, *short)
    environment, = (tmp_path / "environments").glob("other-*")
    assert f"other 1.0; {environment}" in told
    assert "- Absent and Missing: cannot be installed: No matching distribution found for no-such-package==1.0" in told
    assert "| evaluation, 1 image | 100 | 40 (2.50) |" in told
    assert [path.name for path in (tmp_path / "environments").iterdir()] == [environment.name]

    mark = environment / "mark"
    mark.touch()
    assert f"other 1.0; {environment}" in compare(peers[:2], *short)
    assert mark.exists()


def test_all_versions_are_pinned() -> None:
    for peer in PEERS:
        lines = peer.requirements.read_text(encoding="utf-8").splitlines()
        packages = [line for line in lines if line and not line.startswith(("#", "--extra-index-url https://"))]
        assert packages
        assert [line for line in packages if "==" not in line.partition(";")[0]] == []


# ---- Ctrl-C

HANG = """
import signal, subprocess, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path({pids!r}).with_suffix(".part").write_text(f"{{os.getpid()}} {{grandchild.pid}}")
Path({pids!r}).with_suffix(".part").rename({pids!r})
time.sleep(600)
"""
INTERRUPTED = """
import sys
from pathlib import Path
from src import environments
from tools import compare_frameworks
from src.errors import run_command
environments.GRACE = 0.5
compare_frameworks.OURS = compare_frameworks.Peer("ours", "Ours", Path(sys.argv[1]))
compare_frameworks.prepare = lambda *_: None
compare_frameworks.heed_signals()
run_command(lambda: compare_frameworks.main(["--peers", "", "--environments", sys.argv[2]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_all_children(number: signal.Signals, make_peer: MakePeer, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = make_peer("ours", HANG.format(pids=str(pids))).script
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED, script, tmp_path], cwd=ROOT,
                          stderr=subprocess.PIPE) as tool:
        while not pids.exists():
            assert tool.poll() is None, tool.stderr.read()
            time.sleep(0.05)
        tool.send_signal(number)
        tool.communicate()
    assert tool.returncode == 128 + number
    assert [pid for pid in pids.read_text().split() if is_alive(pid)] == []


def is_alive(pid: str) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- the same work

@pytest.fixture
def order(tmp_path: Path) -> Work:
    """Two images, their logits, and the losses of the first two steps."""
    np.save(tmp_path / work.LOGITS, np.array([[1, -2], [3, 4]], np.float32))
    (tmp_path / work.SETTINGS).write_text(json.dumps({"losses": {"2": [7.0, 6.5]}}))
    return Work(tmp_path, "eval", 2, 1, 1, 0)


def test_other_outputs_are_not_the_same_work(order: Work) -> None:
    logits = np.array([[1, -2], [3, 4]], np.float32)
    assert order.compare_logits(logits + np.float32(4e-5)) == pytest.approx(1e-5, rel=0.1)
    for other in (logits + np.float32(4e-3), logits[::-1], np.full_like(logits, np.nan)):
        with pytest.raises(UserError, match="not the same work: its logits"):
            order.compare_logits(other)


def test_other_losses_are_not_the_same_work(order: Work) -> None:
    assert order.compare_losses([7.0001, 6.501]) == pytest.approx(0.001 / 6.5)
    for losses in ([7.01, 6.5], [7.0, 6.4], [7.0, np.nan]):
        with pytest.raises(UserError, match="not the same work: its first losses"):
            order.compare_losses(losses)


def test_short_steps_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def takes(seconds: float) -> Callable[[], None]:
        def run() -> None:
            now[0] += seconds
            runs[0] += 1
        return run
    for seconds, least, expected in ((0.25, 0.0, 3), (0.25, 2.0, 8), (4.0, 2.0, 3), (0.125, 200.0, 1000)):
        runs = [-stopwatch.WARM_UP]
        assert stopwatch.speed(takes(seconds), 2, 3, least) == 2 / seconds
        assert runs == [expected]


# ---- the command

def test_this_projects_side_is_measured() -> None:
    run = run_script("tools/compare_frameworks.py", "--peers", "", "--batch_size", 2, "--image_size", 32, "--rounds", 1,
                     "--steps", 1, "--seconds", 0, "--threads", 1)
    assert run.returncode == 0, run.stderr
    head, _, *rows = run.stdout.splitlines()[:5]
    assert head == "| images a second | this project |"
    figures = {row.split(" | ")[0]: float(row.split(" | ")[1].strip(" |")) for row in rows}
    assert list(figures) == ["| training, 2 images", "| evaluation, 2 images", "| latency of one image, ms"]
    assert all(figure > 0 for figure in figures.values())
    assert "- this project: mindspore " in run.stdout
    assert "CPU kernels: " in run.stdout


@pytest.mark.parametrize("option", [("--peers", "torch,caffe"), ("--mode", "sleep"), ("--batch_size", "4,0"),
                                    ("--batch_size", ""), ("--instruction_set", "MMX")])
def test_nonsense_is_refused(option: tuple[str, str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        compare_frameworks.main(option)
    assert option[0] in capsys.readouterr().err


def test_no_more_threads_than_cores() -> None:
    with pytest.raises(UserError, match="--threads 9999: "):
        compare_frameworks.main(["--threads", "9999"])


def test_what_the_network_cannot_take_is_one_line() -> None:
    run = run_script("tools/compare_frameworks.py", "--peers", "", "--image_size", 33)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == "error: command line: image_size must be a multiple of 32, not 33"
