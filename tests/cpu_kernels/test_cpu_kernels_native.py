"""The C++ itself: its test programs under the sanitizers, and what its entry points refuse."""
import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from src.cpu_kernels import accelerate
from src.cpu_kernels.builder import SOURCE_FOLDER, build
from src.cpu_kernels.compiler import STANDARD
from src.mobilenetV2 import ConvBN

PROGRAMS = Path(__file__).parents[1] / "cpp"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
# What is cheaper in all: without optimization checks compile in half the time, but the thread sanitizer runs longer.
@pytest.mark.parametrize(("sanitizers", "optimization"), [("address,undefined", "-O0"), ("thread", "-O1")])
def test_programs_under_the_sanitizers(sanitizers: str, optimization: str, tmp_path: Path) -> None:
    command = ["g++", STANDARD, optimization, "-g1", "-march=native", f"-fsanitize={sanitizers}",
               "-fno-sanitize-recover=all", "-pthread", f"-I{SOURCE_FOLDER}"]
    sources = sorted(SOURCE_FOLDER.glob("*.cc"))
    programs = sorted(PROGRAMS.glob("*_test.cc"))
    objects = {source: tmp_path / f"{source.stem}.o" for source in (*sources, *programs)}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        run_all(pool, [[*command, "-c", source, "-o", compiled] for source, compiled in objects.items()])
        run_all(pool, [[*command, objects[program], *(objects[source] for source in sources), "-ldl", "-o",
                        tmp_path / program.stem] for program in programs])
    for program in programs:
        run = subprocess.run([tmp_path / program.stem], capture_output=True, text=True, check=False)
        if "unexpected memory mapping" in run.stderr:
            pytest.skip("this g++'s thread sanitizer does not know where this kernel puts memory")
        assert run.returncode == 0, f"{program.name}: {run.stderr[-5000:]}"


def run_all(pool: ThreadPoolExecutor, commands: Sequence[Sequence[object]]) -> None:
    for run in pool.map(lambda command: subprocess.run(list(map(str, command)), capture_output=True, text=True,
                                                       check=False), commands):
        assert run.returncode == 0, run.stderr[-5000:]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return ctypes.CDLL(str(build()))


def call(operator: Callable[..., int], arrays: Sequence[np.ndarray]) -> int:
    """As MindSpore calls an operator."""
    count = len(arrays)
    shapes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
    return operator(
        count,
        (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays)),
        (ctypes.c_int * count)(*(array.ndim for array in arrays)),
        (ctypes.c_void_p * count)(*(ctypes.addressof(shape) if len(shape) else None for shape in shapes)),
        (ctypes.c_char_p * count)(*(array.dtype.name.encode() for array in arrays)), None, None)


def evaluation_arguments() -> list[np.ndarray]:
    """Of `backbone_infer`: a 1x1 convolution from 4 channels to 8, on two images of 3x5 pixels."""
    return [np.array([0, 0, 1, 0, 1, 1, -1, 4, 8, 0], np.int32), *(np.ones(shape, np.float32) for shape in (
        (1, 2), (2, 4, 3, 5), (8, 4, 1, 1), (8,), (8,), (8,), (8,), (2, 8, 3, 5)))]


IMAGES, WEIGHT, FEATURES = 2, 3, 8

WRONG: dict[str, tuple[int, np.ndarray, str]] = {
    "rank": (IMAGES, np.ones((4, 3, 5), np.float32), "images of shape [4, 3, 5] are not N x C x H x W"),
    "channels": (IMAGES, np.ones((2, 5, 3, 5), np.float32), "is of shape [2, 5, 3, 5], not [2, 4, 3, 5]"),
    "type": (IMAGES, np.ones((2, 4, 3, 5), np.float16), "is of float16, not of float32"),
    "weight": (WEIGHT, np.ones((8, 4, 3, 3), np.float32), "(weight) is of shape [8, 4, 3, 3], not [8, 4, 1, 1]"),
    "output": (FEATURES, np.ones((2, 8, 3, 4), np.float32), "(features) is of shape [2, 8, 3, 4], not [2, 8, 3, 5]"),
    "plan's length": (0, np.array([0, 0, 2, 0, 1, 1, -1, 4, 8, 0], np.int32),
                      "10 numbers, which are not those of 2 layers"),
    "stride": (0, np.array([0, 0, 1, 0, 2, 1, -1, 4, 8, 0], np.int32), "layer 0 of the plan has the stride 2"),
    "no channels": (0, np.array([0, 0, 1, 0, 1, 1, -1, 4, 0, 0], np.int32), "layer 0 of the plan has 0 channels"),
    "shortcut": (0, np.array([0, 0, 1, 0, 1, 1, 1, 4, 8, 0], np.int32), "layer 0 of the plan has the shortcut 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_told_in_one_line(name: str, library: ctypes.CDLL, capfd: pytest.CaptureFixture) -> None:
    arguments = evaluation_arguments()
    assert call(library.backbone_infer, arguments) == 0
    place, wrong, message = WRONG[name]
    arguments[place] = wrong
    features = arguments[FEATURES].copy()
    assert call(library.backbone_infer, arguments) != 0
    np.testing.assert_array_equal(arguments[FEATURES], features)
    line = capfd.readouterr().err
    assert line.startswith("CPU kernels: backbone_infer: ")
    assert line.count("\n") == 1
    assert message in line


def test_a_number_of_no_dimension_is_one(library: ctypes.CDLL) -> None:
    mean, value, done = np.zeros(3, np.float32), np.ones(3, np.float32), np.zeros((), np.float32)
    assert call(library.ema_update, [np.array(0.25, np.float32), mean, value, done]) == 0
    assert mean.tolist() == [0.25] * 3
    assert call(library.ema_update, [np.ones(2, np.float32), mean, value, done]) != 0


def test_functions_for_ctypes_refuse_what_cannot_be(library: ctypes.CDLL, capfd: pytest.CaptureFixture) -> None:
    plan, out = np.array([0, 0, 1, 0, 1, 1, -1, 4, 8, 0], np.int32), (ctypes.c_int64 * 4)()
    address = ctypes.c_void_p(plan.ctypes.data)
    calls: list[tuple[Callable[..., int], tuple]] = [
        (library.backbone_shapes, (address, *map(ctypes.c_int64, (9, 2, 3, 5)), out)),
        (library.backbone_shapes, (address, *map(ctypes.c_int64, (10, 2, -1, 5)), out)),
        (library.shm_all_reduce_file, (ctypes.c_int64(1), ctypes.c_int64(10))),
        (library.shm_all_reduce_join, (-1, *map(ctypes.c_int64, (0, 2, 10)))),
        (library.use_threads, (0,)),
    ]
    for function, arguments in calls:
        assert function(*arguments) != 0
        line = capfd.readouterr().err
        assert line.startswith("CPU kernels: ")
        assert line.count("\n") == 1
    assert library.backbone_shapes(address, *map(ctypes.c_int64, (10, 2, 3, 5)), out) == 0
    assert list(out)[:3] == [8, 3, 5]


def test_a_cell_refuses_images_of_other_channels() -> None:
    cell = ConvBN(4, 8)
    accelerate(cell, "on")
    with pytest.raises(RuntimeError):
        cell(Tensor(np.ones((2, 5, 3, 3), np.float32)))
    assert cell(Tensor(np.ones((2, 4, 3, 3), np.float32))).shape == (2, 8, 3, 3)
