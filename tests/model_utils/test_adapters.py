"""Where a process stands, and how often the storage is asked."""
import json
import os
import sys
import types
from pathlib import Path

import mindspore as ms
import pytest

from src.distributed.device import setup_device
from src.errors import UserError
from src.model_utils.config import get_config
from src.model_utils.device_adapter import find_process_environment
from src.model_utils.local_adapter import ProcessEnvironment
from src.model_utils.moxing_adapter import Storage, is_remote
from src.modelarts.environment import await_rank_table


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEVICE_ID", "ASCEND_DEVICE_ID", "RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE", "MA_NUM_HOSTS",
                 "VC_WORKER_NUM", "MA_VJ_NAME", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)


# ---- the environment

@pytest.mark.parametrize(("variables", "modelarts", "process"), [
    ({}, False, ProcessEnvironment(None, 0, 1, 1, "")),
    ({}, True, ProcessEnvironment(None, 0, 1, 1, "")),
    ({"ASCEND_DEVICE_ID": "3", "RANK_ID": "11", "RANK_SIZE": "16", "MA_NUM_HOSTS": "2", "JOB_ID": "j"}, True,
     ProcessEnvironment(3, 11, 16, 2, "j")),
    ({"DEVICE_ID": "5", "ASCEND_DEVICE_ID": "3", "VC_WORKER_NUM": "4", "MA_VJ_NAME": "v", "JOB_ID": "j"}, True,
     ProcessEnvironment(5, 0, 1, 4, "v")),
    ({"DEVICE_ID": "5", "RANK_ID": "1", "RANK_SIZE": "2", "MA_NUM_HOSTS": "2", "JOB_ID": "j"}, False,
     ProcessEnvironment(5, 1, 2, 1, "")),
    ({"DEVICE_ID": "", "ASCEND_DEVICE_ID": "0"}, True, ProcessEnvironment(0, 0, 1, 1, "")),
])
def test_rank_and_size_come_from_the_launchers_variables(variables: dict[str, str], modelarts: bool,
                                                         process: ProcessEnvironment,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_process_environment(modelarts) == process


def test_a_variable_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK_ID", "one")
    with pytest.raises(UserError, match="environment variable RANK_ID must be a number, not 'one'"):
        find_process_environment(True)


@pytest.mark.parametrize(("variables", "device"), [({}, None), ({"ASCEND_DEVICE_ID": "6"}, 6),
                                                   ({"DEVICE_ID": "2", "ASCEND_DEVICE_ID": "6"}, 2)])
def test_the_card_that_is_asked_of_mindspore(variables: dict[str, str], device: int | None,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []
    monkeypatch.setattr(ms, "set_device", lambda *wanted: asked.append(wanted))
    monkeypatch.delenv("MS_ROLE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    setup_device(get_config(["--platform", "Ascend", "--enable_modelarts"]))
    assert asked == [("Ascend", device)]


@pytest.mark.parametrize(("rank", "size", "machines", "first", "on_first"), [
    (0, 1, 1, True, True), (0, 8, 1, True, True), (7, 8, 1, False, True), (8, 16, 2, True, False),
    (9, 16, 2, False, False), (1, 2, 2, True, False)])
def test_each_machine_has_one_first_process(rank: int, size: int, machines: int, first: bool, on_first: bool) -> None:
    process = ProcessEnvironment(None, rank, size, machines, "")
    assert (process.is_first_on_machine, process.is_on_first_machine) == (first, on_first)


def test_rank_table_in_a_folder_is_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, contents = tmp_path / "jobstart_hccl.json", ["", '{"status": "initial', '{"status": "initializing"}',
                                                        '{"status": "completed"}']
    monkeypatch.setenv("RANK_TABLE_FILE", str(tmp_path))

    def later(seconds: float) -> None:
        table.write_text(contents.pop(0))

    await_rank_table(60, later)
    assert (contents, Path(os.environ["RANK_TABLE_FILE"])) == ([], table)
    await_rank_table(0)  # a file is taken as it is
    monkeypatch.setenv("RANK_TABLE_FILE", str(tmp_path))
    table.write_text(json.dumps({"status": "initializing"}))
    with pytest.raises(UserError, match="did not complete this rank table within 0 seconds"):
        await_rank_table(0)


# ---- the storage

def test_remote_urls_are_known_by_their_scheme() -> None:
    assert [is_remote(url) for url in ("obs://b/x", "S3://b/x", "/cache/x", "x", "file:///x", "")] == [
        True, True, False, False, False, False]


def test_waits_double_and_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def exists(url: str) -> bool:
        raise RuntimeError("no answer\nand more")

    file = types.SimpleNamespace(exists=exists, copy_parallel=print)
    monkeypatch.setitem(sys.modules, "moxing", types.SimpleNamespace(file=file))
    with pytest.raises(UserError, match="cannot look for obs://b: no answer; tried 7 times"):
        Storage(7, 5.0, waits.append).exists("obs://b")
    assert waits == [5, 10, 20, 40, 80, 120]
