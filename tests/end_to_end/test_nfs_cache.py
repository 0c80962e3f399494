"""Training behind MindSpore's cache server, which is the real one here."""
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mindspore
import numpy as np
import pytest

from src.data.cache_server import dataset_cache
from src.data.image_folder import ImageFolder
from src.dataset import ImageData
from src.errors import UserError
from tests.conftest import config_for, make_images
from tests.support.launcher_tools import ROOT, Bench, end_leftovers, free_port

FILES_OF_AN_EPOCH = 8  # a checkpoint and its JSON, three times; the evaluation of the best epoch; the curves
ANSWER = 'echo "Session created for server on port 1: 77"'
Admin = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where no cache server listens."""
    port = str(free_port())
    monkeypatch.setenv("MS_CACHE_PORT", port)
    return port


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """`dataset-cache` without the import of MindSpore, which is most of what MindSpore's own command does."""
    package = Path(mindspore.__file__).parent
    for name in "dataset-cache", "dataset-cache-server":
        (package / "utils/bin" / name).chmod(0o700)  # as the command does
    program = tmp_path / "dataset-cache"
    program.write_text(f"""#!/bin/sh
cd "{package}/utils/bin"
LD_LIBRARY_PATH="{package.parents[2]}:$LD_LIBRARY_PATH" LD_PRELOAD="{package}/lib/libnnacl.so" exec ./dataset-cache "$@"
""")
    program.chmod(0o755)
    return program


@pytest.fixture
def admin(port: str, program: Path) -> Iterator[Admin]:
    """`dataset-cache` for that port; a server that a test leaves is stopped."""
    def command(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([program, *arguments, "-p", port], capture_output=True, text=True, check=False)
    yield command
    command("--stop")


@pytest.fixture
def bench(tmp_path: Path, admin: Admin, program: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A place to launch from, with stubs only where a test puts them."""
    bench = Bench(tmp_path, stubs=())
    shutil.copy(program, tmp_path / "bin")
    monkeypatch.setenv("PATH", bench.env["PATH"])
    yield bench
    end_leftovers("CALLS", str(bench.calls_file))


def test_images_from_the_cache_are_those_of_the_folder(admin: Admin, tmp_path: Path) -> None:
    root = make_images(tmp_path / "pictures", {"cat": 5, "dog": 4})
    folder = ImageFolder.scan(root)
    assert admin("--start").returncode == 0
    session = admin("-g").stdout.split()[-1]
    handle = dataset_cache(config_for("--enable_cache", "True", "--cache_session_id", session))
    for training in True, False:
        plain = ImageData(folder, 32, 2, training=training, rank=1, rank_size=2)
        cached = ImageData(folder, 32, 2, training=training, rank=1, rank_size=2, cache=handle)
        for epoch in range(2):
            for (images, labels), (expected, answers) in zip(cached.epoch(epoch), plain.epoch(epoch), strict=True):
                assert np.array_equal(images.asnumpy(), expected.asnumpy())
                assert np.array_equal(labels.asnumpy(), answers.asnumpy())
    assert handle.get_stat().num_mem_cached > 0


def test_a_killed_server_ends_the_run_in_one_line(admin: Admin, port: str, tmp_path: Path) -> None:
    folder = ImageFolder.scan(make_images(tmp_path / "pictures", {"cat": 5, "dog": 4}))
    assert admin("--start").returncode == 0
    handle = dataset_cache(config_for("--enable_cache", "True", "--cache_session_id", admin("-g").stdout.split()[-1]))
    data = ImageData(folder, 32, 2, training=True, cache=handle)
    assert len(list(data.epoch(0))) == 4
    server, = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()
               and {b"dataset-cache-server", port.encode()} <= command_words(entry))
    os.kill(server, signal.SIGKILL)
    with pytest.raises(UserError, match=f"port {port} is unreachable") as told:
        list(data.epoch(1))
    assert "\n" not in str(told.value)


def command_words(process: Path) -> set[bytes]:
    """The words of a process's command without their folders; none if it has ended."""
    try:
        command = (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {word.rpartition(b"/")[2] for word in command.split(b"\0")}


def test_a_cache_needs_a_session() -> None:
    assert dataset_cache(config_for()) is None
    with pytest.raises(UserError, match="no session"):
        dataset_cache(config_for("--enable_cache", "True"))


def test_two_ranks_train_from_a_server_that_comes_and_goes(bench: Bench, admin: Admin, tmp_path: Path) -> None:
    (tmp_path / "bin/dataset-cache").unlink()  # here MindSpore's own command is used
    photos = make_images(tmp_path / "photos", {"train/red": 5, "train/blue": 3, "val/red": 2, "val/blue": 1})
    run = bench.run("run_train_nfs_cache.sh", "CPU", photos, "--epoch_size", 2, "--batch_size", 4, "--image_size", 32,
                    "--width_mult", .35, WORKER_NUM="2")
    assert run.returncode == 0, run.stderr
    assert "cache: server started" in run.stdout
    session = re.search(r"cache: session (\d+)", run.stdout)[1]
    # All 11, but for those that MindSpore's threads had not written yet when a pipeline ended.
    assert 4 <= int(re.search(rf"cache: (\d+) images in session {session}", run.stdout)[1]) <= 11
    assert "cache: server stopped" in run.stdout
    assert admin("--list_sessions").returncode != 0
    assert "'images': 3" in (bench.folder / "train.log").read_text()


def test_a_killed_run_is_resumed_with_another_session(bench: Bench, tmp_path: Path) -> None:
    photos = make_images(tmp_path / "photos", {"train/red": 5, "train/blue": 3, "val/red": 2, "val/blue": 1})
    program = bench.folder.parent / "bin" / "python"  # dies once, when the files of the first epoch have been written
    program.write_text(f"""#!/bin/sh
case $1 in */train.py) if mkdir "{tmp_path}/died"; then
    shift
    exec "{sys.executable}" "{ROOT}/tests/support/dying_train.py" {FILES_OF_AN_EPOCH} "$@"
fi ;; esac
exec "{sys.executable}" "$@"
""")
    program.chmod(0o755)
    arguments = ("CPU", photos, "--epoch_size", 2, "--batch_size", 4, "--image_size", 32, "--width_mult", .35)
    runs = [bench.run("run_train_nfs_cache.sh", *arguments) for _ in range(2)]
    assert [run.returncode for run in runs] == [137, 0], runs[-1].stderr
    first, second = (re.search(r"cache: session (\d+)", run.stdout)[1] for run in runs)
    assert first != second
    assert "checkpoint/mobilenetv2-1_2.ckpt: 2 of 4 steps done" in (bench.folder / "train.log").read_text()


def test_a_server_that_runs_is_left_with_its_sessions(bench: Bench, admin: Admin, tmp_path: Path) -> None:
    admin("--start")
    session = admin("-g").stdout.split()[-1]
    stub_training(tmp_path)
    run = bench.run("run_train_nfs_cache.sh", "GPU", 2, "0,1", bench.data)
    assert run.returncode == 0, run.stderr
    assert "cache: using the server that runs" in run.stdout
    call, = bench.calls
    own = call["argv"][call["argv"].index("--cache_session_id") + 1]
    assert call["argv"][call["argv"].index("--enable_cache") + 1] == "True"
    listed = admin("--list_sessions").stdout
    assert session in listed
    assert own not in listed


def test_on_ascend_the_configuration_may_be_left_out(bench: Bench, tmp_path: Path) -> None:
    stub_training(tmp_path)
    stub_cache(tmp_path / "bin/dataset-cache", ANSWER)
    run = bench.run("run_train_nfs_cache.sh", "Ascend", 8, "0,1,2,3,4,5,6,7", "None", bench.data, bench.ckpt,
                    "backbone", "True")
    assert run.returncode == 0, run.stderr
    call, = bench.calls
    command = call["argv"][call["argv"].index(str(ROOT / "train.py")):]
    assert command[1:-6] == ["--platform", "Ascend", "--dataset_path", str(bench.data), "--pretrain_ckpt",
                             str(bench.ckpt), "--freeze_layer", "backbone", "--filter_head", "True"]
    assert command[-6::2] == ["--enable_cache", "--cache_session_id", "--distribute"]


def test_a_run_that_fails_ends_its_session_and_server(bench: Bench, admin: Admin, tmp_path: Path) -> None:
    stub_training(tmp_path)
    run = bench.run("run_train_nfs_cache.sh", "GPU", 1, "0", bench.data, BEHAVIOUR="sys.exit(5)")
    assert run.returncode == 5
    assert "cache: server stopped" in run.stdout
    assert admin("--list_sessions").returncode != 0


def test_wrong_arguments_start_no_server(bench: Bench, admin: Admin) -> None:
    assert bench.run("run_train_nfs_cache.sh", "GPU", 2, "0", bench.data).returncode == 2
    assert admin("--list_sessions").returncode != 0


@pytest.mark.parametrize(("answers", "told"), [
    ("case $* in *start*) echo no memory; exit 1;; *) exit 1;; esac", "cannot start the cache server"),
    ("case $* in *generate*) echo too many; exit 1;; esac", "the cache server makes no session: too many"),
    ("case $* in *generate*) echo 'Network error: server';; esac", "the cache server names no session"),
])
def test_faults_of_the_server_are_named(bench: Bench, tmp_path: Path, answers: str, told: str) -> None:
    stub_training(tmp_path)
    stub_cache(tmp_path / "bin/dataset-cache", answers)
    run = bench.run("run_train_nfs_cache.sh", "GPU", 1, "0", bench.data)
    assert (run.returncode, told in run.stderr) == (2, True)
    assert bench.calls == []


def test_the_old_name_of_the_command_is_found(bench: Bench, tmp_path: Path) -> None:
    stub_training(tmp_path)
    (tmp_path / "bin/dataset-cache").rename(tmp_path / "bin/cache_admin")
    stub_cache(tmp_path / "bin/cache_admin", ANSWER)
    run = bench.run("run_train_nfs_cache.sh", "GPU", 1, "0", bench.data, PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert run.returncode == 0, run.stderr
    assert "77" in bench.calls[0]["argv"]


def stub_cache(program: Path, answers: str) -> None:
    """A cache command that says what a test wants, in shell."""
    program.write_text(f"#!/bin/sh\n{answers}\n")
    program.chmod(0o755)


def stub_training(folder: Path) -> None:
    """Stubs of python and msrun, but not of what belongs to the cache."""
    (folder / "stubs").mkdir()
    stubs = Bench(folder / "stubs").folder.parent / "bin"
    for name in "python", "msrun":
        (stubs / name).rename(folder / "bin" / name)
