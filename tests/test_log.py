"""Where the lines of the library code go, and that MindSpore's lines about the same things stay away."""
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EPOCH_LINE, ROOT, STEP_LINE, Images, run_script
from tqdm import tqdm

from src.log import NOTICE, logger, reader_log_level, setup_log

LINES_OF_SKIP = (r"8 training images of 2 classes in .*; 4 to validate on in .*", "CPU kernels: off", STEP_LINE.pattern,
                 EPOCH_LINE.pattern, r"result: .* ckpt=.*", r"report: .*",
                 r".*/(train|val): left out: 1 (hidden|no image) .*")


def write_all() -> None:
    logger.info("read")
    logger.log(NOTICE, "stopping")
    logger.warning("left out")
    logger.error("lost")


@pytest.mark.parametrize(("world", "out", "err"), [
    ((), ["read"], ["stopping", "warning: left out", "error: lost"]),
    ((0, 2), ["read"], ["stopping", "warning: rank 0: left out", "error: rank 0: lost"]),
    ((1, 2), ["rank 1: read"], ["rank 1: stopping", "warning: rank 1: left out", "error: rank 1: lost"]),
])
def test_lines_say_of_which_rank_they_are(world: tuple[int, ...], out: list[str], err: list[str],
                                          capsys: pytest.CaptureFixture) -> None:
    setup_log(*world)
    write_all()
    captured = capsys.readouterr()
    assert (captured.out.splitlines(), captured.err.splitlines()) == (out, err)


def test_a_second_setup_replaces_the_first(capsys: pytest.CaptureFixture) -> None:
    setup_log(1, 2)
    setup_log()
    logger.info("once")
    assert capsys.readouterr().out == "once\n"


def test_a_name_with_signs_of_a_format_stays_as_it_is(capsys: pytest.CaptureFixture) -> None:
    logger.info("100%s of {0}: %d")
    assert capsys.readouterr().out == "100%s of {0}: %d\n"


def test_a_warning_does_not_tear_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    with tqdm(total=2, file=terminal, ncols=40) as bar:
        bar.update()
        bar.refresh()
        logger.warning("left out")
    assert re.search(r"\r *\rwarning: left out\n\r", terminal.getvalue())  # the bar is wiped before and drawn after it


def test_the_library_alone_sets_nothing_up() -> None:
    program = "import logging, src.log, src.errors; print(src.log.logger.handlers, logging.root.handlers)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("[] []\n", "")


# ---- MindSpore's lines

@pytest.fixture
def without_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has chosen nothing; train.py, imported by another test, may have chosen for this process."""
    for name in "GLOG_v", "MS_SUBMODULE_LOG_v":
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def untidy(images: Images) -> Path:
    """Images of two classes, with files that are no images, and one that only has the name of an image."""
    root = images({"train/blue": 4, "train/red": 4, "val/blue": 2, "val/red": 2})
    for name in "train/blue/notes.txt", "train/red/.DS_Store", "val/red/notes", "train/red/broken.jpg":
        (root / name).write_text("no image")
    return root


def train(untidy: Path, *argv: object) -> subprocess.CompletedProcess:
    return run_script("train.py", "--platform", "CPU", "--dataset_path", untidy, "--cpu_kernels", "off",
                      "--width_mult", 0.35, "--image_size", 32, "--batch_size", 4, "--epoch_size", 2,
                      "--save_checkpoint_path", untidy / "checkpoint", *argv)


@pytest.mark.usefixtures("without_levels")
def test_files_that_are_no_images_get_no_line_of_mindspore(untidy: Path) -> None:
    run = train(untidy, "--bad_images", "skip")
    assert run.returncode == 0
    bad, few = run.stderr.splitlines()
    assert bad == f"warning: {untidy}/train: 1 bad images left out: red/broken.jpg: not an image"
    assert few.startswith(f"warning: {untidy}/val: only 4 validation images: ")
    assert [line for line in run.stdout.splitlines()
            if not any(re.fullmatch(pattern, line) for pattern in LINES_OF_SKIP)] == []


@pytest.mark.usefixtures("without_levels")
def test_a_broken_image_gets_one_line(untidy: Path) -> None:
    run = train(untidy, "--bad_images", "ignore")
    assert run.returncode == 2
    few, line = run.stderr.splitlines()
    assert few.startswith(f"warning: {untidy}/val: only 4 validation images: ")
    assert re.match(rf"error: {untidy}/train/red/broken\.jpg: not an image; ", line)


@pytest.mark.parametrize("chosen", [{"GLOG_v": "1"}, {"MS_SUBMODULE_LOG_v": "{MD:1}"}])
def test_levels_that_the_user_set_stay(chosen: dict[str, str]) -> None:
    assert reader_log_level({}) == {"MS_SUBMODULE_LOG_v": "{MD:4}"}
    assert reader_log_level(chosen) == {}


MUTED = """
import logging
from mindspore import log
from src.log import without_mindspore_logs
with without_mindspore_logs(logging.WARNING):
    log.warning("first")
    log.error("second")
log.warning("third")
"""


@pytest.mark.parametrize(("level", "told"), [("", ["second", "third"]), ("2", ["first", "second", "third"])])
def test_what_mindspore_warns_of_is_left_out_for_a_while(level: str, told: list[str]) -> None:
    run = subprocess.run([sys.executable, "-c", MUTED], cwd=ROOT, capture_output=True, text=True, check=True,
                         env={**os.environ, "GLOG_v": level})
    assert [line.rpartition(" ")[2] for line in run.stderr.splitlines()] == told


PROFILED = """
import sys
from src.distributed.world import World
from src.model_utils.config import get_config
from src.training.profiler import StepProfiler
from src.training.timing import Timing
config = get_config(["--platform", "CPU", "--enable_profiling", "True", "--save_checkpoint_path", sys.argv[1]])
assert list(StepProfiler(config, Timing(), World()).watch(iter("abc"))) == list("abc")
"""


@pytest.mark.usefixtures("without_levels")
def test_the_profiler_runs_without_a_warning(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", PROFILED, tmp_path], cwd=ROOT, capture_output=True, text=True,
                         check=True)
    assert (tmp_path / "profile/summary.txt").exists()
    assert "[WARNING]" not in run.stdout + run.stderr
