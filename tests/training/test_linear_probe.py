"""The classifier that is fitted on a frozen backbone's features before the whole network is trained."""
from pathlib import Path

import numpy as np
import pytest
from conftest import config_for, few_blocks, make_images

from src.data.image_folder import ImageFolder
from src.distributed.world import World
from src.mobilenetV2 import MobileNetV2
from src.models import define_ema, define_net
from src.normalisation import IMAGENET_PIXELS
from src.training.features import pooled_features
from src.training.linear_probe import fit_classifier
from src.utils import network_parameters

SMOOTH = 0.1
CONFIG = config_for("--image_size", 32, "--width_mult", 0.35, "--batch_size", 4, "--ema_decay", 0.9, "--dropout", 0.5,
                    "--weight_decay", 0.01, "--label_smooth", SMOOTH)


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    return ImageFolder.scan(make_images(tmp_path / "photos", {"cat": 6, "cow": 6, "dog": 5}))


def networks() -> tuple[MobileNetV2, MobileNetV2]:
    """A network, and the one with the average of its weights."""
    with few_blocks():
        network = define_net(CONFIG, 3)
        ema = define_ema(CONFIG, network)
    assert ema
    return network, ema


def values(network: MobileNetV2) -> dict[str, np.ndarray]:
    return {name: value.asnumpy().copy() for name, value in network_parameters(network).items()}


def test_only_the_classifier_changes_and_the_average_has_the_same(folder: ImageFolder) -> None:
    network, ema = networks()
    before = values(network)
    fit_classifier(CONFIG, network, ema, folder, None, World())
    after = values(network)
    changed = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}
    np.testing.assert_array_equal(ema.head.classifier.weight.asnumpy(), after["head.classifier.weight"])
    np.testing.assert_array_equal(ema.head.classifier.bias.asnumpy(), after["head.classifier.bias"])
    again = networks()
    fit_classifier(CONFIG, *again, folder, folder, World())
    for name, value in values(again[0]).items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_it_is_near_the_minimum_of_the_loss(folder: ImageFolder) -> None:
    """Of the smoothed cross entropy with weight decay: the slope there is a small part of that of new weights."""
    network, ema = networks()
    features = pooled_features(network.backbone, folder, 32, 4, 1, World(), IMAGENET_PIXELS)[:, :, 0, 0]
    new = values(network)
    fit_classifier(CONFIG, network, ema, folder, None, World())
    assert slope(values(network), features, folder.labels) < 0.1 * slope(new, features, folder.labels)


def slope(parameters: dict[str, np.ndarray], features: np.ndarray, labels: np.ndarray) -> float:
    """The norm of the gradient by the classifier's weights."""
    weight, bias = parameters["head.classifier.weight"], parameters["head.classifier.bias"]
    logits = features @ weight.T + bias
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    targets = np.eye(len(bias))[labels] * (1 - SMOOTH) + SMOOTH / len(bias)
    gradient = (probabilities - targets).T @ features / len(labels) + CONFIG.weight_decay * weight
    return float(np.linalg.norm(gradient))


def test_what_it_reaches_is_told(folder: ImageFolder, capsys: pytest.CaptureFixture) -> None:
    fit_classifier(CONFIG, *networks(), folder, folder, World())
    out = capsys.readouterr().out
    assert "100.00% of 17 training images, 100.00% of 17 validation images" in out
