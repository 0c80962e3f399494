"""Trained weights in any kind of file are opened, whatever its name; what is no such file is told in one line."""
import argparse
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image
from safetensors.numpy import save_file

from src.checkpoint.file import file_digest, write_checkpoint
from src.checkpoint.namings import MINDSPORE, TIMM, TORCH, TORCHVISION
from src.checkpoint.pretrained import open_pretrained
from src.checkpoint.record import CheckpointMetadata
from src.errors import UserError
from src.mobilenetV2 import MobileNetV2
from src.normalisation import IMAGENET_PIXELS
from src.utils import load_weights
from tests.support.foreign_weights import BY_NAME, random_weights, renamed
from tests.support.torch_files import torch_state, write_old, write_zip

Arrays = dict[str, np.ndarray]
SIZE = 64


@pytest.fixture(scope="module")
def weights() -> Arrays:
    return random_weights()


def write_ckpt(path: Path, state: Arrays, kind: ms.Type = ms.float32) -> None:
    ms.save_checkpoint([{"name": name, "data": Tensor(value, kind)} for name, value in state.items()], str(path),
                       format="ckpt")


def bfloat16(state: Arrays) -> Arrays:
    """The upper halves of float32, as uint16."""
    return {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in state.items()}


def write_brain_safetensors(path: Path, state: Arrays) -> None:
    """By hand: numpy has no bfloat16 to give to the library."""
    header, content = {}, b""
    for name, value in bfloat16(state).items():
        offsets = [len(content), len(content) + value.nbytes]
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": offsets}
        content += value.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def halved(weights: Arrays) -> Arrays:
    return {name: value.astype(np.float16).astype(np.float32) for name, value in weights.items()}


def cut(weights: Arrays) -> Arrays:
    return {name: (value.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, value in weights.items()}


def prefixed(prefix: str, state: Arrays) -> Arrays:
    return {prefix + name: value for name, value in state.items()}


# A file for each way that people save these weights: its name, how it is written, and how the numbers are rounded.
Write = Callable[[Path, Arrays, SimpleNamespace], object]
FILES: dict[str, tuple[str, Write, Callable[[Arrays], Arrays]]] = {}


def file_of(name: str, rounded: Callable[[Arrays], Arrays] = dict) -> Callable[[Write], Write]:
    def keep(write: Write) -> Write:
        FILES[write.__name__] = (name, write, rounded)
        return write
    return keep


@file_of("mobilenet_v2-b0353104.pth")
def torchvision_published(path: Path, weights: Arrays, torch: SimpleNamespace) -> None:
    write_zip(path, *torch_state(torch, renamed(weights, TORCHVISION, TORCH)))


@file_of("old.pt")
def torch_before_1_6(path: Path, weights: Arrays, torch: SimpleNamespace) -> None:
    write_old(path, *torch_state(torch, renamed(weights, TORCHVISION, TORCH)))


@file_of("model_best.pth.tar")
def data_parallel(path: Path, weights: Arrays, torch: SimpleNamespace) -> None:
    state = prefixed("module.", renamed(weights, BY_NAME["tonylins"], TORCH))
    write_zip(path, *torch_state(torch, {"epoch": 3, "state_dict": state, "args": argparse.Namespace(lr=0.1)}))


@file_of("checkpoint.pth")
def torchvision_training(path: Path, weights: Arrays, torch: SimpleNamespace) -> None:
    state = renamed(weights, TORCHVISION, TORCH)
    other = {name: value + 1 for name, value in state.items()}
    average = {"n_averaged": np.array(5), **prefixed("module.", state)}
    write_zip(path, *torch_state(torch, {"model": other, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
                                         "model_ema": average, "args": argparse.Namespace(data=Path("x"))}))


@file_of("epoch=3.ckpt")
def lightning(path: Path, weights: Arrays, torch: SimpleNamespace) -> None:
    state = prefixed("model.", renamed(weights, TIMM, TORCH))
    write_zip(path, *torch_state(torch, {"pytorch-lightning_version": "2.5", "state_dict": state, "callbacks": {},
                                         "hyper_parameters": {"width": 0.35}}))


@file_of("pytorch_model.bin", halved)
def timm_compiled_half(path: Path, weights: Arrays, torch: SimpleNamespace) -> None:
    state = prefixed("_orig_mod.", renamed(weights, TIMM, TORCH))
    write_zip(path, *torch_state(torch, {name: value.astype(np.float16) for name, value in state.items()}))


@file_of("mobilenetv2-c5e733a8.pth", cut)
def d_li14_brain(path: Path, weights: Arrays, torch: SimpleNamespace) -> None:
    write_zip(path, *torch_state(torch, bfloat16(renamed(weights, BY_NAME["d-li14"], TORCH))))


@file_of("model.safetensors")
def timm_safetensors(path: Path, weights: Arrays, _torch: SimpleNamespace) -> None:
    save_file(renamed(weights, TIMM, TORCH), path, metadata={"format": "pt"})


@file_of("a name without an ending", cut)
def brain_safetensors(path: Path, weights: Arrays, _torch: SimpleNamespace) -> None:
    write_brain_safetensors(path, renamed(weights, TORCHVISION, TORCH))


@file_of("mobilenet_v2_100-d5532038.ckpt")
def mindcv(path: Path, weights: Arrays, _torch: SimpleNamespace) -> None:
    write_ckpt(path, renamed(weights, BY_NAME["mindcv"], MINDSPORE))


@file_of("mobilenetv2_ascend.ckpt")
def model_zoo_training(path: Path, weights: Arrays, _torch: SimpleNamespace) -> None:
    state = renamed(weights, BY_NAME["MindSpore's model zoo"], MINDSPORE, "head.2")
    write_ckpt(path, {**prefixed("network.", state), **prefixed("moments.network.", state),
                      "global_step": np.ones(1), "learning_rate": np.ones(1)})


@file_of("half.ckpt", halved)
def model_zoo_half(path: Path, weights: Arrays, _torch: SimpleNamespace) -> None:
    write_ckpt(path, renamed(weights, BY_NAME["MindSpore's model zoo"], MINDSPORE), ms.float16)


@file_of("brain.ckpt", cut)
def model_zoo_brain(path: Path, weights: Arrays, _torch: SimpleNamespace) -> None:
    write_ckpt(path, renamed(cut(weights), BY_NAME["MindSpore's model zoo"], MINDSPORE), ms.bfloat16)


@file_of("mobilenet_v2_batch256_imagenet_20200708-3b2dc3af.pth")
def mmpretrain(path: Path, weights: Arrays, torch: SimpleNamespace) -> None:
    named = renamed(weights, BY_NAME["mmpretrain"], TORCH)
    state = {("head." if name.startswith("fc.") else "backbone.") + name: value for name, value in named.items()}
    write_zip(path, *torch_state(torch, {"meta": {"epoch": 300, "config": "model = dict()"}, "state_dict": state}))


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file(kind: str, weights: Arrays, tmp_path: Path, torch_names: SimpleNamespace,
                            capsys: pytest.CaptureFixture[str]) -> None:
    name, write, rounded = FILES[kind]
    write(tmp_path / name, weights, torch_names)
    found = open_pretrained(tmp_path / name)
    assert {name: value.asnumpy().tobytes() for name, value in found.network.items()} == {
        name: value.tobytes() for name, value in rounded(weights).items()}
    assert found.config == {"width_mult": 0.35, "num_classes": 4}
    assert (found.metadata.source, found.digest) == (name, file_digest(tmp_path / name))
    assert capsys.readouterr().out.startswith(f"{tmp_path / name}: MobileNetV2 0.35, 4 classes, 262 parameters, named")


def test_a_checkpoint_of_this_project_is_as_it_was(weights: Arrays, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    metadata = CheckpointMetadata(config={"width_mult": 0.35}, classes=("a", "b", "c", "d"))
    write_checkpoint(tmp_path / "k.ckpt", {name: Tensor(value) for name, value in weights.items()}, {}, metadata)
    found = open_pretrained(tmp_path / "k.ckpt")
    assert found.classes == ("a", "b", "c", "d")
    assert found.network.keys() == weights.keys()
    assert capsys.readouterr().out == ""


# ---- the same answers, with the weights that know ImageNet

@pytest.fixture(scope="module")
def imagenet(shared: Path) -> tuple[Arrays, Callable[[Path], np.ndarray]]:
    """The weights, and a function from a file to the logits of two photos."""
    network = MobileNetV2(1000).set_train(False)
    photos = []
    for path in sorted((shared / "data" / "grocery20" / "val").glob("*/*.jpg"))[::200]:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE)), np.float32) / 255
        normalised = (pixels - IMAGENET_PIXELS.mean) / IMAGENET_PIXELS.std
        photos.append(normalised.astype(np.float32).transpose(2, 0, 1))

    def logits(path: Path) -> np.ndarray:
        load_weights(network, open_pretrained(path))
        return network(Tensor(np.stack(photos))).asnumpy()

    plain = open_pretrained(shared / "weights" / "mobilenet_v2_imagenet.safetensors")
    return {name: value.asnumpy() for name, value in plain.network.items()}, logits


@pytest.mark.parametrize("kind", FILES)
def test_logits_are_the_plain_files(kind: str, imagenet: tuple[Arrays, Callable[[Path], np.ndarray]], tmp_path: Path,
                                    torch_names: SimpleNamespace) -> None:
    """Those of the numbers as the file rounds them."""
    weights, logits = imagenet
    name, write, rounded = FILES[kind]
    save_file(rounded(weights), tmp_path / "plain")
    write(tmp_path / name, weights, torch_names)
    expected = logits(tmp_path / "plain")
    assert np.ptp(expected) > 5
    np.testing.assert_allclose(logits(tmp_path / name), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v2_imagenet.pth", "model_zoo_ancestor.ckpt"])
def test_files_as_pytorch_and_the_ancestor_wrote_them(name: str, shared: Path,
                                                      imagenet: tuple[Arrays, Callable[[Path], np.ndarray]]) -> None:
    logits = imagenet[1]
    expected = logits(shared / "weights" / "mobilenet_v2_imagenet.safetensors")
    np.testing.assert_allclose(logits(shared / "weights" / name), expected, rtol=0, atol=1e-4)


# ---- files of something else

@pytest.mark.parametrize(("content", "text"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a pointer of Git LFS"),
    (b"<!DOCTYPE html>\n<html>", "a web page"),
    ("Notizen über das Modell\n".encode() * 40, "a text, not a MindSpore checkpoint"),
    (bytes(100) + bytes.fromhex("57fb808b247547db"), "not a TensorFlow checkpoint that can be read"),
    (gzip.compress(b"weights", mtime=0), "compressed by gzip"),
    (b"PK\x03\x04" + bytes(100), "a zip archive that was cut off"),
    (b"\x80\x02]q\x00.", "not a PyTorch file, or a damaged one"),
    (b"\x10\0\0\0\0\0\0\0{" + bytes(20), "not a safetensors file of numbers"),
    (bytes(range(256)), "not a MindSpore checkpoint"), (b"", "is empty"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_other_content(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(content)
    with pytest.raises(UserError) as error:
        open_pretrained(tmp_path / "w.bin")
    assert str(error.value).startswith(f"{tmp_path / 'w.bin'}: ")
    assert text in str(error.value)


@pytest.mark.parametrize("write", [write_zip, write_old])
def test_a_truncated_file(write: Callable, weights: Arrays, tmp_path: Path, torch_names: SimpleNamespace) -> None:
    write(tmp_path / "w.pth", *torch_state(torch_names, renamed(weights, TIMM, TORCH)))
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[:len(content) // 2])
    with pytest.raises(UserError, match="cut off|a damaged one"):
        open_pretrained(tmp_path / "w.pth")


def test_a_resnet(tmp_path: Path) -> None:
    save_file({"conv1.weight": np.ones((64, 3, 7, 7), np.float32), "fc.weight": np.ones((10, 512), np.float32)},
              tmp_path / "resnet.safetensors")
    with pytest.raises(UserError, match="holds another network: its 2 arrays .* but conv1.weight, fc.weight"):
        open_pretrained(tmp_path / "resnet.safetensors")
