"""Weights of Keras, TF-slim and Hugging Face: read to the bit, and computed with TensorFlow's padding and constants."""
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import config_for
from mindspore import Tensor
from safetensors.numpy import save_file

from src.checkpoint.crc32c import crc32c
from src.checkpoint.namings import HUGGING_FACE, TENSORFLOW, TORCH
from src.checkpoint.pretrained import open_pretrained
from src.checkpoint.tensor_bundle import read_tensor_bundle
from src.errors import UserError
from src.model_utils.keys import NETWORK_KEYS
from src.models import define_net
from src.utils import load_weights
from tests.fixtures.make_keras_reference import SIZES, images
from tests.support.foreign_weights import balanced_weights, random_weights, renamed
from tests.support.tensorflow_files import (
    slim_variables,
    write_bundle,
    write_keras_archive,
    write_keras_h5,
    write_keras_weights,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
Arrays = dict[str, np.ndarray]
AS_TENSORFLOW = {"padding": "same", "bn_eps": 1e-3, "normalisation": "inception"}


@pytest.fixture(scope="module")
def weights() -> Arrays:
    return random_weights()


def write_slim(path: Path, weights: Arrays) -> Path:
    return write_bundle(path, slim_variables(weights))


def write_hugging_face(path: Path, weights: Arrays) -> Path:
    inner = renamed({name: value for name, value in weights.items() if "head" not in name}, HUGGING_FACE, TORCH)
    save_file({**{f"mobilenet_v2.{name}": value for name, value in inner.items()},
               "classifier.weight": weights["head.classifier.weight"],
               "classifier.bias": weights["head.classifier.bias"]}, path)
    return path


# The files of these kinds, by what writes them.
FILES: dict[str, tuple[str, Callable[[Path, Arrays], Path]]] = {
    "Keras": ("mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96.h5", write_keras_h5),
    "Keras, a whole model": ("model.h5", lambda path, weights: write_keras_h5(path, weights, "model_weights", "")),
    "Keras 3": ("a.weights.h5", write_keras_weights),
    "Keras 3, within another network": ("b.weights.h5", lambda path, weights: write_keras_weights(path, weights, "fn")),
    "Keras 3, an archive": ("model.keras", write_keras_archive),
    "TF-slim": ("mobilenet_v2_0.35_96.ckpt", write_slim),
    "Hugging Face": ("model.safetensors", write_hugging_face),
}


def needs_h5py(kind: str) -> None:
    if kind.startswith("Keras"):
        pytest.importorskip("h5py", reason="needs h5py, which requirements-dev.txt names")


def bits(found: dict) -> dict[str, bytes]:
    return {name: (value if isinstance(value, np.ndarray) else value.asnumpy()).tobytes()
            for name, value in found.items()}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_gives_the_same_bits(kind: str, weights: Arrays, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    needs_h5py(kind)
    name, write = FILES[kind]
    path = write(tmp_path / name, weights)
    found = open_pretrained(path)
    assert bits(found.network) == bits(weights)
    assert found.config == {"width_mult": 0.35, "num_classes": 4, **AS_TENSORFLOW}
    assert capsys.readouterr().out == (f"{path}: MobileNetV2 0.35, 4 classes, 262 parameters, named as by "
                                       f"{kind.partition(',')[0]}\n")


@pytest.mark.parametrize("kind", ["Keras", "Keras 3"])
def test_without_a_top_it_is_a_backbone(kind: str, weights: Arrays, tmp_path: Path) -> None:
    needs_h5py(kind)
    backbone = {name: value for name, value in weights.items() if name.startswith("backbone.")}
    assert bits(open_pretrained(FILES[kind][1](tmp_path / "no_top.h5", backbone)).network) == bits(backbone)


@pytest.mark.parametrize("cpu_kernels", ["on", "off"])
def test_logits_are_those_of_keras(cpu_kernels: str, tmp_path: Path) -> None:
    """Padding on the other side, or another epsilon, would show."""
    checkpoint = open_pretrained(write_slim(tmp_path / "slim", balanced_weights()))
    config = config_for("--cpu_kernels", cpu_kernels).adopt(checkpoint.config, *NETWORK_KEYS)
    network = define_net(config, 4)
    load_weights(network, checkpoint)
    network.set_train(False)
    for size, expected in zip(SIZES, np.load(FIXTURES / "keras_logits.npy"), strict=True):
        assert np.ptp(expected) > 0.5
        np.testing.assert_allclose(network(Tensor(images(size))).asnumpy(), expected, rtol=0, atol=1e-4)


# ---- TF-slim

def test_a_checkpoint_is_named_by_any_of_its_files(weights: Arrays, tmp_path: Path) -> None:
    prefix = tmp_path / "net.ckpt-7"
    index = write_slim(prefix, weights)
    for path in (prefix, index, tmp_path / "net.ckpt-7.data-00000-of-00001"):
        found = open_pretrained(path)
        assert (found.path, bits(found.network)) == (index, bits(weights))


def test_the_moving_average_is_taken(weights: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    averages = slim_variables(weights)
    trained = {name: value if "moving" in name else value + 1 for name, value in averages.items()}
    kept = {f"{name}/ExponentialMovingAverage": value for name, value in averages.items() if "moving" not in name}
    slots = {f"{name}/RMSProp": value * 0 for name, value in averages.items()}
    index = write_bundle(tmp_path / "net", {**trained, **kept, **slots, "global_step": np.array(5)})
    assert bits(open_pretrained(index).network) == bits(weights)
    assert "took EMA MobilenetV2, left trained MobilenetV2" in capsys.readouterr().out


def test_a_file_that_tensorflow_wrote() -> None:
    random = np.random.default_rng(0)
    found = read_tensor_bundle(FIXTURES / "tensor_bundle.index")
    assert sorted(found) == ["Net/Conv/bias", "Net/Conv/weights", "Net/Conv/weights/Momentum", "Net/brain", "Net/half",
                             "Net/scalar"]
    np.testing.assert_array_equal(found["Net/Conv/weights"], random.standard_normal((3, 3, 2, 5)).astype(np.float32))
    np.testing.assert_array_equal(found["Net/Conv/bias"], np.arange(5))
    np.testing.assert_array_equal(found["Net/half"], np.arange(7))
    np.testing.assert_array_equal(found["Net/brain"], np.array([1, -2.5, 3]))
    assert found["Net/scalar"] == 2.5
    assert found["Net/scalar"].shape == ()


def test_a_damaged_checkpoint_is_told_in_one_line(tmp_path: Path) -> None:
    """Any byte of either file."""
    tensors = {f"n{i}": np.arange(4, dtype=np.float32) for i in range(3)}
    index = write_bundle(tmp_path / "net", tensors)
    for path in (index, tmp_path / "net.data-00000-of-00001"):
        whole = path.read_bytes()
        for damaged in (*(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1:] for at in range(len(whole))),
                        *(whole[:at] for at in range(0, len(whole), 7))):
            path.write_bytes(damaged)
            try:
                assert bits(read_tensor_bundle(index)) == bits(tensors)  # the padding of the footer says nothing
            except UserError as error:
                assert "\n" not in str(error)  # noqa: PT017 - some bytes may change
            else:
                assert path == index
        path.write_bytes(whole)


@pytest.mark.parametrize(("faults", "text"), [
    ({"shards": 2}, "net.data-00001-of-00002: cannot read this part"), ({"shards": 99}, "it says that it has 99"),
    ({"offset": 2 ** 40}, "the checksum of n0"), ({"slices": True}, "n0 is stored in parts; save it whole"),
])
def test_an_index_that_says_what_cannot_be(faults: dict, text: str, tmp_path: Path) -> None:
    index = write_bundle(tmp_path / "net", {"n0": np.ones(3, np.float32), "n1": np.ones(3, np.float32)}, **faults)
    if faults.get("shards") == 2:
        (tmp_path / "net.data-00000-of-00002").write_bytes(bytes(24))
    with pytest.raises(UserError) as error:
        read_tensor_bundle(index)
    assert text in str(error.value)


def test_a_missing_data_file(tmp_path: Path) -> None:
    index = write_bundle(tmp_path / "net", {"n": np.ones(3, np.float32)})
    (tmp_path / "net.data-00000-of-00001").unlink()
    with pytest.raises(UserError, match=r"net\.data-00000-of-00001: cannot read .* must be in one folder"):
        open_pretrained(index)


@pytest.mark.parametrize(("content", "expected"), [
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E), (b"123456789", 0xE3069283),
    (b"", 0)])
def test_checksums_of_rfc_3720(content: bytes, expected: int) -> None:
    assert crc32c(content) == expected


@pytest.mark.parametrize("size", [1, 15, 16, 17, 4097, 70000])
def test_checksum_of_any_length(size: int) -> None:
    """Against the definition, bit by bit."""
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    state = 0xFFFFFFFF
    for byte in content:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(content) == state ^ 0xFFFFFFFF


# ---- the background class

@pytest.mark.parametrize("kind", ["TF-slim", "Hugging Face"])
def test_the_background_class_is_left_out(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = random_weights(classes=1001)
    name, write = FILES[kind]
    path = write(tmp_path / name, weights)
    found = open_pretrained(path)
    assert found.config["num_classes"] == 1000
    assert "1000 classes" in (told := capsys.readouterr().out)
    assert told.endswith("; left out the first class, the background\n")
    for part in ("head.classifier.weight", "head.classifier.bias"):
        np.testing.assert_array_equal(found.network[part].asnumpy(), weights[part][1:])
    assert bits(open_pretrained(path, keep_background=True).network) == bits(weights)


# ---- Hugging Face's files beside the weights

def test_the_files_beside_say_how_it_computes(weights: Arrays, tmp_path: Path) -> None:
    path = write_hugging_face(tmp_path / "model.safetensors", weights)
    (tmp_path / "config.json").write_text(json.dumps({"tf_padding": False, "layer_norm_eps": 1e-5}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.485, 0.456, 0.406],
                                                                   "image_std": [0.229, 0.224, 0.225]}))
    assert open_pretrained(path).config == {"width_mult": 0.35, "num_classes": 4}


@pytest.mark.parametrize(("file", "values", "text"), [
    ("config.json", {"layer_norm_eps": "small"}, "layer_norm_eps must be a number"),
    ("config.json", {"layer_norm_eps": 0.0}, "layer_norm_eps must be a number"),
    ("preprocessor_config.json", {"image_mean": [0, 0, 0]}, "normalises images with the mean [0, 0, 0]"),
    ("preprocessor_config.json", {"image_std": 1}, "normalises images with the mean"),
])
def test_files_beside_that_cannot_be_followed(file: str, values: dict, text: str, weights: Arrays,
                                              tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(UserError) as error:
        open_pretrained(write_hugging_face(tmp_path / "model.safetensors", weights))
    assert str(error.value).startswith(f"{tmp_path / file}: ")
    assert text in str(error.value)


# ---- Keras

def test_a_file_of_keras_may_not_lead_elsewhere(weights: Arrays, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py, which requirements-dev.txt names")
    other = write_keras_h5(tmp_path / "other.h5", weights)
    (tmp_path / "secret").write_bytes(bytes(100))

    def link(file: Any) -> None:
        file["Conv1"] = h5py.ExternalLink(str(other), "Conv1")

    def soft_link(file: Any) -> None:
        file["Conv1"] = h5py.SoftLink("/elsewhere")

    def external(file: Any) -> None:
        file.create_dataset("x", (5,), "<f4", external=[(str(tmp_path / "secret"), 0, 20)])

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((16,), "<f4")
        layout[:] = h5py.VirtualSource(str(other), "bn_Conv1/bn_Conv1/gamma:0", (16,))
        file.create_virtual_dataset("x", layout)

    def huge(file: Any) -> None:
        file.create_dataset("x", (2 ** 40,), "<f4", chunks=(2 ** 20,))

    for fault, text in ((link, "is a link"), (soft_link, "is a link"), (external, "is in another file"),
                        (virtual, "is in another file"), (huge, "more than any part")):
        with h5py.File(tmp_path / "w.h5", "w") as file:
            fault(file)
        with pytest.raises(UserError, match=text):
            open_pretrained(tmp_path / "w.h5")


def test_a_file_of_keras_may_not_fill_the_memory(weights: Arrays, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    needs_h5py("Keras")
    monkeypatch.setattr("src.checkpoint.keras_file.LARGEST_FILE", 2 ** 20)
    with pytest.raises(UserError, match="has more than 1048576 bytes of weights"):
        open_pretrained(write_keras_h5(tmp_path / "w.h5", weights))


@pytest.mark.parametrize("kind", ["Keras", "Keras 3, an archive"])
def test_a_truncated_file_of_keras(kind: str, weights: Arrays, tmp_path: Path) -> None:
    needs_h5py(kind)
    path = FILES[kind][1](tmp_path / FILES[kind][0], weights)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UserError, match="cut off|a damaged one"):
        open_pretrained(path)


def test_an_archive_with_any_damaged_byte(tmp_path: Path) -> None:
    """Of its directory, which tells what kind of an archive it is."""
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", b"not HDF5")
    whole = path.read_bytes()
    for at in range(whole.index(b"PK\x01\x02"), len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1:])
        with pytest.raises(UserError) as error:
            open_pretrained(path)
        assert "\n" not in str(error.value)


def test_keras_needs_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "w.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(UserError, match=r"needs h5py, which is not installed: pip install h5py=="):
        open_pretrained(tmp_path / "w.h5")


def test_the_convention_is_that_of_the_projects_code() -> None:
    """keras.applications' mobilenet_v2.py and TF-slim's mobilenet.py: `epsilon=1e-3`, SAME, pixels / 127.5 - 1."""
    assert vars(TENSORFLOW) == AS_TENSORFLOW
