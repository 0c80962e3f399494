"""Class activation maps: exactly what the network computes, drawn on what it sees."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import config_for, few_blocks
from mindspore import Tensor
from PIL import Image

from src.data.framing import PAD_COLOUR
from src.deployment import activation_maps
from src.deployment.activation_maps import class_activation_maps, draw_overlay, explain
from src.deployment.engines import OnnxEngine
from src.deployment.exporter import Deployable, ExportOptions, export
from src.mobilenetV2 import MobileNetV2
from src.models import define_net

SIZE = 64


@pytest.fixture(scope="module")
def network() -> Iterator[MobileNetV2]:
    with few_blocks():
        network = define_net(config_for("--width_mult", 0.35), 4)
    random = np.random.default_rng(0)
    for parameter in network.head.classifier.get_parameters():
        parameter.set_data(Tensor(random.standard_normal(parameter.shape).astype(np.float32)))
    yield network.set_train(False)


def test_the_mean_of_a_map_and_the_bias_are_the_logit(network: MobileNetV2) -> None:
    images = Tensor(np.random.default_rng(1).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32))
    features, head = network.backbone(images).asnumpy(), network.head.classifier
    assert features.shape[2] > 1
    logits = network(images).asnumpy()
    for classes in np.array([0, 1, 2]), np.array([3, 3, 0]):
        maps = class_activation_maps(features, head.weight.asnumpy(), classes)
        assert maps.shape == (3, *features.shape[2:])
        np.testing.assert_allclose(maps.mean(axis=(1, 2)) + head.bias.asnumpy()[classes],
                                   logits[np.arange(3), classes], rtol=1e-4, atol=1e-5)


def test_the_graph_of_onnx_gives_the_same_maps(network: MobileNetV2, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")
    options = ExportOptions(SIZE, batch_size=0, activation_map=True)
    export(Deployable(network, options).set_train(False), options, tmp_path / "m.onnx")
    images = np.random.default_rng(2).standard_normal((5, 3, SIZE, SIZE)).astype(np.float32)
    logits, found = OnnxEngine(tmp_path / "m.onnx", 1).outputs(images)
    maps = class_activation_maps(network.backbone(Tensor(images)).asnumpy(), network.head.classifier.weight.asnumpy(),
                                 logits.argmax(axis=1))
    assert np.ptp(maps, axis=(1, 2)).min() > 0.01
    np.testing.assert_allclose(found, maps, rtol=1e-4, atol=1e-4 * np.abs(maps).max())


def test_the_overlay_colours_what_is_high_and_leaves_what_is_low() -> None:
    pixels = np.full((64, 64, 3), 90, np.uint8)
    activation = np.array([[-5.0, -5.0], [-5.0, 7.0]])
    drawn = np.asarray(draw_overlay(pixels, activation)).astype(int)
    changed = np.abs(drawn - 90).sum(axis=2)
    assert drawn.shape == (64, 64, 3)
    assert changed[:16, :16].max() == 0
    assert changed[56:, 56:].min() > 150
    np.testing.assert_array_equal(np.asarray(draw_overlay(pixels, np.full((2, 2), 3.0))), pixels)  # the same everywhere


def test_the_image_under_the_map_is_the_part_that_the_network_sees(network: MobileNetV2, tmp_path: Path) -> None:
    """The middle of a wide image, whose sides are red. A bad image is left out."""
    pixels = np.zeros((80, 240, 3), np.uint8)
    pixels[..., 0] = 250
    pixels[:, 80:160] = (20, 120, 220)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (tmp_path / "bad.png").write_text("no image")
    paths = [tmp_path / "bad.png", tmp_path / "wide.png", tmp_path / "wide.png"]
    config = config_for("--image_size", SIZE, "--batch_size", 2)
    drawn = dict(explain(network, config, paths, np.array([0, 1, 2])))
    assert sorted(drawn) == [1, 2]
    for picture in drawn.values():
        assert picture.size == (SIZE, SIZE)
        assert (np.abs(np.asarray(picture).astype(int) - (20, 120, 220)).max(axis=2) < 8).any()
        assert (np.asarray(picture) == (250, 0, 0)).all(axis=2).sum() == 0
    assert np.asarray(drawn[1]).tolist() != np.asarray(drawn[2]).tolist()  # of another class


@pytest.mark.parametrize("options", [("--crop_mode", "pad", "--tta", "flip"), ("--crop_mode", "squash")], ids=str)
def test_the_map_lies_over_the_image_as_it_is_framed(options: tuple, network: MobileNetV2, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of an image that is red on the left and blue on the right, on the ground of the padding."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, :64, 0] = pixels[:, 64:, 2] = 250
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    monkeypatch.setattr(activation_maps, "STRONGEST", 0.0)  # shows what is below the map
    (_, picture), = explain(network, config_for("--image_size", SIZE, *options), [tmp_path / "wide.png"],
                            np.array([1]))
    seen = np.asarray(picture)
    assert seen[32, 2].tolist() == [250, 0, 0]
    assert seen[32, -3].tolist() == [0, 0, 250]
    assert (seen[2, 32].tolist() == list(PAD_COLOUR)) == ("pad" in options)
