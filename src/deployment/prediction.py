"""Classifies images without labels: lists them, reads them in batches, and writes the predictions."""
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspore.dataset as ds
import numpy as np
from mindspore.dataset.core.config import ErrorSamplesMode
from PIL import Image

from src.confidence import Confidence
from src.data.check_memory import Finding
from src.data.framing import Framing
from src.data.image_cache import copies_folder, encoded_image, longest_shorter_side
from src.data.image_check import check_file, list_left_out
from src.data.image_folder import images_below
from src.data.images import is_image
from src.data.transforms import CENTRE, eval_transforms
from src.dataset import usable_workers
from src.errors import UserError
from src.files import atomic_write, read_names
from src.log import logger
from src.names import escape_name, unescape_name
from src.normalisation import IMAGENET_PIXELS, Normalisation

CANNOT_BE_DECODED = "cannot be decoded"


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, or why there are none."""

    path: Path
    classes: tuple[str, ...] = ()  # likeliest first
    probabilities: tuple[float, ...] = ()
    fault: str = ""
    index: int = 0  # of the likeliest class
    unsure: bool | None = None  # None: no threshold is known


def list_images(source: str) -> list[Path]:
    """List images: `source` is an image, a folder (searched with its subfolders), or a text file with a path a line.

    Paths in a text file are relative to that file, and may have escapes (src/names.py). Hidden files are ignored.

    Raises:
        UserError: `source` does not exist or has no image.
    """
    if not source:
        raise UserError("no images named: give --images with an image, a folder, or a text file that lists some")
    root = Path(source)
    if root.is_dir():
        names, left_out = images_below(root)
        for line in list_left_out(left_out):
            logger.info(f"{root}: {line}")
        if not names:
            raise UserError(f"{root}: no images here")
        return sorted(root / name for name in names)
    if not root.is_file():
        raise UserError(f"{root}: no such image, folder or list")
    if is_image(root):
        return [root]
    try:
        lines = read_names(root)
    except UserError:
        raise UserError(f"{root}: neither an image nor a text file that lists images") from None
    listed = [root.parent / unescape_name(line.strip()) for line in lines if line.strip()]
    if not listed:
        raise UserError(f"{root}: this list names no image")
    return listed


def decoding_workers(num_workers: int, computing_threads: int) -> int:
    """`num_workers`, limited to the cores that the computing threads leave free (0 threads: no limit); at least 1."""
    cores = usable_workers(num_workers + computing_threads)
    return max(1, cores - computing_threads) if computing_threads else num_workers


def prepare_image(path: Path, image_size: int, normalisation: Normalisation | None, copies: Path,
                  framing: Framing = CENTRE) -> np.ndarray:
    """The input of the network for one image, 3 x size x size float32: the same bits that `ImageStream` gives.

    Args:
        path: of the image.
        image_size: in pixels.
        normalisation: None if the graph normalises.
        copies: a folder for the copy of an image that MindSpore does not read right.
        framing: with one view of an image.

    Raises:
        UserError: the image cannot be read; or its copy cannot be written.
    """
    finding = check_file(path, copies, longest_shorter_side(image_size))
    if finding.fault:
        raise UserError(finding.fault)
    image = encoded_image(path, finding.copy)
    try:
        for operation in eval_transforms(image_size, normalisation, framing):
            image = operation(image)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(CANNOT_BE_DECODED) from error
    return image


@dataclass
class ImageStream:
    """Images in batches. Threads read and decode them in advance while the caller computes.

    An image that cannot be read is left out, and `faults` has the reason by its position. `findings` has what the check
    found about all images that were read.
    """

    paths: Sequence[Path]
    image_size: int
    batch_size: int
    num_workers: int
    normalisation: Normalisation | None = IMAGENET_PIXELS
    framing: Framing = CENTRE
    faults: dict[int, str] = field(default_factory=dict)
    findings: dict[int, Finding] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield positions in `paths` (n) and images (n x 3 x size x size float32). n is at most `batch_size`.

        With several views of an image, n x V x 3 x size x size.
        """
        before = ds.config.get_error_samples_mode()
        ds.config.set_error_samples_mode(ErrorSamplesMode.SKIP)
        given: set[int] = set()
        try:
            for images, positions in self._pipeline().create_tuple_iterator(num_epochs=1, output_numpy=True):
                good = np.array([position not in self.faults for position in positions.tolist()])
                given.update(positions.tolist())
                if good.any():
                    yield positions[good], images[good]
        finally:
            ds.config.set_error_samples_mode(before)
        self.faults |= dict.fromkeys(set(range(len(self.paths))) - given, CANNOT_BE_DECODED)

    def _pipeline(self) -> ds.Dataset:
        workers = usable_workers(self.num_workers)
        encoded = _Encoded(self.paths, self.image_size, self.faults, self.findings)
        pipeline = ds.GeneratorDataset(encoded, ["image", "position"], shuffle=False, num_parallel_workers=workers,
                                       python_multiprocessing=False)
        pipeline = pipeline.map(eval_transforms(self.image_size, self.normalisation, self.framing), "image",
                                num_parallel_workers=workers)
        return pipeline.batch(self.batch_size, num_parallel_workers=1)


class _Encoded:
    """The content of image files. A bad one is replaced by a black dot, so that MindSpore does not decode it."""

    def __init__(self, paths: Sequence[Path], image_size: int, faults: dict[int, str],
                 findings: dict[int, Finding]) -> None:
        self._paths, self._faults, self._findings = paths, faults, findings
        self._copies, self._shorter_side = copies_folder(), longest_shorter_side(image_size)
        dot = io.BytesIO()
        Image.new("RGB", (2, 2)).save(dot, "PNG")
        self._dot = np.frombuffer(dot.getvalue(), np.uint8)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        finding = check_file(self._paths[position], self._copies, self._shorter_side)
        self._findings[int(position)] = finding
        if finding.fault:
            self._faults[int(position)] = finding.fault
            return self._dot, np.array(position, np.int32)
        return encoded_image(self._paths[position], finding.copy), np.array(position, np.int32)


def likeliest(path: Path, logits: np.ndarray, classes: Sequence[str], top_k: int,
              confidence: Confidence | None = None) -> Prediction:
    """The `top_k` likeliest classes by the logits of one image (C), with the network's `confidence` if it is known."""
    known = confidence or Confidence()
    probabilities = known.probabilities(logits[None])[0]
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return Prediction(path, tuple(classes[index] for index in order), tuple(probabilities[order].tolist()),
                      index=int(order[0]), unsure=known.is_unsure(probabilities[order[0]]))


def write_csv(predictions: Sequence[Prediction], path: Path) -> None:
    """A row per image: file, class and probability of each rank, the fault of a bad image, and whether it is unsure.

    The last column is 1 or 0, empty for a bad image and where no threshold is known.
    """
    ranks = max(len(prediction.classes) for prediction in predictions)
    columns = [f"{name}_{rank}" if rank > 1 else name for rank in range(1, ranks + 1)
               for name in ("class", "probability")]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", *columns, "error", "unsure"])
        for prediction in predictions:
            cells: list[str] = []
            for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
                cells += [escape_name(name), f"{probability:.6f}"]
            unsure = "" if prediction.unsure is None else int(prediction.unsure)
            table.writerow([escape_name(prediction.path), *(cells or [""] * len(columns)), prediction.fault, unsure])


def write_predictions(predictions: Sequence[Prediction], model: Path, path: Path) -> None:
    """The same as JSON. `unsure` is null where no threshold is known."""
    images: list[dict[str, Any]] = [
        {"file": escape_name(prediction.path), "error": prediction.fault} if prediction.fault else
        {"file": escape_name(prediction.path), "classes": [
            {"class": escape_name(name), "probability": round(probability, 6)}
            for name, probability in zip(prediction.classes, prediction.probabilities, strict=True)],
            "unsure": prediction.unsure}
        for prediction in predictions]
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"model": escape_name(model), "pictures": images}, indent=1) + "\n",
                             encoding="utf-8")
