"""A MobileNetV2 is found in whatever people save it in, and comes out with the same weights; nothing else does."""
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from src.checkpoint.foreign import convert, nearest_width, output_channels
from src.checkpoint.namings import (
    MINDSPORE,
    NAMINGS,
    TIMM,
    TORCH,
    TORCHVISION,
    Naming,
    counted_keras_layers,
    flat_layers,
    hugging_face_layers,
    keras_layers,
    mindcv_layers,
    mmpretrain_layers,
    model_zoo_layers,
    slim_layers,
    timm_layers,
    torchvision_layers,
)
from src.errors import UserError
from tests.support.foreign_weights import BY_NAME, random_weights, renamed

HERE = Path("w.pth")
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def weights() -> Arrays:
    return random_weights()


@pytest.fixture
def torchvision(weights: Arrays) -> Arrays:
    return renamed(weights, TORCHVISION, TORCH)


def assert_same(found: Mapping[str, np.ndarray], weights: Arrays) -> None:
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def refusal(values: object) -> str:
    with pytest.raises(UserError) as error:
        convert(values, HERE)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- names

@pytest.mark.parametrize("norm", [TORCH, MINDSPORE], ids=["torch", "mindspore"])
@pytest.mark.parametrize("naming", NAMINGS, ids=lambda naming: naming.name)
def test_every_weight_arrives_under_its_own_name(naming: Naming, norm: dict[str, str], weights: Arrays) -> None:
    for classifier in naming.classifiers:
        found = convert(renamed(weights, naming, norm, classifier), HERE)
        assert (found.naming.name, found.width_mult, found.num_classes) == (naming.name, 0.35, 4)
        assert_same(found.weights, weights)


def test_names_as_the_projects_write_them() -> None:
    """As in published files."""
    def names(layers: Callable, *arguments: str) -> dict[str, tuple[str, str]]:
        return {ours: (conv, norm) for ours, conv, norm in layers(*arguments)}

    torchvision = names(torchvision_layers)
    assert torchvision["backbone.stem"] == ("features.0.0", "features.0.1")
    assert torchvision["backbone.blocks.0.depthwise"] == ("features.1.conv.0.0", "features.1.conv.0.1")
    assert torchvision["backbone.blocks.0.project"] == ("features.1.conv.1", "features.1.conv.2")
    assert torchvision["backbone.blocks.16.project"] == ("features.17.conv.2", "features.17.conv.3")
    assert torchvision["backbone.last"] == ("features.18.0", "features.18.1")
    timm = names(timm_layers)
    assert timm["backbone.blocks.0.project"] == ("blocks.0.0.conv_pw", "blocks.0.0.bn2")
    assert timm["backbone.blocks.2.expand"] == ("blocks.1.1.conv_pw", "blocks.1.1.bn1")
    assert timm["backbone.blocks.16.project"] == ("blocks.6.0.conv_pwl", "blocks.6.0.bn3")
    assert timm["backbone.last"] == ("conv_head", "bn2")
    flat = names(flat_layers, "conv")
    assert flat["backbone.blocks.0.project"] == ("features.1.conv.3", "features.1.conv.4")
    assert flat["backbone.blocks.16.depthwise"] == ("features.17.conv.3", "features.17.conv.4")
    assert flat["backbone.last"] == ("conv.0", "conv.1")
    zoo = names(model_zoo_layers)
    assert zoo["backbone.stem"] == ("features.0.features.0", "features.0.features.1")
    assert zoo["backbone.blocks.0.depthwise"] == ("features.1.conv.0.features.0", "features.1.conv.0.features.1")
    assert zoo["backbone.blocks.1.project"] == ("features.2.conv.2", "features.2.conv.3")
    assert zoo["backbone.last"] == ("features.18.features.0", "features.18.features.1")
    mindcv = names(mindcv_layers)
    assert mindcv["backbone.stem"] == ("features.0", "features.1")
    assert mindcv["backbone.blocks.0.project"] == ("features.3.layers.3", "features.3.layers.4")
    assert mindcv["backbone.blocks.16.project"] == ("features.19.layers.6", "features.19.layers.7")
    assert mindcv["backbone.last"] == ("features.20", "features.21")
    mmpretrain = names(mmpretrain_layers)
    assert mmpretrain["backbone.stem"] == ("conv1.conv", "conv1.bn")
    assert mmpretrain["backbone.blocks.0.project"] == ("layer1.0.conv.1.conv", "layer1.0.conv.1.bn")
    assert mmpretrain["backbone.blocks.16.project"] == ("layer7.0.conv.2.conv", "layer7.0.conv.2.bn")
    assert mmpretrain["backbone.last"] == ("conv2.conv", "conv2.bn")
    hugging_face = {ours: conv for ours, (conv, _) in names(hugging_face_layers).items()}
    assert hugging_face["backbone.stem"] == "conv_stem.first_conv.convolution"
    assert hugging_face["backbone.blocks.0.depthwise"] == "conv_stem.conv_3x3.convolution"
    assert hugging_face["backbone.blocks.16.project"] == "layer.15.reduce_1x1.convolution"
    assert hugging_face["backbone.last"] == "conv_1x1.convolution"
    slim = names(slim_layers)
    assert slim["backbone.blocks.0.depthwise"] == ("expanded_conv.depthwise", "expanded_conv.depthwise.BatchNorm")
    assert slim["backbone.blocks.16.expand"] == ("expanded_conv_16.expand", "expanded_conv_16.expand.BatchNorm")
    keras = names(keras_layers)
    assert keras["backbone.blocks.0.project"] == ("expanded_conv_project", "expanded_conv_project_BN")
    assert keras["backbone.blocks.16.depthwise"] == ("block_16_depthwise", "block_16_depthwise_BN")
    assert keras["backbone.last"] == ("Conv_1", "Conv_1_bn")
    keras_3 = names(counted_keras_layers)
    assert keras_3["backbone.stem"] == ("conv2d", "batch_normalization")
    assert keras_3["backbone.blocks.16.depthwise"] == ("depthwise_conv2d_16", "batch_normalization_49")
    assert keras_3["backbone.last"] == ("conv2d_34", "batch_normalization_51")


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 0.6, 1.2])
def test_the_width_is_read_off_the_weights(width: float) -> None:
    channels = dict(output_channels(width))
    found = nearest_width(channels)
    assert dict(output_channels(found)) == channels
    if width in {0.35, 0.5, 0.75, 1.0, 1.3, 1.4}:
        assert found == width


# ---- what people wrap weights in

def prefixed(prefix: str, state: Arrays) -> Arrays:
    return {prefix + name: value for name, value in state.items()}


SCALAR = np.ones((), np.float32)
WRAPPERS: dict[str, Callable[[Arrays], object]] = {
    "DataParallel": lambda state: {"epoch": 3, "arch": "mobilenet_v2", "best_acc1": SCALAR,
                                   "state_dict": prefixed("module.", state)},
    "torchvision's training": lambda state: {"model": state, "optimizer": {"state": {0: {"momentum_buffer": SCALAR}}}},
    "a moving average": lambda state: {"model_ema": {"n_averaged": SCALAR, **prefixed("module.", state)}},
    "torch.compile": lambda state: prefixed("_orig_mod.", state),
    "both": lambda state: prefixed("_orig_mod.module.", state),
    "Lightning": lambda state: {"pytorch-lightning_version": "2", "state_dict": {
        **prefixed("model.", state), "criterion.weight": np.ones(4, np.float32)}, "hyper_parameters": {"lr": 0.1}},
    "boost mode": lambda state: {**prefixed("network.", state), **prefixed("moments.network.", state),
                                 "learning_rate": SCALAR, "global_step": SCALAR},
    "counters": lambda state: {**state, "features.0.1.num_batches_tracked": np.array(7)},
    "backbone.": lambda state: {name if name.startswith("classifier") else f"backbone.{name}": value
                                for name, value in state.items()},
    "head.": lambda state: {f"head.{name}" if name.startswith("classifier") else f"backbone.{name}": value
                            for name, value in state.items()},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers(wrap: Callable[[Arrays], object], weights: Arrays, torchvision: Arrays) -> None:
    assert_same(convert(wrap(torchvision), HERE).weights, weights)


@pytest.mark.parametrize("values", [
    lambda state, ema: {"state_dict": state, "state_dict_ema": ema}, lambda state, ema: {"model": state, "ema": ema},
    lambda state, ema: {**state, **prefixed("ema.", ema)},
    lambda state, ema: {"state_dict": {**prefixed("model.", state), **prefixed("model_ema.module.", ema)}},
], ids=["timm", "two", "mindcv", "Lightning"])
def test_of_several_networks_the_average_is_taken(values: Callable, weights: Arrays, torchvision: Arrays) -> None:
    other = {name: value + 1 for name, value in torchvision.items()}
    found = convert(values(other, torchvision), HERE)
    assert_same(found.weights, weights)
    assert "ema" in found.taken
    assert len(found.left) == 1
    assert f"took {found.taken}, left {found.left[0]}" in str(found)


def test_of_teacher_and_student_the_first_is_taken(weights: Arrays, torchvision: Arrays) -> None:
    other = renamed({name: value + 1 for name, value in weights.items()}, TIMM, TORCH)
    found = convert({**prefixed("student.", torchvision), **prefixed("teacher.", other)}, HERE)
    assert_same(found.weights, weights)
    assert (found.taken, found.left) == ("student", ("teacher",))


def test_half_precision_becomes_float32(weights: Arrays, torchvision: Arrays) -> None:
    found = convert({name: value.astype(np.float16) for name, value in torchvision.items()}, HERE)
    assert_same(found.weights, {name: value.astype(np.float16).astype(np.float32) for name, value in weights.items()})


def test_a_backbone_alone(torchvision: Arrays, weights: Arrays) -> None:
    found = convert({name: value for name, value in torchvision.items() if name.startswith("features")}, HERE)
    assert found.num_classes == 0
    assert_same(found.weights, {name: value for name, value in weights.items() if name.startswith("backbone")})


def test_a_head_of_another_form_keeps_its_names(weights: Arrays) -> None:
    """So that loading names it, and `filter_head` leaves it out. Boost mode's classifier has no bias."""
    zoo = renamed(weights, BY_NAME["MindSpore's model zoo"], MINDSPORE)
    del zoo["dense.bias"]
    found = convert({**zoo, "dense.multiplier": np.ones(1, np.float32)}, HERE)
    assert {name for name in found.weights if name.startswith("head.")} == {"head.classifier.weight",
                                                                           "head.dense.multiplier"}


# ---- files of something else

def test_faults_are_listed_by_the_sources_names(torchvision: Arrays) -> None:
    del torchvision["features.3.conv.1.1.running_mean"]
    torchvision["features.99.weight"] = np.zeros(3, np.float32)
    torchvision["features.2.conv.2.weight"] = np.zeros((8, 48, 3, 3), np.float32)
    assert refusal(torchvision) == (
        "w.pth: is no MobileNetV2 0.35, though named as by torchvision: missing features.3.conv.1.1.running_mean; "
        "unexpected features.99.weight; of another shape: features.2.conv.2.weight 8x48x3x3 instead of 8x48x1x1")


@pytest.mark.parametrize(("values", "text"), [
    ({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32), "bn1.weight": np.ones(64, np.float32)},
     "holds another network: its 2 arrays"),
    ({"features.0.0.weight": np.zeros((16, 3, 3, 3), np.float32)}, "holds another network: its 1 arrays"),
    ({}, "holds no named arrays"), ({"epoch": 3, "names": ["a"]}, "holds no named arrays"),
    ({"state_dict": {}}, "holds no named arrays"), ({1: np.ones(3, np.float32)}, "holds no named arrays"),
])
def test_no_mobilenetv2(values: object, text: str) -> None:
    assert text in refusal(values)


def test_a_detector_with_this_backbone(torchvision: Arrays) -> None:
    detector = {**prefixed("backbone.", torchvision), "head.boxes.weight": np.zeros((24, 1280, 3, 3), np.float32)}
    assert refusal(detector) == ("w.pth: holds a larger network: beside a MobileNetV2 (backbone.*, named as by "
                                 "torchvision) it has head.boxes.weight; save the MobileNetV2 alone")


def test_dictionaries_without_an_end(torchvision: Arrays, weights: Arrays) -> None:
    values: dict = {"model": torchvision}
    values["itself"] = values
    assert_same(convert(values, HERE).weights, weights)
