"""What the tests share: a device, a cache of their own, images, and data that a user need not have."""
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from src.cache_folder import cache_folder  # noqa: E402 - needs the path
from src.checkpoint.file import Checkpoint  # noqa: E402
from src.checkpoint.record import TrainingMetadata  # noqa: E402
from src.log import setup_log  # noqa: E402
from src.model_utils.config import Config, get_config  # noqa: E402
from tests.support.torch_files import stand_in_torch  # noqa: E402

COLOURS = ((50, 60, 230), (40, 200, 60), (220, 40, 40), (230, 210, 40), (200, 60, 210), (60, 210, 210))

# The log lines that users of MindSpore's model zoo know.
STEP_LINE = re.compile(r"epoch: \[\s*\d+/\s*\d+\], step:\[\s*\d+/\s*\d+\], loss:\[\s*[\d.]+/\s*[\d.]+\], "
                       r"time:\[\s*[\d.]+\], lr:\[\s*[\d.]+\]")
EPOCH_LINE = re.compile(r"epoch time: [\d.]+, per step time: [\d.]+, avg loss: \s*[\d.]+")

# Several workers share the files out among them: those that take longest begin first, so that no worker is left alone
# with one at the end; and those that start several ranks not side by side, where the ranks would wait for each other.
LONG_FILES = ("test_distributed.py", "test_killed.py", "test_readme.py", "test_torch_reference.py", "test_resume.py",
              "test_cpu_kernels_build.py", "test_nfs_cache.py", "test_cpu_kernels.py", "test_train.py",
              "test_modelarts_jobs.py", "test_distillation.py", "test_infer.py", "test_launchers.py")

FEW_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2), (6, 96, 1, 2), (6, 320, 1, 2))  # as INVERTED_RESIDUALS

Images = Callable[..., Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests of each file in a random order")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first, the rest as collected; within a file in a random order, if wanted."""
    if (seed := config.getoption("shuffle")) is not None:
        random.Random(seed).shuffle(items)
        items.sort(key=lambda item: item.path)
    rank = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def device() -> None:
    """Graph mode on CPU, once, before anything is computed."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """What tests start heeds signals, even where the tests were started in the background or by nohup, deaf to them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of this test run alone, for all its workers and the processes that tests start.

    Only some parts are the user's, which are large and the same for all runs: zig's C++ library, the converters for
    export, and the browser's runtime. The kernels that zig builds are in this run's folder.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    for part in ("zig", "converters", "onnxruntime-web"):
        with contextlib.suppress(FileExistsError):  # another worker was first
            (folder / part).symlink_to(cache_folder(part).absolute())
    os.environ["MOBILENETV2_CACHE"] = str(folder)
    yield folder
    del os.environ["MOBILENETV2_CACHE"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The developers' folder of weights and photos beside the repository."""
    folder = ROOT.parent / "shared"
    if not (folder / "weights").is_dir():
        pytest.skip("needs ../shared with ImageNet weights, which users of this project do not have")
    return folder


def make_images(root: Path, counts: dict[str, int], size: tuple[int, int] = (48, 40), ending: str = ".jpg",
                  seed: int = 0) -> Path:
    """Write `counts["train/cat"]` images to root/train/cat and so on, a colour with noise for each class name."""
    generator = np.random.default_rng(seed)
    names = sorted({folder.rpartition("/")[2] for folder in counts})
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        colour = np.array(COLOURS[names.index(folder.rpartition("/")[2]) % len(COLOURS)])
        for number in range(count):
            pixels = np.clip(colour + generator.integers(-40, 40, (*size[::-1], 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number:03d}{ending}")
    return root


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """A factory: `images({"train/cat": 3, "val/cat": 1})` makes real files and returns their root."""
    def make(counts: dict[str, int], name: str = "pictures", **options: object) -> Path:
        return make_images(tmp_path / name, counts, **options)  # type: ignore[arg-type]
    return make


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of different sizes to train and validate on; not to be changed."""
    counts = {"train/blue": 8, "train/green": 7, "train/red": 6, "val/blue": 3, "val/green": 4, "val/red": 2}
    return make_images(tmp_path_factory.mktemp("photos"), counts)


@pytest.fixture
def torch_names(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand-ins for PyTorch's classes, to write files as `torch.save` does."""
    return stand_in_torch(monkeypatch)


@contextlib.contextmanager
def few_blocks() -> Iterator[None]:
    """Networks that this process makes meanwhile have 6 blocks, not 17, with and without shortcut.

    Most of the time of a small run goes into compiling the network and into saving each of its parameters.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mobilenetV2.INVERTED_RESIDUALS", FEW_BLOCKS)
        yield


def config_for(*argv: object) -> Config:
    """The CPU profile with options."""
    return get_config(["--platform", "CPU", *map(str, argv)])


def assert_same_run(found: Checkpoint, expected: Checkpoint) -> None:
    """Two runs have the same weights, state and history, to the bit."""
    for part in ("network", "state"):
        values, wanted = getattr(found, part), getattr(expected, part)
        assert values.keys() == wanted.keys()
        for name, value in values.items():
            np.testing.assert_array_equal(value.asnumpy(), wanted[name].asnumpy(), err_msg=name)
    assert found.training.history == expected.training.history


def training_metadata(epoch: int = 0, **changes: Any) -> TrainingMetadata:  # noqa: ANN401 - of any field
    """What a run of 5 steps an epoch says in a checkpoint after so many epochs, with changes."""
    values: dict[str, Any] = {
        "run_id": "0123abcd", "step": 5 * epoch, "epoch": epoch, "whole_epoch": True, "losses": [], "metrics": {},
        "history": [{"epoch": n, "loss": 1.0, "lr": 0.1} for n in range(1, epoch + 1)], "best_top1": -1.0,
        "is_best": False, "ranks": 1, "train_images": "digest"}
    return TrainingMetadata(**{**values, **changes})


def run_script(*argv: object, timeout: float = 300) -> subprocess.CompletedProcess:
    """Run a command of the repository as a user would, from the repository."""
    return subprocess.run([sys.executable, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=timeout,
                          check=False)


def assert_one_clear_line(run: subprocess.CompletedProcess, *mentions: str) -> None:
    """The command failed with one line on stderr that names the culprits, and no traceback.

    MindSpore's own warnings, as of an Ascend driver that is not there, may stand before it.
    """
    lines = [line for line in run.stderr.splitlines() if line.strip() and not line.startswith("[WARNING]")]
    assert run.returncode == 2, run.stderr
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("error: ")
    for mention in mentions:
        assert mention in lines[0]


@pytest.fixture(autouse=True)
def log() -> None:
    """Lines of the library code go to stdout and stderr, as in a command."""
    setup_log()


@pytest.fixture(autouse=True)
def same_randomness() -> None:
    """Every test starts from the same state of the global generators."""
    random.seed(0)
    np.random.seed(0)
    ms.set_seed(0)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:  # of selenium's WebDriver
    """Chromium without a window, which logs what its pages ask for and complain of."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--disable-dev-shm-usage", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False,
                                   capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)
