"""Several real processes on CPU. Starting them takes MindSpore some ten seconds, so each start serves many tests."""
import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from src.checkpoint.file import read_checkpoint
from tests.conftest import make_images
from tests.support.compiler_tools import COMPILERS, has
from tests.support.launcher_tools import ROOT, Bench, end_leftovers, free_port, processes_with, wait_for
from tests.support.rank_program import array_of

BENCH_VARIABLE = "CALLS"  # of the environment, by which a test finds the processes that it started


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict, dict]:
    """What rank_program.py found on rank 0 and rank 1 of 2, and alone."""
    folder = tmp_path_factory.mktemp("ranks")
    make_images(folder, {"five/cat": 3, "five/dog": 2, "one/cat": 1})
    bench = Bench(folder, stubs=())
    program = [str(ROOT / "tests/support/rank_program.py"), str(folder), str(folder)]
    environment = {**bench.env, "MS_RECEIVE_MSG_TIMEOUT": "1000", "OMP_NUM_THREADS": "1"}
    try:
        msrun = subprocess.run(["msrun", "--worker_num=2", "--local_worker_num=2", f"--master_port={free_port()}",
                                "--join=True", f"--log_dir={folder / 'logs'}", *program], env=environment, cwd=folder,
                               capture_output=True, text=True, check=False, timeout=400)
        assert msrun.returncode == 0, (folder / "logs/worker_0.log").read_text()[-3000:]
        subprocess.run([sys.executable, *program], env=environment, cwd=folder, check=True, timeout=400)
    finally:
        end_leftovers(BENCH_VARIABLE, str(bench.calls_file))
    first, second, alone = (dict(np.load(folder / f"{name}.npz")) for name in ("rank0", "rank1", "alone"))
    return first, second, alone


def test_counts_and_floats_sum_exactly(found: tuple) -> None:
    for rank in found[:2]:
        assert rank["counts"].tolist() == [0, 10, 2 ** 25 + 2, 2 ** 41 + 1]
        assert rank["floats"].tolist() == [2.0]


def test_parameters_are_the_same_on_both_ranks_to_the_bit(found: tuple) -> None:
    first, second, _ = found
    for name in first:
        if ".own." not in name:
            assert first[name].tobytes() == second[name].tobytes(), name


@pytest.mark.parametrize("kind", ["plain", "accumulated"])  # the second: two batches a step on each rank
def test_without_batch_norm_two_ranks_equal_one_on_the_joint_batch(kind: str, found: tuple) -> None:
    first, _, alone = found
    names = [name for name in alone if name.startswith(f"{kind}.") and ".own." not in name]
    assert len(names) > 30
    for name in names:
        assert np.abs(first[name].astype(np.float64) - alone[name]).max() <= 1e-6, name


def test_batch_norm_statistics_become_the_mean_of_the_ranks(found: tuple) -> None:
    first, second, _ = found
    names = [name for name in first if name.startswith("norm.own.")]
    assert any(not np.array_equal(first[name], second[name]) for name in names)
    for name in names:
        mean = (first[name] + second[name]) / 2
        np.testing.assert_allclose(first[name.replace("own.", "")], mean, rtol=1e-5, atol=1e-7)


def test_gradients_are_summed_in_shared_memory_where_there_are_kernels(found: tuple) -> None:
    by = {str(rank["sums.by"]) for rank in found[:2]}
    assert by == {"ShmAllReduce" if any(map(has, COMPILERS)) else "AllReduce"}
    for i, shape in enumerate([(3, 5), (70001,), (1,)]):
        expected = array_of(0, shape) + array_of(1, shape)
        assert found[0][f"sums.{i}"].tobytes() == found[1][f"sums.{i}"].tobytes() == expected.tobytes()


def test_an_overflow_that_one_rank_alone_sees_is_skipped_on_all(found: tuple) -> None:
    for rank in found[:2]:
        assert not rank["verdict.applied"]
        assert not rank["verdict.changed"]


def test_overflow_on_one_rank_is_skipped_on_all(found: tuple) -> None:
    assert [bool(rank["overflow.applied"]) for rank in found] == [False, False, False]


@pytest.mark.parametrize("folder", ["five", "one"])
def test_scores_and_features_are_those_of_one_process(found: tuple, folder: str) -> None:
    first, _, alone = found
    for name in "score", "confusion", "head":
        assert first[f"{folder}.{name}"].tolist() == alone[f"{folder}.{name}"].tolist()
    mistakes, others = first[f"{folder}.mistakes"], alone[f"{folder}.mistakes"]
    assert len(mistakes) == first[f"{folder}.score"][2] - first[f"{folder}.score"][0]
    for name in "position", "label", "predicted":
        assert mistakes[name].tolist() == others[name].tolist()
    np.testing.assert_allclose(mistakes["probability"], others["probability"], rtol=1e-4)
    assert first[f"{folder}.score"][2] == {"five": 5, "one": 1}[folder]
    assert first[f"{folder}.loss"] == pytest.approx(alone[f"{folder}.loss"], rel=1e-5)
    np.testing.assert_allclose(first[f"{folder}.features"], alone[f"{folder}.features"], rtol=1e-4, atol=1e-5)
    assert np.array_equal(first[f"{folder}.features"], first[f"{folder}.features.cached"])


def test_ranks_hold_out_the_same_images_and_look_at_each_once(found: tuple) -> None:
    first, second, alone = found
    assert first["held_out"].tolist() == second["held_out"].tolist() == alone["held_out"].tolist() != []
    looked_at = [ranks["held_out.own.looked_at"] for ranks in (first, second, alone)]
    assert looked_at[0] + looked_at[1] == looked_at[2] == 5


TINY = """platform: CPU
width_mult: .35
image_size: 32
batch_size: 4
dropout: .2
save_checkpoint_steps: 1
epoch_size: 20
"""
EPOCHS = 20
STEPS_PER_EPOCH = 3  # 25 images: 12 for each rank, in batches of 4


class Ranks:
    """Training on two ranks through the launcher: killed in an epoch, stopped, and trained to the end."""

    def __init__(self, folder: Path) -> None:
        self.bench = Bench(folder, stubs=())
        counts = {"train/blue": 13, "train/red": 12, "val/blue": 4, "val/red": 3}
        self.photos = make_images(folder / "photos", counts)
        (self.bench.folder / "tiny.yaml").write_text(TINY)
        self.log, self.checkpoints = self.bench.folder / "train.log", self.bench.folder / "checkpoint"

    @contextlib.contextmanager
    def started(self, seen: str) -> Iterator[subprocess.Popen]:
        """The command, as soon as its log has a text."""
        launcher = self.bench.start("run_train.sh", "CPU", "tiny.yaml", self.photos, WORKER_NUM="2")
        try:
            wait_for(lambda: launcher.poll() is not None or seen in self.text(), seen)
            yield launcher
        finally:
            launcher.kill()
            self.end_leftovers()

    def finish(self, *options: str) -> None:
        """The command to its end."""
        run = self.bench.run("run_train.sh", "CPU", "tiny.yaml", self.photos, *options, WORKER_NUM="2")
        assert run.returncode == 0, run.stderr

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text() if self.log.exists() else ""

    def processes(self) -> dict[int, dict[str, str]]:
        """The environments of those that live."""
        return processes_with(BENCH_VARIABLE, str(self.bench.calls_file))

    def end_leftovers(self) -> None:
        end_leftovers(BENCH_VARIABLE, str(self.bench.calls_file))


class Ended(NamedTuple):
    """What a command left that did not get to its end."""

    status: int
    out: str
    err: str
    processes: dict[int, dict[str, str]]
    logs: tuple[str, str]  # of both ranks
    checkpoints: Path  # a copy, for the command goes on


def ended(ranks: Ranks, launcher: subprocess.Popen, copy: str) -> Ended:
    """Wait for the end of a command."""
    out, err = launcher.communicate(timeout=100)
    checkpoints = shutil.copytree(ranks.checkpoints, ranks.bench.folder / copy)
    other = (ranks.bench.folder / "train/rank1/log1.log").read_text()
    return Ended(launcher.returncode, out, err, ranks.processes(), (ranks.text(), other), checkpoints)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return Ranks(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def killed(ranks: Ranks) -> Ended:
    """One of two ranks was killed in the third epoch."""
    with ranks.started("epoch: [  2/") as launcher:
        victim, = (pid for pid, environment in ranks.processes().items()
                   if (environment.get("RANK_ID"), environment.get("MS_ROLE")) == ("1", "MS_WORKER")
                   and Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1].endswith("train.py"))
        os.kill(victim, signal.SIGKILL)
        return ended(ranks, launcher, "killed")


@pytest.fixture(scope="module")
def stopped(ranks: Ranks, killed: Ended) -> Ended:
    """The same command went on after the kill, and was told to stop."""
    epoch = read_checkpoint(killed.checkpoints / "last.ckpt").training.step // STEPS_PER_EPOCH
    with ranks.started(f"epoch: [{epoch + 1:3d}/") as launcher:
        launcher.send_signal(signal.SIGTERM)
        return ended(ranks, launcher, "stopped")


def test_a_killed_rank_ends_the_run_and_is_named(killed: Ended) -> None:
    assert killed.status == 137
    assert "rank 1 ended with status 137 (signal KILL)" in killed.err
    assert killed.processes == {}


def test_only_the_first_rank_writes(killed: Ended) -> None:
    first, other = killed.logs
    assert first.count("result:") >= 2
    assert "result:" not in other
    assert "rank 1: epoch time:" in other
    assert re.search("^epoch time:", first, re.MULTILINE)
    assert re.search(rf"step:\[ +2/ +{STEPS_PER_EPOCH}\]", first)


def test_a_killed_rank_leaves_no_broken_checkpoint(killed: Ended) -> None:
    files = sorted(killed.checkpoints.glob("*.ckpt"))
    assert {"best.ckpt", "last.ckpt"} <= {file.name for file in files}
    for file in files:
        assert len(read_checkpoint(file).network) > 100


def test_evaluation_is_the_same_on_one_two_and_three_ranks(ranks: Ranks, killed: Ended) -> None:
    """On two: in training."""
    best = killed.checkpoints / "best.ckpt"
    trained = read_checkpoint(best).training.metrics
    expected = {"acc": trained["top1"], "top5": 1.0, "images": 7,
                "balanced_acc": pytest.approx(trained["balanced_accuracy"], abs=1e-6),
                "macro_f1": pytest.approx(trained["macro_f1"], abs=1e-6)}
    found = set()
    for workers in "1", "3":
        run = ranks.bench.run("run_eval.sh", "CPU", ranks.photos, best, "--batch_size", 2, WORKER_NUM=workers)
        assert run.returncode == 0, run.stderr
        line, = re.findall(r"result: (\{.*\}) ckpt=", run.stdout)
        score = ast.literal_eval(line)
        assert {name: score[name] for name in expected} == expected
        found.add(line)
    assert len(found) == 1


def test_the_same_command_goes_on_and_can_be_stopped(killed: Ended, stopped: Ended) -> None:
    """Told to stop, all ranks save together and end."""
    before = read_checkpoint(killed.checkpoints / "last.ckpt").training.step
    assert stopped.status == 143, stopped.err
    assert stopped.processes == {}
    assert "train.log is now train-earlier-" in stopped.out
    assert f"{before} of {EPOCHS * STEPS_PER_EPOCH} steps done" in stopped.logs[0]
    assert read_checkpoint(stopped.checkpoints / "last.ckpt").training.step > before
    assert "Stopped after" in (stopped.checkpoints / "report.html").read_text()


def test_killed_and_stopped_it_ends_as_if_nothing_had_happened(ranks: Ranks, stopped: Ended) -> None:
    """To the end of it, and the same uninterrupted, equal to the bit."""
    assert stopped.status == 143
    for options in (), ("--save_checkpoint_path", "whole"):
        ranks.finish(*options)
    found, whole = (read_checkpoint(ranks.bench.folder / name / "last.ckpt") for name in ("checkpoint", "whole"))
    assert found.training.step == EPOCHS * STEPS_PER_EPOCH
    assert found.training.history == whole.training.history
    for part in "network", "state":
        values, expected = getattr(found, part), getattr(whole, part)
        assert values.keys() == expected.keys()
        assert [name for name in values if values[name].asnumpy().tobytes() != expected[name].asnumpy().tobytes()] == []


def namespaces(*names: str) -> str | None:
    """Make two network namespaces joined by a cable; why not, if that is not permitted."""
    first, second = names
    for command in (f"ip netns add {first}", f"ip netns add {second}",
                    f"ip link add {first} netns {first} type veth peer name {second} netns {second}",
                    *(f"ip -n {name} {what} up" for name in names for what in (f"link set {name}", "link set lo")),
                    *(f"ip -n {name} addr add 10.77.0.{i}/24 dev {name}" for i, name in enumerate(names, start=1))):
        try:
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return "there is no ip command"
        if done.returncode:
            return f"{command}: {done.stderr.strip()}"
    return None


def test_two_machines_score_together(ranks: Ranks, killed: Ended, tmp_path: Path) -> None:
    names = f"a{os.getpid()}", f"b{os.getpid()}"
    try:
        if reason := namespaces(*names):
            pytest.skip(f"two network namespaces are not permitted here: {reason}")
        launchers = []
        for rank, name in enumerate(names):
            folder = tmp_path / name
            folder.mkdir()
            environment = {**ranks.bench.env, "NODE_NUM": "2", "NODE_RANK": str(rank), "MASTER_ADDR": "10.77.0.1",
                           "MASTER_PORT": "18200"}
            launchers.append(subprocess.Popen(
                ["ip", "netns", "exec", name, "bash", ROOT / "scripts/run_eval.sh", "CPU", ranks.photos,
                 killed.checkpoints / "best.ckpt"],
                cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        results = [launcher.communicate(timeout=300) for launcher in launchers]
        assert [launcher.returncode for launcher in launchers] == [0, 0], results
        assert "'images': 7" in results[0][0]
        assert "result:" not in results[1][0]
        assert (tmp_path / names[1] / "eval/rank1/log1.log").read_text()
    finally:
        ranks.end_leftovers()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
