"""What the scripts of all frameworks do alike: take the order, prove that the work is the same, measure, report.

This module runs in the frameworks' own environments, so it needs numpy alone.
"""
import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from tools.stopwatch import speed

MODES = ("train", "eval", "latency")
SETTINGS, IMAGES, LABELS, LOGITS, PARAMETERS, ONNX = (
    "settings.json", "images.npy", "labels.npy", "logits.npy", "parameters.npz", "network.onnx")
PROVEN_IMAGES = 4  # evaluation treats every image alike
# Largest difference from this project, as a share of the largest logit: rounding. The logits of two images differ by
# a hundred times as much.
LOGITS_TOLERANCE = 1e-4
# Largest differences of the losses before and after the first update, as shares of them. A fresh network multiplies
# rounding errors from step to step (docs/cpu_kernels.md).
LOSS_TOLERANCES = (1e-4, 1e-2)


@dataclass(frozen=True)
class Work:
    """What to measure.

    Attributes:
        folder: what prepare.py wrote.
        mode: `train`, a training step; `eval`, a batch from the framework's own kind of tensor to logits in memory;
            `latency`, the same from and to numpy arrays.
        batch_size: images of a step.
        threads: that the framework may use.
        steps: that count, at least.
        seconds: that short steps are repeated for.
    """

    folder: Path
    mode: str
    batch_size: int
    threads: int
    steps: int
    seconds: float

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Work":
        """The part of the command line that all scripts have."""
        return cls(*(getattr(options, name) for name in cls.__dataclass_fields__))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Numbers of the training: label_smooth, learning_rate, momentum, weight_decay; losses by batch size."""
        return json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))

    @cached_property
    def images(self) -> np.ndarray:
        """N x 3 x H x W float32."""
        return np.load(self.folder / IMAGES)[:self.batch_size]

    @cached_property
    def labels(self) -> np.ndarray:
        """N int32."""
        return np.load(self.folder / LABELS)[:self.batch_size]

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """The network's, by this project's names."""
        with np.load(self.folder / PARAMETERS) as file:
            return dict(file)

    @property
    def onnx(self) -> Path:
        """The network as export.py wrote it."""
        return self.folder / ONNX

    def compare_logits(self, logits: np.ndarray) -> float:
        """How far N x C logits are from this project's, as a share of the largest.

        Raises:
            UserError: too far to be the same work.
        """
        expected = np.load(self.folder / LOGITS)[:self.batch_size]
        difference = float(np.abs(logits[:len(expected)] - expected).max() / np.abs(expected).max())
        if not difference <= LOGITS_TOLERANCE:
            raise UserError(f"not the same work: its logits differ from this project's by {difference:.2g} of the "
                            f"largest; {LOGITS_TOLERANCE:.0e} is rounding")
        return difference

    def compare_losses(self, losses: Sequence[float]) -> float:
        """How far the losses before and after the first update are from this project's, as shares of them.

        Raises:
            UserError: too far to be the same work.
        """
        expected = np.array(self.settings["losses"][str(self.batch_size)])
        differences = np.abs(np.array(losses) - expected) / expected
        if not (differences <= LOSS_TOLERANCES).all():
            raise UserError(f"not the same work: its first losses are {losses[0]:.5f} and {losses[1]:.5f}, this "
                            f"project's {expected[0]:.5f} and {expected[1]:.5f}")
        return float(differences.max())

    def report(self, run: Callable[[], object], packages: Sequence[str], details: str = "",
               difference: float | None = None, batches: int = 1) -> None:
        """Measure, and print one line of JSON: what `compare_frameworks.py` reads.

        Args:
            run: a step.
            packages: whose versions matter.
            details: what else there is to tell of the framework.
            difference: what a comparison gave.
            batches: that one call of `run` is over.
        """
        images_per_second = speed(run, batches * self.batch_size, self.steps, self.seconds)
        versions: Mapping[str, str] = {name: version(name) for name in packages}
        print(json.dumps({"images_per_second": images_per_second, "versions": versions, "details": details,
                          "difference": difference}))


def work_options(description: str | None) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, required=True, help="what prepare.py wrote")
    parser.add_argument("--mode", choices=MODES, required=True, help="what to measure")
    parser.add_argument("--batch_size", type=int, required=True, help="images of a step")
    parser.add_argument("--threads", type=int, required=True, help="that the framework may use")
    parser.add_argument("--steps", type=int, required=True, help="that count, at least")
    parser.add_argument("--seconds", type=float, required=True, help="that short steps are repeated for")
    return parser
