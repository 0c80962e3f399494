"""Measures how fast this machine trains, evaluates, reads images, and reaches the first step.

    python tools/benchmark.py --batch_size 32 --image_size 224 --steps 8 [--mode train|eval|data|startup]
    python tools/benchmark.py --cpu_kernels off --steps 2
    python tools/benchmark.py --mode infer --model mobilenetv2.onnx --steps 50
    python tools/benchmark.py --mode mindrecord --steps 20

Without --mode the first four are measured. Speeds are the median of single steps, after two steps of warm-up, on a
random batch. `data` decodes and augments JPEG images of 500x375 pixels. `startup` runs train.py on them up to the log
line of its first step. `infer` runs an ONNX file in two ways: infer.py's loop from image file to logits, and ONNX
Runtime alone on a batch in memory; medians of `ROUNDS` turns each. `mindrecord` decodes and augments images from a
MindRecord file, and compares the speed with the same images in a folder. Peak memory is that of training. The last line
is a JSON object; a value that was not measured is null. Compare figures only within one run on one machine.
"""
import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mindspore.dataset as ds
import numpy as np
from mindspore import Tensor
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.cpu_kernels.threads import thread_count
from src.data.formats.mindrecord_writer import pack_mindrecord
from src.data.framing import Framing
from src.data.image_folder import ImageFolder
from src.data.transforms import train_transforms
from src.dataset import ImageData, usable_workers
from src.deployment.model_file import open_model
from src.deployment.prediction import ImageStream, decoding_workers, list_images
from src.distributed.device import setup_device
from src.errors import UserError, run_command
from src.mobilenetV2 import MobileNetV2, MobileNetV2Backbone
from src.model_utils.config import Config, get_config
from src.models import CrossEntropyWithLabelSmooth, define_net
from src.training.optimizer import build_optimizer
from src.training.step import TrainStep
from tools.stopwatch import MOST_STEPS, WARM_UP, speed

ROOT = Path(__file__).resolve().parents[1]
MODES = ("train", "eval", "data", "startup")  # that need no model
ROUNDS = 5
CLASSES = 1000


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=positive, default=32, help="images a step (default 32)")
    parser.add_argument("--image_size", type=positive, default=224, help="pixels a side (default 224)")
    parser.add_argument("--steps", type=positive, default=8, help="steps that count (default 8)")
    parser.add_argument("--mode", choices=(*MODES, "infer", "mindrecord"), help="measure only this")
    parser.add_argument("--model", default="", help="infer: the ONNX file")
    parser.add_argument("--cpu_kernels", choices=("auto", "on", "off"), default="auto", help="as of train.py")
    options = parser.parse_args(argv)
    modes = (options.mode,) if options.mode else MODES
    if options.mode == "infer":
        print(json.dumps(measure_inference(options.model, options.steps)))
    elif options.mode == "mindrecord":
        print(json.dumps(measure_mindrecord(options.batch_size, options.image_size, options.steps)))
    else:
        print(json.dumps(measure(modes, options.batch_size, options.image_size, options.steps, options.cpu_kernels)))


def positive(text: str) -> int:
    """A whole number above 0 from the command line."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def measure(modes: Sequence[str], batch_size: int, image_size: int, steps: int, cpu_kernels: str) -> dict[str, object]:
    """The report that `main` prints; `modes` are some of `MODES`."""
    config = get_config(["--platform", "CPU", "--batch_size", str(batch_size), "--image_size", str(image_size),
                         "--cpu_kernels", cpu_kernels])
    setup_device(config)
    network = define_net(config, CLASSES)
    report: dict[str, object] = {
        "batch_size": batch_size, "image_size": image_size, "train_images_per_s": None, "eval_images_per_s": None,
        "data_images_per_s": None, "startup_s": None, "peak_memory_mb": None,
        "cpu_kernels": "off" if type(network.backbone) is MobileNetV2Backbone else "on",
        "threads": thread_count(),
    }
    random = np.random.default_rng(0)
    images = Tensor(random.standard_normal((batch_size, 3, image_size, image_size)).astype(np.float32))
    labels = Tensor(random.integers(0, CLASSES, batch_size).astype(np.int32))

    if "train" in modes:
        report["train_images_per_s"] = speed(training(network, config, images, labels, steps), batch_size, steps)
        report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if "eval" in modes:
        network.set_train(False)
        report["eval_images_per_s"] = speed(lambda: network(images).asnumpy(), batch_size, steps)
    if "data" in modes or "startup" in modes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "pictures"
            # As many classes as train.py needs, and one full batch for each step.
            write_images(root, batch_size * (WARM_UP + steps if "data" in modes else 1))
            if "data" in modes:
                report["data_images_per_s"] = data_speed(root, config, steps)
            if "startup" in modes:
                report["startup_s"] = startup_seconds(root, config)
    return report


def training(network: MobileNetV2, config: Config, images: Tensor, labels: Tensor, most_steps: int = MOST_STEPS,
             ) -> Callable[[], float]:
    """train.py's step, always on the same batch, for up to `most_steps` calls after the warm-up; returns the loss."""
    lr = np.full(WARM_UP + most_steps, config.lr_max, np.float32)
    step = TrainStep(network, CrossEntropyWithLabelSmooth(config.label_smooth), build_optimizer(network, lr, config),
                     config)
    step.set_train()

    def run() -> float:
        loss, _ = step(images, labels)
        return float(loss.asnumpy())
    return run


def write_images(root: Path, count: int) -> None:
    """`count` JPEG images of two classes, smooth with some noise, so that they compress as photos do."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        colours = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        smooth = colours.resize((500, 375), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth, np.float32) + random.normal(0, 8, (375, 500, 3))
        path = root / "ab"[number % 2] / f"{number:05d}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def data_speed(root: Path, config: Config, steps: int) -> float:
    """Images per second that are decoded and augmented for training, nothing else running."""
    data = ImageData(ImageFolder.scan(root), config.image_size, config.batch_size, training=True,
                     num_workers=config.num_workers)
    batches: Iterator = data.epoch(0)
    return speed(lambda: next(batches), config.batch_size, steps)


def startup_seconds(root: Path, config: Config) -> float:
    """Seconds from the start of train.py to the log line of its first step. The kernels are built before."""
    with tempfile.TemporaryDirectory() as folder:
        command: list[str | Path] = [
            sys.executable, "-u", ROOT / "train.py", "--platform", "CPU", "--dataset_path", root,
            "--batch_size", str(config.batch_size), "--image_size", str(config.image_size), "--epoch_size", "1",
            "--log_steps", "1", "--run_eval", "False", "--cpu_kernels", config.cpu_kernels,
            "--save_checkpoint_path", Path(folder) / "checkpoint"]
        start = time.perf_counter()
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,  # noqa: S603
                              text=True) as process:
            printed = []
            for line in process.stdout or ():
                printed.append(line)
                if re.search(r"step:\[", line):
                    seconds = time.perf_counter() - start
                    process.communicate()
                    return round(seconds, 2)
    raise UserError(f"train.py came to no step; it said: {''.join(printed[-1:]).strip()}")


def measure_inference(model_path: str, steps: int) -> dict[str, float]:
    """Images per second of infer.py's loop over `steps` batches of files, and of ONNX Runtime alone."""
    threads = thread_count()
    model = open_model(get_config(["--platform", "CPU", "--pretrain_ckpt", model_path, "--onnx_threads", str(threads)]))
    size, batch_size = model.config.image_size, model.config.batch_size
    predict = model.predictor(batch_size)
    workers = decoding_workers(model.config.num_workers, threads)
    images = np.random.default_rng(0).standard_normal((batch_size, 3, size, size)).astype(np.float32)
    seconds: dict[str, list[float]] = {"onnx_images_per_s": [], "infer_images_per_s": []}
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), steps * batch_size)
        paths = list_images(folder)
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for _ in range(steps):
                predict(images)
            seconds["onnx_images_per_s"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for _, batch in ImageStream(paths, size, batch_size, workers, model.normalisation,
                                        Framing.of(model.config)):
                predict(batch)
            seconds["infer_images_per_s"].append(time.perf_counter() - start)
    return {"batch_size": batch_size, "image_size": size, "threads": threads,
            **{name: round(steps * batch_size / statistics.median(values), 2) for name, values in seconds.items()}}


def measure_mindrecord(batch_size: int, image_size: int, steps: int) -> dict[str, object]:
    """The speed of decoding and augmenting from a MindRecord file, relative to image files; medians of turns.

    `cpu_ratio` compares processor time, which other programs on the machine disturb less.
    """
    config = get_config(["--platform", "CPU", "--batch_size", str(batch_size), "--image_size", str(image_size)])
    workers = usable_workers(config.num_workers)
    with tempfile.TemporaryDirectory() as folder_name:
        root, packed = Path(folder_name) / "pictures", Path(folder_name) / "mindrecord"
        write_images(root, batch_size * (WARM_UP + steps))
        folder = ImageFolder.scan(root)
        pack_mindrecord({"train": folder}, packed)

        def from_files() -> Iterator:
            return ImageData(folder, image_size, batch_size, training=True, num_workers=config.num_workers).epoch()

        def from_records() -> Iterator:
            records = ds.MindDataset(str(packed / "pictures.mindrecord"), ["data", "label"], workers, shuffle=True)
            records = records.map(train_transforms(image_size), "data", num_parallel_workers=workers)
            return iter(records.batch(batch_size).create_tuple_iterator(num_epochs=1, do_copy=False))

        ratios = []
        for turn in range(ROUNDS):
            sources = [from_files, from_records]
            seconds = {source: epoch_seconds(source()) for source in (sources if turn % 2 else sources[::-1])}
            ratios.append(np.divide(seconds[from_files], seconds[from_records]))
    wall, cpu = np.median(ratios, axis=0).round(3).tolist()
    return {"batch_size": batch_size, "image_size": image_size, "ratio": wall, "cpu_ratio": cpu,
            "ratios": np.round(ratios, 3).tolist()}


def epoch_seconds(batches: Iterator) -> tuple[float, float]:
    """Seconds of an epoch after its first batches: by the clock, and of processor time."""
    for _ in range(WARM_UP):
        next(batches)
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in batches:
        pass
    return time.perf_counter() - start, time.process_time() - cpu_start


if __name__ == "__main__":
    run_command(main)
