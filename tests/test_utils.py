"""Loading into a network is strict, and says what differs."""
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor, nn

from src.checkpoint.file import Checkpoint
from src.errors import UserError
from src.mobilenetV2 import MobileNetV2
from src.models import EMA_PREFIX
from src.utils import check_classes, eval_parameters, load_weights, network_parameters

HERE = Path("k.ckpt")


@pytest.fixture(scope="module")
def network() -> nn.Cell:
    return MobileNetV2(3, 0.35)


def content(network: nn.Cell) -> dict[str, np.ndarray]:
    return {name: value.asnumpy().copy() for name, value in network_parameters(network).items()}


def shifted(network: nn.Cell, by: float = 1) -> dict[str, Tensor]:
    return {name: Tensor(value + np.float32(by)) for name, value in content(network).items()}


def refusal(network: nn.Cell, weights: dict[str, Tensor], **options: bool) -> str:
    before = content(network)
    with pytest.raises(UserError) as error:
        load_weights(network, Checkpoint(HERE, weights, {}), **options)
    for name, value in content(network).items():
        np.testing.assert_array_equal(value, before[name])  # untouched
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("k.ckpt: does not fit the network: ")
    return text


def test_loads_every_parameter_with_its_statistics(network: nn.Cell) -> None:
    offered = shifted(network)
    load_weights(network, Checkpoint(HERE, offered, {}))
    loaded = content(network)
    assert len(loaded) == 262
    assert sum(name.endswith("moving_variance") for name in loaded) == 52
    for name, value in loaded.items():
        np.testing.assert_array_equal(value, offered[name].asnumpy())


def test_half_precision_weights_are_widened(network: nn.Cell) -> None:
    offered = {name: Tensor(value.asnumpy().astype(np.float16)) for name, value in shifted(network).items()}
    load_weights(network, Checkpoint(HERE, offered, {}))
    assert {parameter.asnumpy().dtype for parameter in network.get_parameters()} == {np.dtype(np.float32)}


def test_missing_are_listed(network: nn.Cell) -> None:
    offered = shifted(network)
    for name in ("backbone.stem.bn.gamma", "head.classifier.bias"):
        del offered[name]
    assert "missing backbone.stem.bn.gamma, head.classifier.bias;" in refusal(network, offered)


def test_long_lists_are_cut(network: nn.Cell) -> None:
    text = refusal(network, {})
    assert "and 259 more" in text
    assert len(text) < 400


def test_unexpected_are_listed(network: nn.Cell) -> None:
    offered = shifted(network) | {"extra.weight": Tensor(np.zeros(1, np.float32))}
    assert "unexpected extra.weight;" in refusal(network, offered)


def test_mis_shaped_are_listed_with_both_shapes(network: nn.Cell) -> None:
    offered = shifted(network) | {"backbone.stem.conv.weight": Tensor(np.zeros((32, 3, 3, 3), np.float32))}
    text = refusal(network, offered)
    assert "of another shape: backbone.stem.conv.weight 32x3x3x3 instead of 16x3x3x3" in text
    assert "filter_head" not in text


def test_an_unrelated_checkpoint_is_refused(network: nn.Cell) -> None:
    text = refusal(network, {"conv1.weight": Tensor(np.zeros(3, np.float32))})
    assert "missing backbone." in text
    assert "unexpected conv1.weight" in text
    refusal(network, {"conv1.weight": Tensor(np.zeros(3, np.float32))}, filter_head=True)


def test_another_number_of_classes_points_to_filter_head(network: nn.Cell) -> None:
    other = shifted(MobileNetV2(5, 0.35))
    text = refusal(network, other)
    assert "head.classifier.weight 5x1280 instead of 3x1280" in text
    assert "--filter_head True" in text


def test_filter_head_takes_all_but_the_head(network: nn.Cell) -> None:
    offered = shifted(MobileNetV2(5, 0.35), by=2)
    before = content(network)
    load_weights(network, Checkpoint(HERE, offered, {}), filter_head=True)
    for name, value in content(network).items():
        expected = before[name] if name.startswith("head.") else offered[name].asnumpy()
        np.testing.assert_array_equal(value, expected)


def test_a_backbone_without_a_classifier_points_to_filter_head(network: nn.Cell) -> None:
    offered = {name: value for name, value in shifted(network).items() if not name.startswith("head.")}
    text = refusal(network, offered)
    assert "no classifier, or one of another form: train.py --filter_head True" in text
    load_weights(network, Checkpoint(HERE, offered, {}), filter_head=True)


def test_filter_head_is_strict_about_the_backbone(network: nn.Cell) -> None:
    offered = shifted(network)
    del offered["backbone.last.conv.weight"]
    assert "missing backbone.last.conv.weight;" in refusal(network, offered, filter_head=True)


def test_what_is_scored_is_the_average_where_there_is_one(network: nn.Cell) -> None:
    ema = MobileNetV2(3, 0.35)
    ema.update_parameters_name(EMA_PREFIX)
    scored = eval_parameters(network, ema)
    assert set(scored) == set(eval_parameters(network, None)) == set(content(network))
    np.testing.assert_array_equal(scored["head.classifier.weight"].asnumpy(),
                                  ema.head.classifier.weight.asnumpy())


@pytest.mark.parametrize(("trained", "folder", "says"), [
    (("cat", "dog"), ("cat",), "the folder lacks dog"),
    (("cat",), ("ape", "cat"), "the model does not know ape"),
    (("dog", "cat"), ("cat", "dog"), "they are in another order; train the model anew"),
    (("cat", "dog"), ("cat", "wolf"), "the folder lacks dog; the model does not know wolf"),
])
def test_other_classes_are_an_error_that_names_them(trained: tuple, folder: tuple, says: str) -> None:
    with pytest.raises(UserError, match=f"^photos: its classes are not the model's: {says}$"):
        check_classes(trained, folder, "photos")


def test_same_or_unknown_classes_pass() -> None:
    check_classes(("cat", "dog"), ("cat", "dog"), "photos")
    check_classes(None, ("cat", "dog"), "photos")
