"""What test_distributed.py runs as each of two ranks under msrun, and alone for comparison.

    rank_program.py FOLDER IMAGES

Writes what it found to FOLDER/rank<i>.npz, or FOLDER/alone.npz.
"""
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if hasattr(os, "memfd_create"):  # which some builds of Python lack: conda-forge's, uv's
    del os.memfd_create

import mindspore as ms  # noqa: E402
from mindspore import Parameter, Tensor, nn, ops  # noqa: E402

from src.cpu_kernels import accelerate, rank_sum  # noqa: E402
from src.data import near_duplicates, shared_work  # noqa: E402
from src.data.image_folder import ImageFolder  # noqa: E402
from src.data.split import hold_out  # noqa: E402
from src.dataset import FeatureData, ImageData  # noqa: E402
from src.distributed.collectives import all_reduce, average_parameters, broadcast_parameters, sum_counts  # noqa: E402
from src.distributed.device import setup_device  # noqa: E402
from src.distributed.world import World  # noqa: E402
from src.evaluation import evaluate  # noqa: E402
from src.mobilenetV2 import BN_EPS, SYMMETRIC, ConvBN, InvertedResidual, MobileNetV2Head  # noqa: E402
from src.model_utils.config import Config, get_config  # noqa: E402
from src.models import EMA_PREFIX, CrossEntropyWithLabelSmooth  # noqa: E402
from src.training.features import pooled_features  # noqa: E402
from src.training.optimizer import build_optimizer  # noqa: E402
from src.training.step import TrainStep, batch_norm_statistics  # noqa: E402

CLASSES, BATCH, STEPS = 4, 8, 3
Findings = dict[str, np.ndarray]
KEPT: list = []  # MindSpore takes a new cell for an old one that was at the same address


class SmallBackbone(nn.Cell):
    """The parts of a MobileNetV2, few of them: compiling takes the time here."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.padding, self.bn_eps = SYMMETRIC, BN_EPS
        self.stem, self.block = ConvBN(3, 8, kernel_size=3, stride=2), InvertedResidual(8, 8, 1, expand_ratio=2)

    def construct(self, images: Tensor) -> Tensor:
        return self.block(self.stem(images))


class SmallNetwork(nn.Cell):
    """As MobileNetV2, with a small backbone."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone, self.head = SmallBackbone(), MobileNetV2Head(8, classes, dropout=0.0)

    def construct(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def joint_batch(step: int, config: Config, world: World) -> tuple[Tensor, Tensor]:
    """This rank's part of the batch that all ranks work on together."""
    generator = np.random.default_rng(step)
    images = generator.standard_normal((BATCH, 3, config.image_size, config.image_size)).astype(np.float32)
    labels = generator.integers(0, CLASSES, BATCH).astype(np.int32)
    return Tensor(images[world.rank::world.rank_size]), Tensor(labels[world.rank::world.rank_size])


def train(config: Config, world: World, name: str) -> Findings:
    """A few steps and, under the name "plain", one that overflows on the last rank; parameters by name.

    Only those under the name "norm" have batch norm with the statistics of the batch.
    """
    with_batch_norm = name == "norm"
    ms.set_seed(1)
    network, ema = SmallNetwork(CLASSES), SmallNetwork(CLASSES)
    if with_batch_norm:  # the kernels have no mode without
        accelerate(network, config.cpu_kernels)
    ema.update_parameters_name(EMA_PREFIX)
    for parameter in network.trainable_params():
        parameter.set_data(parameter + world.rank)  # which the broadcast must undo
    optimizer = build_optimizer(network, np.full(STEPS + 1, 0.01, np.float32), config)
    step = TrainStep(network, CrossEntropyWithLabelSmooth(0.1), optimizer, config, ema, world)
    KEPT.append(step)
    step.set_train()
    if not with_batch_norm:
        for _, cell in network.cells_and_names():
            if isinstance(cell, nn.BatchNorm2d):
                cell.set_train(False)
    broadcast_parameters(step.get_parameters(), world)
    losses = []
    for number in range(STEPS):
        images, labels = joint_batch(number, config, world)
        (loss, applied), = step.over(zip(images.chunk(config.grad_accum_steps), labels.chunk(config.grad_accum_steps),
                                         strict=True))
        assert applied.asnumpy()
        losses.append(float(loss.asnumpy()))
    found = {f"{name}.losses": np.array(losses)}
    if name == "plain":
        images, labels = joint_batch(STEPS, config, world)
        if world.rank == world.rank_size - 1:
            images = images * float("inf")
        found["overflow.applied"] = step(images, labels)[1].asnumpy()
    found |= {f"{name}.own.{p.name}": p.asnumpy().copy() for p in batch_norm_statistics(step)}
    average_parameters(batch_norm_statistics(step), world)
    return found | {f"{name}.{p.name}": p.asnumpy() for p in step.get_parameters() if p.name != "learning_rate"}


def verdicts(config: Config, world: World) -> Findings:
    """A step whose gradients the last rank alone takes for not finite, as a card does that saturates."""
    head = MobileNetV2Head(8, CLASSES, dropout=0.0)
    optimizer = build_optimizer(head, np.full(1, 0.01, np.float32), config)
    step = TrainStep(head, CrossEntropyWithLabelSmooth(0.1), optimizer, config, world=world)
    KEPT.append(step)
    step.all_finite = Verdict(world.rank < world.rank_size - 1)
    before = head.classifier.weight.asnumpy().copy()
    applied = step(Tensor(np.ones((2, 8, 1, 1), np.float32)), Tensor(np.zeros(2, np.int32)))[1].asnumpy()
    return {"verdict.applied": applied, "verdict.changed": (head.classifier.weight.asnumpy() != before).any()}


class Verdict(nn.Cell):
    """Stands for `amp.all_finite` on a card, whose register says whether there was an overflow."""

    def __init__(self, finite: bool) -> None:
        super().__init__()
        self.finite = Parameter(Tensor(finite), requires_grad=False)

    def construct(self, gradients: tuple) -> Tensor:
        return ops.depend(self.finite, gradients)


def sums(world: World, library_of: nn.Cell) -> Findings:
    """Sums over the ranks of arrays of several sizes, and what did them."""
    parameters = [Parameter(Tensor(np.zeros(shape, np.float32))) for shape in ((3, 5), (70001,))]
    sum_arrays = rank_sum(library_of, parameters, world)
    given = [array_of(world.rank, parameter.shape) for parameter in (*parameters, np.zeros(1))]
    KEPT.append(InGraph(sum_arrays))
    for _ in range(3):  # more often than there are sets of slots
        found = KEPT[-1](*map(Tensor, given))
    name = type(sum_arrays).__name__
    return {"sums.by": np.array(name)} | {f"sums.{i}": array.asnumpy() for i, array in enumerate(found)}


def array_of(rank: int, shape: tuple) -> np.ndarray:
    """What a rank brings to `sums`."""
    return np.random.default_rng(rank).standard_normal(shape).astype(np.float32)


class InGraph(nn.Cell):
    """Runs what takes a tuple as a graph."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def construct(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        return self.function(arrays)


def held_out(images: Path, world: World) -> Findings:
    """The images that are held out, and how many of all images this rank has looked at."""
    looked_at: list[Path] = []

    def look(path: Path) -> str:
        looked_at.append(path)
        return real_look(path)

    real_look, near_duplicates._look = near_duplicates._look, look  # noqa: SLF001
    shared_work.PORTION = 1
    _, val = hold_out(ImageFolder.scan(images), 0.4, 1, world)
    return {"held_out": np.array(val.files), "held_out.own.looked_at": np.array(len(looked_at))}


def main(folder: Path, images: Path) -> None:
    """Try everything that ranks do together."""
    alone = "MS_ROLE" not in os.environ
    config = get_config(["--platform", "CPU", "--distribute", str(not alone), "--image_size", "32",
                         "--ema_decay", "0.5"])
    world = setup_device(config)
    counts = np.array([0, 5, 2 ** 24 + 1, 2 ** 40 + world.rank], np.int64)
    found = {"counts": sum_counts(counts, world), "floats": all_reduce(np.array([0.5 + world.rank]), world)}
    found |= train(config, world, "plain") | train(config.replace({"optimizer": "adamw"}), world, "norm")
    found |= train(config.replace({"grad_accum_steps": 1 if alone else 2}), world, "accumulated")

    if not alone:
        found |= verdicts(config, world)
        accelerated = SmallNetwork(2)
        accelerate(accelerated, config.cpu_kernels)
        found |= sums(world, accelerated)
    ms.set_seed(1)
    network = SmallNetwork(2)
    # Of its own: the features of the ranks are not to be found by the process alone.
    os.environ["MOBILENETV2_CACHE"] = str(folder / ("cache-alone" if alone else "cache"))
    found |= held_out(images / "five", world)
    for name in "five", "one":
        image_folder = ImageFolder.scan(images / name)
        data = ImageData(image_folder, 32, 2, training=False, rank=world.rank, rank_size=world.rank_size)
        result = evaluate(network, data, world)
        found |= {f"{name}.score": np.array([result.correct1, result.correct5, result.images]),
                  f"{name}.loss": np.array(result.loss), f"{name}.confusion": result.confusion,
                  f"{name}.mistakes": np.sort(result.mistakes, order="position")}
        for again in "", ".cached":
            found[f"{name}.features{again}"] = pooled_features(network.backbone, image_folder, 32, 2, 1, world)
        shard = FeatureData(found[f"{name}.features"], image_folder.labels, 2, training=False, rank=world.rank,
                            rank_size=world.rank_size)
        result = evaluate(network.head, shard, world)
        found[f"{name}.head"] = np.array([result.correct1, result.correct5, result.images])
    np.savez(folder / ("alone.npz" if alone else f"rank{world.rank}.npz"), **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
