"""Compares an eight-bit network with the float one that it was made of: classes, logits, size and speed."""
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.dataset import IGNORE_INDEX
from src.deployment.runtime import ExportedNetwork
from src.reports.provenance import processor_name

TIMED_BATCHES = 5  # the fastest counts: others share the machine


@dataclass(frozen=True)
class Comparison:
    """Of two networks on the same images. The networks are in the order float, int8."""

    images: int
    labelled: int  # images with a label
    top1: tuple[float, float]  # share of these with the right class
    agreement: float  # share of all images with the same most likely class
    difference: float  # root mean square, of the logits
    spread: float  # standard deviation of the float logits


def compare(networks: tuple[ExportedNetwork, ExportedNetwork],
            batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Comparison:
    """Run both networks on batches of N x 3 x H x W images and N labels, `IGNORE_INDEX` where there is none."""
    logits: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    labels = []
    for images, batch_labels in batches:
        labels.append(batch_labels)
        for network, found in zip(networks, logits, strict=True):
            found.append(network.logits(images))
    known = np.concatenate(labels)
    floats, integers = map(np.concatenate, logits)
    classes = floats.argmax(axis=1), integers.argmax(axis=1)
    has_label = known != IGNORE_INDEX
    first, second = (float((found == known)[has_label].mean()) if has_label.any() else 0.0 for found in classes)
    return Comparison(len(known), int(has_label.sum()), (first, second), float((classes[0] == classes[1]).mean()),
                      float(np.sqrt(np.square(integers - floats).mean())), float(floats.std()))


def images_per_second(network: ExportedNetwork, images: np.ndarray) -> float:
    """The speed of a network on a batch of the size that suits it, by the fastest of a few runs after a first one."""
    batch = images[np.arange(max(1, network.best_batch_size)) % len(images)]
    network.logits(batch)
    times = []
    for _ in range(TIMED_BATCHES):
        start = time.perf_counter()
        network.logits(batch)
        times.append(time.perf_counter() - start)
    return len(batch) / min(times)


def describe_comparison(comparison: Comparison, networks: tuple[ExportedNetwork, ExportedNetwork],
                        paths: tuple[Path, Path], images: np.ndarray, where: str, threads: int) -> str:
    """A table of both networks.

    Args:
        comparison: of both.
        networks: float and int8.
        paths: their files.
        images: N x 3 x H x W, to time them on.
        where: the images of the comparison are from.
        threads: that the networks compute with.
    """
    top1 = [f"{value:.2%}" for value in comparison.top1]
    sizes = [f"{path.stat().st_size / 1e6:.1f} MB" for path in paths]
    speeds = [f"{images_per_second(network, images):.0f}/s" for network in networks]
    rows = [["", "float", "int8", ""],
            ["top-1", *top1, f"{comparison.labelled} images of {where}"],
            ["size", *sizes, ""],
            ["speed", *speeds, f"batches of {max(1, networks[0].best_batch_size)}, {threads} "
                               f"thread{'s' if threads > 1 else ''}, {processor_name()}"]]
    table = [f"{name:<6} {first:>10} {second:>10}  {note}".rstrip() for name, first, second, note in rows
             if name != "top-1" or comparison.labelled]
    agreement = (f"same class for {comparison.agreement:.2%} of {comparison.images} images; the logits differ by "
                 f"{comparison.difference:.3g} (root mean square), and spread over {comparison.spread:.3g}")
    return "\n".join([*table, agreement])
