"""What the JSON files beside the weights of Hugging Face's MobileNetV2 say of how it computes."""
from pathlib import Path
from typing import Any

from src.checkpoint.namings import TENSORFLOW, Convention
from src.errors import UserError
from src.json_records import read_json
from src.mobilenetV2 import SAME, SYMMETRIC
from src.normalisation import NORMALISATIONS

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


def configured_convention(weights: Path) -> Convention:
    """How the network of a file computes: as the files beside it say, else as Google's published ones do.

    Raises:
        UserError: a file is damaged, or says something that this project cannot compute.
    """
    network, images = _values(weights.with_name(CONFIG)), _values(weights.with_name(PREPROCESSOR))
    mean, std = (images.get(name, [0.5, 0.5, 0.5]) for name in ("image_mean", "image_std"))
    normalisation = next((name for name, known in NORMALISATIONS.items()
                          if (list(known.mean), list(known.std)) == (mean, std)), None)
    if normalisation is None:
        raise UserError(f"{weights.with_name(PREPROCESSOR)}: normalises images with the mean {mean} and the deviation "
                        f"{std}; only those of {' and '.join(NORMALISATIONS)} can be used here")
    eps = network.get("layer_norm_eps", TENSORFLOW.bn_eps)
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise UserError(f"{weights.with_name(CONFIG)}: layer_norm_eps must be a number between 0 and 1, not {eps!r}")
    return Convention(SAME if network.get("tf_padding", True) else SYMMETRIC, eps, normalisation)


def _values(path: Path) -> dict[str, Any]:
    """The values of a JSON file of transformers; none if there is no such file."""
    values = read_json(path) if path.is_file() else {}
    return values if isinstance(values, dict) else {}
