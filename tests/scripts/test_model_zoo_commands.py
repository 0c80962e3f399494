"""Each command line that MindSpore's model zoo has published, of all its releases, with stand-ins for the devices."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import assert_one_clear_line

from src.model_utils.config import Config, get_config
from tests.support.launcher_tools import ROOT, Bench
from tests.support.model_zoo_files import write_file

CARDS8 = "8 0,1,2,3,4,5,6,7"
DATA, CKPT = "dataset", "ckpt_0/mobilenetv2_15.ckpt"
TUNED = {f"{CKPT} none True": ("none", True), f"{CKPT} backbone": ("backbone", False), "": ("none", False)}

# How the arguments of run_train.sh begin: where there was no CONFIG, r1.2 to the releases before the last; with a rank
# table up to them; without one in the last.
TRAINING = [
    f"Ascend {CARDS8} hccl_8p.json {DATA}",
    f"Ascend ../default_config.yaml {CARDS8} hccl_8p.json {DATA}",
    f"Ascend ../default_config.yaml {CARDS8} None {DATA}",
    f"Ascend ../default_config.yaml {CARDS8} {DATA}",
    f"Ascend ../default_config.yaml 1 3 {DATA}",
    f"GPU {CARDS8} {DATA}",
    f"GPU ../default_config_gpu.yaml {CARDS8} {DATA}",
    f"GPU --config_path ../default_config_gpu.yaml {CARDS8} {DATA}",
    f"CPU {DATA}",
    f"CPU ../default_config_cpu.yaml {DATA}",
]
CACHED = [f"Ascend {CARDS8} hccl_8p.json {DATA}", f"GPU {CARDS8} {DATA}", f"CPU {DATA}"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A folder with what the model zoo's users have: configuration one folder up, images, checkpoint, rank table."""
    bench = Bench(tmp_path)
    for name in ("default_config.yaml", "default_config_gpu.yaml", "default_config_cpu.yaml"):
        write_file(f"last/{name}", tmp_path)
    (bench.folder / DATA / "train").mkdir(parents=True)
    (bench.folder / "ckpt_0").mkdir()
    (bench.folder / CKPT).touch()
    (bench.folder / "exported.onnx").touch()
    bench.rank_table(*range(8), name="hccl_8p.json")
    return bench


def asked(bench: Bench, script: str) -> Config:
    """The configuration that the one process, or msrun, was asked to run a script with."""
    call, = bench.calls
    path = str(ROOT / script)
    return get_config(call["argv"][call["argv"].index(path) + 1:])


@pytest.mark.parametrize("tuned", TUNED)
@pytest.mark.parametrize("arguments", TRAINING)
def test_training(arguments: str, tuned: str, bench: Bench) -> None:
    run = bench.run("run_train.sh", *arguments.split(), *tuned.split())
    assert run.returncode == 0, run.stderr
    config = asked(bench, "train.py")
    assert arguments.startswith(config.platform)
    assert config.distribute == (CARDS8 in arguments)
    assert config.dataset_path == str(bench.folder / DATA)
    assert config.pretrain_ckpt == (str(bench.folder / CKPT) if tuned else "")
    assert (config.freeze_layer, config.filter_head) == TUNED[tuned]
    old_file = "yaml" in arguments
    assert (config.lr_base_batch == 0) == old_file  # else this project's own profile
    variable = "ASCEND_RT_VISIBLE_DEVICES" if config.platform == "Ascend" else "CUDA_VISIBLE_DEVICES"
    cards = bench.calls[0]["env"].get(variable)
    assert cards == (None if config.platform == "CPU" else "3" if " 1 3 " in arguments else CARDS8.split()[1])


@pytest.mark.parametrize("arguments", CACHED)
def test_training_with_a_cache_server(arguments: str, bench: Bench, tmp_path: Path) -> None:
    server = tmp_path / "bin" / "dataset-cache"
    server.write_text("#!/bin/sh\ncase $* in *--generate*) echo 'Session created for server on port 1: 77' ;; esac\n")
    server.chmod(0o755)
    run = bench.run("run_train_nfs_cache.sh", *arguments.split())
    assert run.returncode == 0, run.stderr
    config = asked(bench, "train.py")
    assert (config.enable_cache, config.cache_session_id) == (True, 77)


@pytest.mark.parametrize("script", ["run_distributed_train_ascend.sh", "run_distribute_train_ascend.sh"])
def test_distributed_training_on_ascend(script: str, bench: Bench, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "default_config.yaml", bench.folder)
    run = bench.run(script, DATA, 8, "hccl_8p.json")
    assert run.returncode == 0, run.stderr
    config = asked(bench, "train.py")
    assert (config.platform, config.distribute, config.lr_base_batch) == ("Ascend", True, 0)
    assert config.dataset_path == str(bench.folder / DATA)
    assert bench.calls[0]["env"]["ASCEND_RT_VISIBLE_DEVICES"] == CARDS8.split()[1]
    assert bench.run(script, DATA, 8).stderr.startswith("error: DATASET, DEVICE_NUM and RANK_TABLE_FILE are needed\n")


@pytest.mark.parametrize("config_file", ["", "../default_config.yaml"])
@pytest.mark.parametrize("platform", ["Ascend", "GPU", "CPU"])
def test_evaluation(platform: str, config_file: str, bench: Bench) -> None:
    run = bench.run("run_eval.sh", platform, *config_file.split(), DATA, CKPT)
    assert run.returncode == 0, run.stderr
    config = asked(bench, "eval.py")
    assert (config.platform, config.pretrain_ckpt) == (platform, str(bench.folder / CKPT))
    assert (bench.folder / "eval.log").is_file()


@pytest.mark.parametrize(("platform", "file_format"), [("Ascend", "AIR"), ("GPU", "MINDIR"), ("CPU", "ONNX")])
def test_export(platform: str, file_format: str, bench: Bench) -> None:
    run = bench.run("run_export.sh", platform, CKPT, file_format, "out/exported.onnx")
    assert run.returncode == 0, run.stderr
    config = asked(bench, "export.py")
    assert (config.platform, config.pretrain_ckpt) == (platform, str(bench.folder / CKPT))
    assert (config.file_format, config.file_name) == (file_format, "out/exported.onnx")
    assert bench.run("run_export.sh", platform, CKPT).stderr.startswith("error: CKPT, FORMAT and FILE are needed")


@pytest.mark.parametrize("platform", ["GPU", "CPU"])
def test_evaluation_of_an_onnx_file(platform: str, bench: Bench) -> None:
    run = bench.run("run_eval_onnx.sh", platform, DATA, "exported.onnx", BEHAVIOUR="print('accuracy: 0.5000')")
    assert run.returncode == 0, run.stderr
    config = asked(bench, "eval_onnx.py")
    assert (config.platform, config.file_name) == (platform, str(bench.folder / "exported.onnx"))
    assert run.stdout.endswith("accuracy: 0.5000\n")
    assert (bench.folder / "eval_onnx.log").is_file()


# What the README has for python, after `python SCRIPT --platform PLATFORM`.
BY_HAND = [
    ("train.py", f"--dataset_path {DATA}"),
    ("train.py", f"--config_path ../default_config.yaml --dataset_path {DATA}"),
    ("train.py", f"--config_path ../default_config.yaml --dataset_path {DATA} --pretrain_ckpt {CKPT} --freeze_layer "
                 "none --filter_head True"),
    ("train.py", f"--config_path=../default_config.yaml --run_distribute=False --dataset_path={DATA} --pretrain_ckpt= "
                 "--freeze_layer=none --filter_head=False"),
    ("train.py", f"--run_distribute True --config_path ../default_config.yaml --dataset_path {DATA} --rank_size 8"),
    ("train.py", f"--dataset_path {DATA} --pretrain_ckpt {CKPT} --freeze_layer backbone"),
    ("eval.py", f"--config_path ../default_config.yaml --dataset_path {DATA} --pretrain_ckpt {CKPT}"),
    ("eval.py", f"--dataset_path {DATA} --pretrain_ckpt {CKPT}"),
    ("eval_onnx.py", f"--dataset_path {DATA} --file_name exported.onnx"),
    ("export.py", f"--ckpt_file {CKPT} --file_format MINDIR"),
    ("export.py", f"--ckpt_file {CKPT} --file_format ONNX --file_name exported.onnx"),
    ("export.py", f"--config_path ../default_config.yaml --run_distribute False --ckpt_file {CKPT} --file_format "
                  "MINDIR --file_name out"),
]


@pytest.mark.parametrize("platform", ["Ascend", "GPU", "CPU"])
@pytest.mark.parametrize(("script", "options"), BY_HAND)
def test_commands_of_python(platform: str, script: str, options: str, bench: Bench,
                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.folder)
    monkeypatch.setattr(sys, "argv", [script])
    config = get_config(["--platform", platform, *options.split()])
    assert config.platform == platform
    assert config.pretrain_ckpt == (CKPT if CKPT in options else "")
    assert DATA in options or script == "export.py"


# ---- telling the forms apart

def test_a_folder_called_none_is_a_data_set_if_nothing_else_is(bench: Bench) -> None:
    (bench.folder / "None").mkdir()
    start = ("run_train.sh", "Ascend", "../default_config.yaml", 1, 0)
    assert bench.run(*start, "None").returncode == 0
    assert asked(bench, "train.py").dataset_path == str(bench.folder / "None")
    bench.calls_file.write_text("")
    assert bench.run(*start, "None", DATA).returncode == 0
    assert asked(bench, "train.py").dataset_path == str(bench.folder / DATA)


def test_an_ambiguous_command_shows_both_readings_and_how_to_say_each(bench: Bench) -> None:
    (bench.folder / "None").mkdir()
    (bench.folder / "imagenet").mkdir()
    start = ("run_train.sh", "Ascend", "../default_config.yaml", 1, 0)
    run = bench.run(*start, "None", "imagenet")
    assert run.returncode == 2
    assert run.stderr.splitlines()[0] == (
        "error: 'None imagenet' has two readings: no rank table and the data set imagenet (write None ./imagenet), or "
        "the data set None and the checkpoint imagenet (write ./None imagenet)")
    assert bench.calls == []
    assert bench.run(*start, "None", "./imagenet").returncode == 0
    assert asked(bench, "train.py").dataset_path == str(bench.folder / "imagenet")
    bench.calls_file.write_text("")
    assert bench.run(*start, "./None", "imagenet").returncode == 0
    config = asked(bench, "train.py")
    assert (config.dataset_path, config.pretrain_ckpt) == (str(bench.folder / "None"), "imagenet")


def test_a_folder_that_ends_in_yaml_is_a_data_set(bench: Bench) -> None:
    (bench.folder / "photos.yaml").mkdir()
    assert bench.run("run_train.sh", "CPU", "photos.yaml").returncode == 0
    assert asked(bench, "train.py").dataset_path == str(bench.folder / "photos.yaml")


def test_what_is_neither_rank_table_nor_data_set_is_named(bench: Bench) -> None:
    start = ("run_train.sh", "Ascend", "../default_config.yaml", 1, 0)
    assert_one_clear_line(bench.run(*start, "nowhere"), "nowhere: no such folder; the data set must be one")
    assert_one_clear_line(bench.run(*start, "no.json", DATA), "no.json: no such rank table")


# ---- inference in C++

def infer(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a script with a stand-in for the built program, which writes down its options and no result."""
    for name in ("model.mindir", "label.txt"):
        (folder / name).touch()
    (folder / "images").mkdir(exist_ok=True)
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for name in ("cmake", "make", "c++"):
        (tools / name).write_text("#!/bin/sh\nexit 0\n")
    (tools / "python").write_text("#!/bin/sh\necho \"'Accuracy': 1.0\"\n")
    build = folder / "build"
    build.mkdir(exist_ok=True)
    (build / "infer310").write_text("#!/bin/sh\necho \"$@\" >options\n")
    for path in (*tools.iterdir(), build / "infer310"):
        path.chmod(0o755)
    (folder / "lite" / "include" / "api").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "BUILD_FOLDER": str(build),
                   "LITE_HOME": str(folder / "lite")}
    environment = {name: value for name, value in environment.items() if name not in {"DEVICE_TYPE", "CXX"}}
    return subprocess.run(["bash", ROOT / "scripts" / script, *arguments], cwd=folder, env=environment, check=False,
                          capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("command", "device", "device_id", "preprocess"), [
    ("run_infer_310.sh DVPP", "Ascend", "0", "DVPP"), ("run_infer_310.sh cpu 2", "Ascend", "2", "CPU"),
    ("run_infer_cpp.sh DVPP Ascend", "Ascend", "0", "DVPP"), ("run_infer_cpp.sh dvpp Ascend 5", "Ascend", "5", "DVPP"),
    ("run_infer_cpp.sh CPU GPU", "GPU", "0", "CPU"), ("run_infer_cpp.sh CPU CPU 0", "CPU", "0", "CPU"),
])
def test_inference_in_cpp(command: str, device: str, device_id: str, preprocess: str, tmp_path: Path) -> None:
    script, *rest = command.split()
    run = infer(tmp_path, script, "model.mindir", "images", "label.txt", *rest)
    assert run.returncode == 0, run.stderr
    words = (tmp_path / "options").read_text().split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert (given["--device"], given["--device_id"], given["--preprocess"]) == (device, device_id, preprocess)
    assert ("--aipp" in given) == (preprocess == "DVPP")
    assert (tmp_path / "acc.log").read_text() == "'Accuracy': 1.0\n"


@pytest.mark.parametrize(("rest", "says"), [
    ("CPU", "5 or 6 arguments are needed, not 4"), ("CPU TPU", "must be Ascend, GPU or CPU, not 'TPU'"),
    ("DVPP GPU", "DVPP is a part of Ascend"),
])
def test_wrong_inference_in_cpp(rest: str, says: str, tmp_path: Path) -> None:
    run = infer(tmp_path, "run_infer_cpp.sh", "model.mindir", "images", "label.txt", *rest.split())
    assert run.returncode == 2
    assert says in run.stderr.splitlines()[0]
