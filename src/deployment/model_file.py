"""Opens a trained model for evaluation or prediction: a checkpoint or an exported file."""
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Tensor

from src.checkpoint.file import Checkpoint
from src.checkpoint.pretrained import open_pretrained
from src.confidence import Confidence
from src.deployment.runtime import ExportedNetwork, is_exported, load_exported
from src.errors import UserError
from src.model_utils.config import Config
from src.model_utils.keys import NETWORK_KEYS
from src.models import define_net
from src.normalisation import NORMALISATIONS, Normalisation
from src.utils import class_count, load_weights

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ModelFile:
    """The content of a model file, and its configuration."""

    path: Path
    content: Checkpoint | ExportedNetwork
    config: Config  # of the command, with the values that the file has

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; None if unknown."""
        return self.content.classes

    @property
    def confidence(self) -> Confidence | None:
        """The temperature and the threshold for unsure images; None if unknown."""
        return self.content.confidence

    def class_names(self, count: int) -> tuple[str, ...]:
        """Names for `count` classes: those of the file, else their indices.

        Raises:
            UserError: the file has more or fewer names.
        """
        if self.classes is None:
            return tuple(map(str, range(count)))
        if len(self.classes) != count:
            raise UserError(f"{self.path}: has {count} classes, but the JSON beside it names "
                            f"{len(self.classes)}; export or train it anew")
        return self.classes

    @property
    def normalisation(self) -> Normalisation | None:
        """How the input must be normalised; None if the graph does that."""
        return self.content.normalisation if isinstance(self.content, ExportedNetwork) else \
            NORMALISATIONS[self.config.normalisation]

    def network(self, num_classes: int = 0) -> Network:
        """A function from N x 3 x H x W images to N x C logits. With `num_classes`, C must be that number.

        Raises:
            UserError: the file does not fit the configuration or the number of classes.
        """
        if isinstance(self.content, ExportedNetwork):
            self.content.expect_classes(num_classes)
            return self.content
        # Boost mode and fake quantisation are for training. The plain network has the same weights.
        config = self.config.replace({"boost_mode": "O0", "qat": False})
        network = define_net(config, num_classes or class_count(self.content) or 1)
        load_weights(network, self.content)
        return network.set_train(False)

    def predictor(self, batch_size: int, network: Network | None = None) -> Callable[[np.ndarray], np.ndarray]:
        """The same function for arrays of up to `batch_size` images. `network` is one that was made before."""
        network = network or self.network()
        if isinstance(network, ExportedNetwork):
            return network.logits

        def predict(images: np.ndarray) -> np.ndarray:
            # Padded, because a batch of another size would compile the graph again.
            filled = np.pad(images, ((0, batch_size - len(images)), (0, 0), (0, 0), (0, 0)))
            return network(Tensor(filled)).asnumpy()[:len(images)]
        return predict


def open_model(config: Config) -> ModelFile:
    """Read the file that `pretrain_ckpt` names.

    Raises:
        UserError: none is named, or it cannot be read.
    """
    if not config.pretrain_ckpt:
        raise UserError("no model named: give --pretrain_ckpt with a checkpoint or an exported file")
    if not is_exported(config.pretrain_ckpt):
        checkpoint = open_pretrained(config.pretrain_ckpt)
        where = checkpoint.path
        return ModelFile(where, checkpoint, config.adopt(checkpoint.config, "image_size", *NETWORK_KEYS, where=where))
    path = Path(config.pretrain_ckpt)
    exported = load_exported(path, config)
    known = {"image_size": exported.image_size, "batch_size": exported.best_batch_size or config.batch_size,
             **dataclasses.asdict(exported.framing)}
    return ModelFile(path, exported, config.adopt(known, *known))
