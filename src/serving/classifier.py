"""The model behind the page: ONNX Runtime computes, and images are prepared as infer.py prepares them."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.checkpoint.file import Checkpoint
from src.data.framing import Framing
from src.data.images import open_image
from src.deployment.engines import OnnxEngine
from src.deployment.exporter import ExportOptions, deployable, export, usage
from src.deployment.formats import ENDINGS
from src.deployment.model_file import ModelFile, open_model
from src.deployment.prediction import Prediction, likeliest, prepare_image
from src.deployment.runtime import ExportedNetwork
from src.errors import UserError
from src.model_utils.config import Config
from src.normalisation import NORMALISATIONS

MEGAPIXEL = 10 ** 6

Network = Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Answer:
    """What the network says of one image.

    Args:
        logits: C float32.
        activation_map: of the likeliest class, side x side float32, over the square that the network sees; None if the
            file has none.
    """

    logits: np.ndarray
    activation_map: np.ndarray | None


class Classifier:
    """Classifies images from files.

    Args:
        model: the file, and the values of the run.
        network: N x 3 x size x size float32 to logits, N x C, and maybe activation maps, N x side x side.

    Raises:
        UserError: the file does not fit the run or its own description.
    """

    def __init__(self, model: ModelFile, network: Network) -> None:
        self._model, self._network = model, network
        self._size, self._framing = model.config.image_size, Framing.of(model.config)
        self.batch_size = model.config.batch_size
        # One image now: the first one takes longer, and what does not fit is told before anybody asks.
        answer = self.classify(np.zeros((1, 3, self._size, self._size), np.float32))[0]
        self.classes = model.class_names(len(answer.logits))

    def describe(self) -> dict[str, Any]:
        """What the page needs to know, by the names of the JSON beside an exported file."""
        used = usage(ExportOptions(self._size, framing=self._framing), self.classes, len(self.classes))
        return {"file": self._model.path.name, "preprocessing": used["preprocessing"], "classes": used["classes"]}

    def prepare(self, path: Path) -> np.ndarray:
        """The network's input for an image, 3 x size x size float32. A copy of an odd image is made beside it.

        Raises:
            UserError: it cannot be read, or has too many pixels.
        """
        most = self._model.config.upload_megapixels
        if (megapixels := _pixels(path) / MEGAPIXEL) > most:
            raise UserError(f"the image has {megapixels:.3g} megapixels, more than {most:g}; send a smaller one")
        return prepare_image(path, self._size, self._model.normalisation, path.parent, self._framing)

    def classify(self, images: np.ndarray) -> list[Answer]:
        """The answers for N x 3 x size x size float32 images.

        Raises:
            UserError: the file does not take them.
        """
        logits, *maps = self._network(images)
        return [Answer(row, maps[0][number] if maps else None) for number, row in enumerate(logits)]

    def likeliest(self, answer: Answer) -> Prediction:
        """The likeliest classes of an answer."""
        return likeliest(Path(), answer.logits, self.classes, self._model.config.top_k, self._model.confidence)


def open_classifier(config: Config, folder: Path) -> Classifier:
    """A classifier of the file that `pretrain_ckpt` names: an ONNX file, or a checkpoint, which becomes one.

    Args:
        config: of the run.
        folder: for that ONNX file; must stay as long as the classifier is used.

    Raises:
        UserError: the file cannot be read, is of another kind, or does not fit the configuration.
    """
    model = open_model(config)
    if isinstance(model.content, ExportedNetwork):
        if model.path.suffix != ENDINGS["ONNX"]:
            raise UserError(f"{model.path}: --serve takes a checkpoint or an ONNX file")
        exported = model.content
        exported.expect_classes(config.num_classes)
        return Classifier(model, lambda images: [exported.logits(images)])
    return Classifier(*_as_onnx(model, model.content, folder / f"model{ENDINGS['ONNX']}"))


def _as_onnx(model: ModelFile, checkpoint: Checkpoint, path: Path) -> tuple[ModelFile, Network]:
    """A checkpoint written as an ONNX file with activation maps."""
    options = ExportOptions(model.config.image_size, batch_size=0, activation_map=True,
                            normalisation=NORMALISATIONS[model.config.normalisation])
    export(deployable(checkpoint, model.config, options), options, path)
    engine = OnnxEngine(path, model.config.onnx_threads)
    config = model.config.adopt({"batch_size": engine.best_batch_size}, "batch_size")
    return ModelFile(model.path, checkpoint, config), engine.outputs


def _pixels(path: Path) -> int:
    """Width times height of an image, by its header; 0 if it is no image, which is told when it is read."""
    try:
        with open_image(path) as image:
            return image.width * image.height
    except Exception:  # Pillow raises many types of error
        return 0
