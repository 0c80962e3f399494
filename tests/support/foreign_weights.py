"""Weights of a MobileNetV2 under other projects' names."""
from collections.abc import Mapping

import numpy as np

from src.checkpoint.namings import NAMINGS, Naming
from src.mobilenetV2 import MobileNetV2

BY_NAME = {naming.name: naming for naming in NAMINGS}


def random_weights(width: float = 0.35, classes: int = 4) -> dict[str, np.ndarray]:
    """Under this project's names, all different."""
    random = np.random.default_rng(1)
    return {parameter.name: random.random(parameter.shape).astype(np.float32)
            for parameter in MobileNetV2(classes, width).get_parameters()}


def balanced_weights(width: float = 0.35, classes: int = 4) -> dict[str, np.ndarray]:
    """Random weights with which most activations lie within ReLU6's range, so that logits tell a network apart."""
    random = np.random.default_rng(2)
    found = {}
    for parameter in MobileNetV2(classes, width).get_parameters():
        value = random.standard_normal(parameter.shape)
        if parameter.ndim > 1:
            value *= np.sqrt(2 / np.prod(parameter.shape[1:]))
        elif parameter.name.endswith(("variance", "gamma")):
            value = 0.7 + 0.3 * np.abs(value)
        else:
            value *= 0.3
        found[parameter.name] = value.astype(np.float32)
    return found


def renamed(weights: Mapping[str, np.ndarray], naming: Naming, norm: dict[str, str],
            classifier: str = "") -> dict[str, np.ndarray]:
    """The same weights under another project's names."""
    names = naming.backbone_names(norm)
    names |= {f"head.classifier.{kind}": f"{classifier or naming.classifiers[0]}.{kind}" for kind in ("weight", "bias")}
    return {names[name]: value for name, value in weights.items()}
