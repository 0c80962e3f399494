"""Measures what a large set of images costs: starts of a run, the gap between epochs, and resuming within one.

    python tools/benchmark_feed.py --images 100000 [--batch_size 32] [--image_size 224] [--step_seconds 0.2]

The set is hard links of a few JPEG images of 500x375 pixels in a temporary folder. `first` and `second` are starts in a
process of their own, without and with what is remembered: processor seconds to list, check and hash the files and to
the first batch, and bytes of memory that an image adds. `epochs` is on 20 batches of them: the longest wait for the
first batch of an epoch and the median of the others, in seconds by the clock, with a pause of `--step_seconds` for
each step. `resume` is the processor time of an image that is skipped, and of one that is read, in seconds. The last
line is a JSON object. Compare figures only within one run on one machine.
"""
import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.data.image_check import check_images
from src.data.image_folder import ImageFolder
from src.data.sources import train_source
from src.dataset import ImageData
from src.errors import run_command
from src.model_utils.config import get_config
from tools.benchmark import positive, write_images

T = TypeVar("T")

DIFFERENT = 20  # images; all files are links to them
CLASSES = 100
BATCHES = 20  # of an epoch
EPOCHS = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive, default=2000, help="files in the set (default 2000)")
    parser.add_argument("--batch_size", type=positive, default=32, help="images a step (default 32)")
    parser.add_argument("--image_size", type=positive, default=224, help="pixels a side (default 224)")
    parser.add_argument("--step_seconds", type=float, default=0.2, help="pause for each step (default 0.2)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = link_images(Path(folder), options.images)
        starts = {}
        for name in ("first", "second"):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                starts[name] = process.submit(measure_start, root, options.batch_size, options.image_size,
                                              Path(folder) / "cache").result()
        images = ImageFolder.scan(root)
        few = images.select(np.linspace(0, len(images) - 1, BATCHES * options.batch_size).astype(int))
        print(json.dumps({"images": options.images, **starts,
                          "epochs": measure_epochs(few, options.batch_size, options.image_size, options.step_seconds),
                          "resume": measure_resume(few, options.batch_size, options.image_size)}))


def link_images(folder: Path, count: int) -> Path:
    """Make a folder of `count` links to a few images, in `CLASSES` classes; returns its path."""
    write_images(folder / "originals", DIFFERENT)
    originals = sorted((folder / "originals").rglob("*.jpg"))
    root = folder / "pictures"
    for number in range(count):
        target = root / f"n{number % CLASSES:08d}" / f"n{number % CLASSES:08d}_{number:07d}.JPEG"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(originals[number % DIFFERENT])
    return root


def measure_start(root: Path, batch_size: int, image_size: int, cache: Path) -> dict[str, float]:
    """Processor seconds of each part of a start in this process, and the memory that an image adds to it."""
    os.environ["MOBILENETV2_CACHE"] = str(cache)
    config = get_config(["--platform", "CPU", "--image_size", str(image_size)])
    memory = resident_memory()
    folder, listing = timed(lambda: train_source(str(root)).scan())
    folder, check = timed(lambda: check_images(folder, config, training=True))
    _, digest = timed(folder.digest)
    memory = resident_memory() - memory
    data = ImageData(folder, image_size, batch_size, training=True, num_workers=config.num_workers)
    _, batch = timed(lambda: next(data.epoch(0)))
    return {"list_s": listing, "check_s": check, "hash_s": digest, "first_batch_s": batch,
            "bytes_per_image": round(memory / len(folder))}


def measure_epochs(folder: ImageFolder, batch_size: int, image_size: int, step_seconds: float) -> dict[str, float]:
    """Seconds by the clock that a training waits for the first batch of an epoch after the first, and for others."""
    data = ImageData(folder, image_size, batch_size, training=True, num_workers=2, epochs=EPOCHS)
    waits = []
    for epoch in range(EPOCHS):
        begin = time.perf_counter()
        for _ in data.epoch(epoch):
            waits.append(time.perf_counter() - begin)
            time.sleep(step_seconds)
            begin = time.perf_counter()
    firsts = waits[BATCHES::BATCHES]
    others = [wait for number, wait in enumerate(waits) if number % BATCHES]
    return {"longest_wait_for_first_s": round(max(firsts), 3), "median_wait_for_other_s":
            round(statistics.median(others), 3), "longest_wait_for_other_s": round(max(others), 3)}


def measure_resume(folder: ImageFolder, batch_size: int, image_size: int) -> dict[str, float]:
    """Processor seconds of an image that a resumed epoch skips, and of one that it reads."""
    data = ImageData(folder, image_size, batch_size, training=True, num_workers=2)
    _, whole = timed(lambda: list(data.epoch(0)))
    _, last = timed(lambda: list(data.epoch(0, BATCHES - 1)))
    read = whole / (BATCHES * batch_size)
    return {"read_s": round(read, 6), "skipped_s": round((last / batch_size - read) / (BATCHES - 1), 6)}


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and its processor seconds."""
    begin = time.process_time()
    result = work()
    return result, round(time.process_time() - begin, 3)


def resident_memory() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    run_command(main)
