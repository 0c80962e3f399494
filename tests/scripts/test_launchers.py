"""The launchers: what they ask python and msrun to do, what they refuse, how they end. The programs are stubs here;
test_distributed.py runs the real ones."""
import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.launcher_tools import ROOT, Bench, end_leftovers, processes_with, wait_for

TRAIN, EVAL = str(ROOT / "train.py"), str(ROOT / "eval.py")
CONFIG = str(ROOT / "default_config.yaml")
RANK = str(ROOT / "scripts" / "rank.py")
CARDS8 = "0,1,2,3,4,5,6,7"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def msrun_options(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options before the script, and the script with its arguments."""
    start = argv.index(RANK)
    return dict(option.split("=", 1) for option in argv[:start]), argv[start + 1:]


def test_on_ascend_msrun_starts_a_process_per_card(bench: Bench) -> None:
    run = bench.run("run_train.sh", "Ascend", "default_config.yaml", 8, CARDS8, "None", "../data set", "../net.ckpt",
                    "backbone", "True")
    assert run.returncode == 0, run.stderr
    call, = bench.calls
    options, command = msrun_options(call["argv"])
    assert call["name"] == "msrun"
    port = options.pop("--master_port")
    assert 1024 <= int(port) <= 65535
    assert options == {"--worker_num": "8", "--local_worker_num": "8", "--master_addr": "127.0.0.1", "--join": "True",
                       "--bind_core": "True", "--log_dir": str(bench.folder / "train/msrun")}
    assert command == [TRAIN, "--platform", "Ascend", "--config_path", CONFIG, "--dataset_path", str(bench.data),
                       "--pretrain_ckpt", str(bench.ckpt), "--freeze_layer", "backbone", "--filter_head", "True",
                       "--distribute", "True"]
    assert call["env"]["ASCEND_RT_VISIBLE_DEVICES"] == CARDS8
    assert call["cwd"] == str(bench.folder)
    assert sorted(path.name for path in bench.folder.glob("train/rank*/log*.log")) == [f"log{i}.log" for i in range(8)]
    assert "train/rank0/log0.log" in run.stdout
    assert not (bench.folder / "train.log").exists()


def test_the_cards_of_a_rank_table_are_started_by_msrun(bench: Bench) -> None:
    bench.rank_table(4, 5)
    run = bench.run("run_train.sh", "Ascend", CONFIG, 2, "4,5", "table.json", bench.data, RANK_TABLE_FILE="forgotten")
    assert run.returncode == 0, run.stderr
    call, = bench.calls
    options, _ = msrun_options(call["argv"])
    assert (call["name"], options["--worker_num"]) == ("msrun", "2")
    assert call["env"]["ASCEND_RT_VISIBLE_DEVICES"] == "4,5"
    assert "RANK_TABLE_FILE" not in call["env"]  # would make MindSpore use its deprecated backend


def test_cards_wait_for_one_another_for_an_hour_unless_told_otherwise(bench: Bench) -> None:
    arguments = ("run_train.sh", "Ascend", CONFIG, 2, "0,1", "None", bench.data)
    assert bench.run(*arguments).returncode == bench.run(*arguments, HCCL_CONNECT_TIMEOUT="600").returncode == 0
    assert [(call["env"]["HCCL_CONNECT_TIMEOUT"], call["env"]["HCCL_EXEC_TIMEOUT"]) for call in bench.calls] == [
        ("3600", "3600"), ("600", "3600")]


def test_an_atlas_a3_has_sixteen_cards(bench: Bench) -> None:
    cards = ",".join(map(str, range(16)))
    bench.rank_table(*range(16))
    arguments = ("run_train.sh", "Ascend", CONFIG, 16, cards, "table.json", bench.data)
    run = bench.run(*arguments, ATLAS="A3")
    assert run.returncode == 0, run.stderr
    assert bench.calls[0]["env"]["ASCEND_RT_VISIBLE_DEVICES"] == cards
    assert "set ATLAS=A3" in bench.run(*arguments, ATLAS="A2").stderr
    assert "ATLAS must be one of 910, A2, A3, not 'B'" in bench.run(*arguments, ATLAS="B").stderr


def test_ascend_from_a_rank_table(bench: Bench) -> None:
    table = bench.rank_table(4, 5)
    run = bench.run("run_train.sh", "Ascend", CONFIG, 2, "4,5", "table.json", bench.data, bench.ckpt,
                    RANK_TABLE_START="legacy")
    assert run.returncode == 0, run.stderr
    assert [call["name"] for call in bench.calls] == ["python", "python"]
    for rank, call in enumerate(bench.calls):
        assert {key: call["env"][key] for key in ("RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE", "DEVICE_ID")} == {
            "RANK_TABLE_FILE": str(table), "RANK_ID": str(rank), "RANK_SIZE": "2", "DEVICE_ID": str(4 + rank)}
        assert call["argv"] == [TRAIN, "--platform", "Ascend", "--config_path", CONFIG, "--dataset_path",
                                str(bench.data), "--pretrain_ckpt", str(bench.ckpt), "--distribute", "True"]
        assert (bench.folder / f"train/rank{rank}/log{rank}.log").read_text() == f"stub {rank}\n"


def test_one_card_needs_no_msrun(bench: Bench) -> None:
    assert bench.run("run_train.sh", "Ascend", CONFIG, 1, 3, "None", bench.data).returncode == 0
    assert bench.run("run_train.sh", "GPU", 1, 2, bench.data).returncode == 0
    ascend, gpu = sorted(bench.calls, key=lambda call: call["argv"])
    assert ascend["env"]["ASCEND_RT_VISIBLE_DEVICES"] == "3"
    assert ascend["argv"] == [TRAIN, "--platform", "Ascend", "--config_path", CONFIG, "--dataset_path", str(bench.data)]
    assert gpu["env"]["CUDA_VISIBLE_DEVICES"] == "2"
    assert gpu["argv"] == [TRAIN, "--platform", "GPU", "--dataset_path", str(bench.data)]
    assert (bench.folder / "train/rank0/log0.log").read_text().startswith("stub")
    assert (bench.folder / "train.log").read_text().startswith("stub")


@pytest.mark.parametrize("config", [(), (ROOT / "default_config_gpu.yaml",)])
def test_on_gpu_msrun_starts_a_process_per_card(bench: Bench, config: tuple) -> None:
    run = bench.run("run_train.sh", "GPU", *config, 4, "0,1,2,3", bench.data, bench.ckpt, "none", "False",
                    "--epoch_size", 3)
    assert run.returncode == 0, run.stderr
    call, = bench.calls
    options, command = msrun_options(call["argv"])
    assert options["--worker_num"] == options["--local_worker_num"] == "4"
    assert call["env"]["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    chosen = ["--config_path", str(config[0])] if config else []
    assert command == [TRAIN, "--platform", "GPU", *chosen, "--dataset_path", str(bench.data), "--pretrain_ckpt",
                       str(bench.ckpt), "--freeze_layer", "none", "--filter_head", "False", "--epoch_size", "3",
                       "--distribute", "True"]
    assert (bench.folder / "train.log").samefile(bench.folder / "train/rank0/log0.log")


def test_on_cpu_msrun_starts_several_processes_and_python_one(bench: Bench) -> None:
    assert bench.run("run_train.sh", "CPU", bench.data, bench.ckpt, "backbone", "true").returncode == 0
    assert bench.run("run_train.sh", "CPU", bench.data, WORKER_NUM="2").returncode == 0
    one, two = sorted(bench.calls, key=lambda call: call["name"], reverse=True)
    assert one["argv"] == [TRAIN, "--platform", "CPU", "--dataset_path", str(bench.data), "--pretrain_ckpt",
                           str(bench.ckpt), "--freeze_layer", "backbone", "--filter_head", "true"]
    assert msrun_options(two["argv"])[1] == [TRAIN, "--platform", "CPU", "--dataset_path", str(bench.data),
                                             "--distribute", "True"]
    assert two["env"]["OMP_NUM_THREADS"].isdecimal()
    assert "OMP_NUM_THREADS" not in one["env"]


@pytest.mark.parametrize("platform", ["Ascend", "GPU", "CPU"])
@pytest.mark.parametrize("config", [(), (CONFIG,)])
def test_evaluation_is_one_process_with_its_options(bench: Bench, platform: str, config: tuple) -> None:
    run = bench.run("run_eval.sh", platform, *config, "../data set", "../net.ckpt")
    assert run.returncode == 0, run.stderr
    call, = bench.calls
    chosen = ["--config_path", CONFIG] if config else []
    assert call["argv"] == [EVAL, "--platform", platform, *chosen, "--dataset_path", str(bench.data),
                            "--pretrain_ckpt", str(bench.ckpt)]
    assert (bench.folder / "eval.log").read_text().startswith("stub")


def test_several_machines_get_their_ranks_and_one_master(bench: Bench) -> None:
    for node_rank in "0", "1":
        run = bench.run("run_train.sh", "Ascend", CONFIG, 8, CARDS8, "None", bench.data, NODE_NUM="2",
                        NODE_RANK=node_rank, MASTER_ADDR="10.0.0.1")
        assert run.returncode == 0, run.stderr
        options, _ = msrun_options(bench.calls[-1]["argv"])
        assert options == {"--worker_num": "16", "--local_worker_num": "8", "--master_addr": "10.0.0.1",
                           "--master_port": "8118", "--node_rank": node_rank, "--join": "True", "--bind_core": "True",
                           "--log_dir": str(bench.folder / "train/msrun")}
    assert (bench.folder / "train/rank8/log8.log").exists()


def test_a_port_that_is_taken_is_replaced(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = str(server.getsockname()[1])
        assert bench.run("run_train.sh", "CPU", bench.data, WORKER_NUM="2", MASTER_PORT=taken).returncode == 0
    options, _ = msrun_options(bench.calls[0]["argv"])
    assert options["--master_port"] != taken


def test_published_weights_are_named_as_they_are(bench: Bench) -> None:
    """Those of tests/test_download.py. A file of that name comes first."""
    def given(script: str, *more: str) -> str:
        assert bench.run(script, "CPU", bench.data, "imagenet", *more).returncode == 0
        argv = bench.calls[-1]["argv"]
        return argv[argv.index("--pretrain_ckpt") + 1]

    assert given("run_train.sh", "backbone") == given("run_eval.sh") == "imagenet"
    (bench.folder / "imagenet").touch()
    assert given("run_eval.sh") == str(bench.folder / "imagenet")


REFUSED = [
    ((), "no platform"),
    (("TPU", "../data set"), "TPU"),
    (("CPU",), "no data set named"),
    (("CPU", "nowhere"), "nowhere: no such folder"),
    (("CPU", "../data set", "no.ckpt"), "no.ckpt: no such checkpoint"),
    (("CPU", "../data set", "../net.ckpt", "head"), "FREEZE_LAYER must be none or backbone, not 'head'"),
    (("CPU", "../data set", "../net.ckpt", "none", "perhaps"), "FILTER_HEAD must be True or False, not 'perhaps'"),
    (("CPU", "../data set", "", "backbone"), "need a checkpoint"),
    (("CPU", "../data set", "../net.ckpt", "none", "True", "more"), "too many arguments: more"),
    (("CPU", "missing.yaml", "../data set"), "missing.yaml: no such configuration file"),
    (("GPU", "../data set"), "DEVICE_NUM"),
    (("GPU", "two", "0,1", "../data set"), "DEVICE_NUM must be a whole number above 0, not 'two'"),
    (("GPU", 0, "0", "../data set"), "not '0'"),
    (("GPU", 2, "0", "../data set"), "DEVICE_NUM is 2, but DEVICES names 1"),
    (("GPU", 2, "1,1", "../data set"), "names card 1 twice"),
    (("GPU", 2, "0;1", "../data set"), "not '0;1'"),
    (("GPU", 2, "0,01", "../data set"), "not '0,01'"),
    (("GPU", 2, "0,1,", "../data set"), "not '0,1,'"),
    (("Ascend", CONFIG, 17, ",".join(map(str, range(17))), "None", "../data set"), "must be 1 to 16"),
    (("Ascend", CONFIG, 2, "0,1"), "RANK_TABLE_FILE is missing"),
    (("Ascend", CONFIG, 2, "0,1", "no.json", "../data set"), "no.json: no such rank table"),
]


@pytest.mark.parametrize(("arguments", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_wrong_arguments_start_nothing(bench: Bench, arguments: tuple, told: str) -> None:
    run = bench.run("run_train.sh", *arguments)
    first_line = run.stderr.splitlines()[0]
    assert run.returncode == 2
    assert first_line.startswith("error: ")
    assert told in first_line
    assert bench.calls == []
    assert list(bench.folder.iterdir()) == []


@pytest.mark.parametrize(("env", "told"), [
    ({"WORKER_NUM": "0"}, "WORKER_NUM must be"), ({"WORKER_NUM": "x"}, "WORKER_NUM must be"),
    ({"NODE_NUM": "2"}, "set MASTER_ADDR"), ({"NODE_NUM": "2", "NODE_RANK": "2", "MASTER_ADDR": "h"}, "0 to 1"),
    ({"MASTER_PORT": "80"}, "1024 to 65535"), ({"RANK_TABLE_START": "mpi"}, "must be msrun or legacy, not 'mpi'"),
])
def test_wrong_environment_starts_nothing(bench: Bench, env: dict, told: str) -> None:
    run = bench.run("run_train.sh", "CPU", bench.data, **env)
    assert run.returncode == 2
    assert told in run.stderr.splitlines()[0]
    assert bench.calls == []


@pytest.mark.parametrize(("devices", "env", "changes", "told"), [
    ((0, 1), {}, {"server_count": "2"}, "server_count is '2'"),
    ((0, 1), {}, {"server_list": []}, "server_list is missing"),
    ((0, 1, 2), {}, {}, "has 3 devices, but DEVICES names 2"),
    ((0, 2), {}, {}, "but DEVICES is 0,1"),
    ((0, 1), {"NODE_NUM": "2", "MASTER_ADDR": "h"}, {}, "describes 1 servers, but the run has 2"),
])
def test_rank_tables_that_do_not_fit(bench: Bench, devices: tuple, env: dict, changes: dict, told: str) -> None:
    bench.rank_table(*devices, **changes)
    run = bench.run("run_train.sh", "Ascend", CONFIG, 2, "0,1", "table.json", bench.data, ATLAS="A2", **env)
    assert run.returncode == 2
    assert told in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert bench.calls == []


def test_a_rank_table_must_be_json(bench: Bench) -> None:
    (bench.folder / "table.json").write_text("rank 0")
    run = bench.run("run_train.sh", "Ascend", CONFIG, 2, "0,1", "table.json", bench.data)
    assert (run.returncode, "not JSON" in run.stderr) == (2, True)


@pytest.mark.parametrize(("devices", "legal"), [
    ((6,), True), ((0, 3), True), ((3, 4), False), ((0, 1, 2), False), ((4, 5, 6, 7), True), ((2, 3, 4, 5), False),
    (tuple(range(8)), True),
])
def test_groups_of_cards_on_an_atlas(bench: Bench, devices: tuple, legal: bool) -> None:
    bench.rank_table(*devices)
    names = ",".join(map(str, devices))
    arguments = ("Ascend", CONFIG, len(devices), names, "table.json", bench.data)
    run = bench.run("run_train.sh", *arguments)
    assert run.returncode == (0 if legal else 2)
    if not legal:
        assert "cannot work together" in run.stderr
        assert bench.run("run_train.sh", *arguments, ATLAS="A2").returncode == 0


def test_earlier_logs_are_set_aside(bench: Bench) -> None:
    (bench.folder / "train.log").write_text("precious")
    (bench.folder / "train/rank0").mkdir(parents=True)
    (bench.folder / "train/rank0/log0.log").write_text("precious too")
    run = bench.run("run_train.sh", "CPU", bench.data, WORKER_NUM="2")
    assert run.returncode == 0, run.stderr
    log, = bench.folder.glob("train-earlier-*.log")
    folder, = (path for path in bench.folder.glob("train-earlier-*") if path.is_dir())
    assert log.read_text() == "precious"
    assert (folder / "rank0/log0.log").read_text() == "precious too"
    assert log.name in run.stdout


def test_a_folder_named_train_that_holds_images_is_left_alone(bench: Bench) -> None:
    bench.folder = bench.data
    run = bench.run("run_train.sh", "Ascend", CONFIG, 2, "0,1", "None", ".")
    assert (run.returncode, "holds other things (cat)" in run.stderr) == (2, True)
    assert [path.name for path in bench.data.rglob("*")] == ["train", "cat"]
    assert bench.calls == []


def test_the_first_rank_that_fails_gives_the_status(bench: Bench) -> None:
    bench.rank_table(0, 1)
    # Rank 0 would wait forever for rank 1, as ranks do.
    behaviour = "import time, sys\nif os.environ['RANK_ID'] == '1': sys.exit('out of luck')\ntime.sleep(3600)"
    run = bench.run("run_train.sh", "Ascend", CONFIG, 2, "0,1", "table.json", bench.data, BEHAVIOUR=behaviour,
                    RANK_TABLE_START="legacy")
    assert run.returncode == 1
    assert "rank 1 ended with status 1" in run.stderr
    assert run.stderr.endswith("out of luck\n")
    assert "train/rank1/log1.log" in run.stderr
    assert processes_with("CALLS", str(bench.calls_file)) == {}


def test_a_failure_of_msrun_itself_is_told(bench: Bench) -> None:
    run = bench.run("run_train.sh", "CPU", bench.data, WORKER_NUM="2", BEHAVIOUR="sys.exit('no such option')")
    assert run.returncode == 1
    assert "msrun or its scheduler ended with status 1" in run.stderr
    assert "no such option" in run.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_signals_end_every_process(bench: Bench, number: int, status: int, workers: str) -> None:
    # As msrun does: children in sessions of their own; one is deaf to signals.
    behaviour = ("import subprocess, time\n"
                 "deaf = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)'\n"
                 "subprocess.Popen([sys.executable, '-c', deaf], start_new_session=True)\n"
                 "open('started', 'w').close()\n"
                 "time.sleep(3600)")
    launcher = bench.start("run_train.sh", "CPU", bench.data, WORKER_NUM=workers, BEHAVIOUR=behaviour,
                           GRACE_SECONDS="2")
    try:
        wait_for((bench.folder / "started").exists, "the processes")
        launcher.send_signal(number)
        launcher.communicate(timeout=60)
        assert launcher.returncode == status
        assert processes_with("CALLS", str(bench.calls_file)) == {}
    finally:
        end_leftovers("CALLS", str(bench.calls_file))


def test_without_msrun_on_path_it_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stubs=("python",))
    bench.env["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    run = bench.run("run_train.sh", "GPU", 2, "0,1", bench.data)
    assert (run.returncode, "no msrun on PATH" in run.stderr) == (2, True)


@pytest.mark.parametrize("script", ["run_train.sh", "run_eval.sh"])
def test_help_tells_of_several_machines(bench: Bench, script: str) -> None:
    run = bench.run(script, "--help")
    assert run.returncode == 0
    assert "Several machines" in run.stdout


def test_a_rank_table_of_two_servers_gives_each_its_ranks(bench: Bench) -> None:
    one = json.loads(bench.rank_table(*range(8)).read_text())["server_list"][0]
    two = {**one, "server_id": "10.0.0.2",
           "device": [{**device, "rank_id": str(8 + rank)} for rank, device in enumerate(one["device"])]}
    bench.rank_table(*range(8), server_count="2", server_list=[one, two])
    run = bench.run("run_train.sh", "Ascend", CONFIG, 8, CARDS8, "table.json", bench.data, NODE_NUM="2", NODE_RANK="1",
                    MASTER_ADDR="10.0.0.1", RANK_TABLE_START="legacy")
    assert run.returncode == 0, run.stderr
    ranks = [(int(call["env"]["RANK_ID"]), call["env"]["RANK_SIZE"], call["env"]["DEVICE_ID"]) for call in bench.calls]
    assert sorted(ranks) == [(8 + i, "16", str(i)) for i in range(8)]


def test_scripts_are_valid_bash() -> None:
    for script in (ROOT / "scripts").glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)


def test_a_rank_whose_keeper_was_killed_is_named(bench: Bench) -> None:
    # What msrun does when rank.py itself is killed: it says so, by process number, and fails.
    behaviour = (
        "import signal, subprocess, time\n"
        "rank = dict(os.environ, MS_ROLE='MS_WORKER', RANK_ID='1')\n"
        "open('script.py', 'w').write('import time; print(\"working\", flush=True); time.sleep(3600)')\n"
        f"keeper = subprocess.Popen([sys.executable, {RANK!r}, 'script.py'], env=rank)\n"
        "while 'working' not in open('train/rank1/log1.log').read(): time.sleep(0.1)\n"
        "keeper.kill(); keeper.wait()\n"
        "sys.exit(f'Worker process {keeper.pid} exit with exception. Error code: -9.')")
    run = bench.run("run_train.sh", "CPU", bench.data, WORKER_NUM="2", BEHAVIOUR=behaviour)
    assert run.returncode == 137, run.stderr
    assert "rank 1 ended with status 137 (signal KILL)" in run.stderr
    assert run.stderr.endswith("working\n")
    assert processes_with("CALLS", str(bench.calls_file)) == {}


def test_a_port_that_is_lost_to_another_is_replaced(bench: Bench) -> None:
    # Another program took the port between our look and the scheduler's: msrun's workers would wait ten minutes for it.
    behaviour = (
        "import pathlib, time\n"
        "if not os.path.exists('once'):\n"
        "    open('once', 'w').close()\n"
        "    pathlib.Path('train/msrun/scheduler.log').write_text('Failed to call bind: Address already in use')\n"
        "    open(os.environ['RUN_ENDED'], 'a').write('scheduler 2\\n')\n"
        "    time.sleep(3600)")
    run = bench.run("run_train.sh", "CPU", bench.data, WORKER_NUM="2", BEHAVIOUR=behaviour)
    assert run.returncode == 0, run.stderr
    assert len(bench.calls) == 2
    assert processes_with("CALLS", str(bench.calls_file)) == {}
    several = {"NODE_NUM": "2", "MASTER_ADDR": "127.0.0.1", "WORKER_NUM": "2", "BEHAVIOUR": behaviour}
    (bench.folder / "once").unlink()
    run = bench.run("run_train.sh", "CPU", bench.data, **several)
    assert (run.returncode, "set another MASTER_PORT on all machines" in run.stderr) == (2, True)
    assert processes_with("CALLS", str(bench.calls_file)) == {}
