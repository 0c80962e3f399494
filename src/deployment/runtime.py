"""Loads and runs exported networks of any format that has a runtime here, with one interface."""
from pathlib import Path

import numpy as np
from mindspore import Tensor

from src.deployment.description import (
    ANY_SIZE,
    Description,
    Preprocessing,
    content_digest,
    description_path,
    read_description,
)
from src.deployment.engines import ENGINES, Engine
from src.deployment.formats import files_of
from src.errors import UserError, first_line
from src.model_utils.config import Config
from src.normalisation import IMAGENET_PIXELS, Normalisation

TINY = np.finfo(np.float32).tiny


class ExportedNetwork:
    """An exported network, called as the network of a checkpoint is: N x 3 x H x W images to N x C logits.

    It takes batches of any size: they are split and padded to the batch size of the file.

    Args:
        engine: what computes.
        description: the JSON beside the file. What is missing there comes from the file itself.
        path: the file.
        image_size: used if neither of them has it.
    """

    training = False

    def __init__(self, engine: Engine, description: Description, path: Path, image_size: int) -> None:
        described = description.input.batch_size
        if isinstance(described, int):
            self.batch_size = described
        else:
            self.batch_size = 0 if described == ANY_SIZE else engine.batch_size  # 0: any
        self._side = description.preprocessing.centre_crop or engine.image_size
        self.image_size: int = self._side or image_size
        self.normalisation = _normalisation(description.preprocessing)
        self.framing = description.preprocessing.framing
        self.softmax = description.output.meaning == "probabilities"
        self.classes = description.classes or None
        self.confidence = description.output.confidence
        self.best_batch_size = self.batch_size or engine.best_batch_size
        self._engine, self._path, self._num_classes = engine, path, 0

    def set_train(self, mode: bool = True) -> "ExportedNetwork":
        """As `nn.Cell.set_train`, but a file cannot be trained."""
        if mode:
            raise NotImplementedError("an exported network cannot be trained")
        return self

    def expect_classes(self, num_classes: int) -> None:
        """Make `logits` refuse another number of classes; 0 for any."""
        self._num_classes = num_classes

    def __call__(self, images: Tensor) -> Tensor:
        return Tensor(self.logits(images.asnumpy()))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The same, without MindSpore's tensors: N x 3 x H x W float32 images to N x C float32 logits."""
        scores = self.run(images)
        if self._num_classes not in {0, scores.shape[1]}:
            raise UserError(f"{self._path}: knows {scores.shape[1]} classes, but the images are of "
                            f"{self._num_classes}")
        return np.log(np.maximum(scores, TINY)) if self.softmax else scores

    def run(self, images: np.ndarray) -> np.ndarray:
        """The output of the file, logits or probabilities, N x C float32.

        Raises:
            UserError: the images have another size than the file takes.
        """
        if self._side not in {None, images.shape[2]}:  # MindSpore would compute a wrong result
            raise UserError(f"{self._path}: takes images of {self._side}x{self._side} pixels, not of "
                            f"{images.shape[2]}x{images.shape[3]}")
        size = self.batch_size or len(images)
        scores = []
        for start in range(0, len(images), size):
            batch = images[start:start + size]
            missing = size - len(batch)
            try:
                filled = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge") if missing else batch
                found = self._engine(filled)
            except Exception as error:  # the engines raise many types of error
                raise UserError(f"{self._path}: does not take {size} images of {images.shape[2]}x{images.shape[3]} "
                                f"pixels ({first_line(error)})") from error
            if not (isinstance(found, np.ndarray) and found.dtype.kind == "f" and found.ndim == 2
                    and len(found) == size and found.shape[1]):
                raise UserError(f"{self._path}: is no classifier: it does not give a row of numbers for each of {size} "
                                "images")
            scores.append(found[:len(batch)])
        return scores[0] if len(scores) == 1 else np.concatenate(scores)


def _normalisation(preprocessing: Preprocessing) -> Normalisation | None:
    """How images are normalised before the graph; None if the graph does that."""
    if preprocessing.normalise == "inside the graph":
        return None
    if preprocessing.mean is None or preprocessing.std is None:
        return IMAGENET_PIXELS
    mean, std = (tuple(value / 255 for value in values) for values in (preprocessing.mean, preprocessing.std))
    return Normalisation(mean, std)


def is_exported(path: str) -> bool:
    """Whether a name is that of an exported network, by its ending."""
    return path.endswith(tuple(ENGINES))


def load_exported(path: Path, config: Config) -> ExportedNetwork:
    """Load an exported network.

    Raises:
        UserError: the file is missing, damaged or not what its ending says; its runtime is not installed.
    """
    for file in files_of(path):
        if not file.is_file():
            raise UserError(f"{file}: no such file")
    beside = read_description(path)
    if beside and beside.sha256 not in {"", content_digest(path)}:
        raise UserError(f"{path}: this file is damaged: it is not the one that {description_path(path).name} describes")
    engine = ENGINES[path.suffix](path, config.onnx_threads)
    return ExportedNetwork(engine, beside or engine.description, path, config.image_size)
