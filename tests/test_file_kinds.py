"""What is named as a model and is none: one line says what it is."""
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, config_for
from mindspore import Tensor
from safetensors.numpy import save

from src.checkpoint.file import write_checkpoint
from src.checkpoint.pretrained import open_pretrained
from src.checkpoint.record import CheckpointMetadata
from src.deployment.runtime import load_exported
from src.errors import UserError
from src.file_kinds import file_kind

FIXTURES = ROOT / "tests" / "fixtures"


def archive(folder: Path, encrypted: bool) -> bytes:
    with zipfile.ZipFile(folder / "w.zip", "w") as file:
        file.writestr("w/data.pkl", b"x")
    content = bytearray((folder / "w.zip").read_bytes())
    if encrypted:
        content[content.find(b"PK\x01\x02") + 8] |= 1  # the flags in the list of files
    return bytes(content)


KINDS: dict[str, Callable[[Path], bytes]] = {
    "a text": lambda _: b"not a network\n" * 9,
    "an encrypted zip archive": lambda folder: archive(folder, True),
    "a zip archive, as PyTorch writes": lambda folder: archive(folder, False),
    "a safetensors file": lambda _: save({"conv1.weight": np.ones((64, 3, 7, 7), np.float32)}),
    "a pickle, as PyTorch wrote before 1.6": lambda _: b"\x80\x02]q\x00.",
    "an HDF5 file, as Keras writes": lambda _: b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a MindSpore Lite file": lambda _: b"(\0\0\0MSL2 " + bytes(100),
    "an ONNX file": lambda _: (FIXTURES / "tiny.onnx").read_bytes(),
    "a TFLite file": lambda _: (FIXTURES / "tiny.tflite").read_bytes(),
    "ncnn's list of layers": lambda _: (FIXTURES / "tiny.param").read_bytes(),
    "a MINDIR file": lambda _: (FIXTURES / "tiny.mindir").read_bytes(),
}
WANTED = {".onnx": "an ONNX file", ".mindir": "a MINDIR file", ".tflite": "a TFLite file",
          ".param": "ncnn's list of layers"}
RUNTIMES = {".onnx": "onnxruntime", ".tflite": "ai_edge_litert", ".param": "ncnn", ".mindir": "mindspore"}


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("kind", "ending"), [(kind, ending) for kind in KINDS for ending in WANTED
                                              if kind != WANTED[ending]])
def test_as_an_exported_network(kind: str, ending: str, tmp_path: Path) -> None:
    pytest.importorskip(RUNTIMES[ending], reason="needs a runtime that requirements-runtimes.txt names")
    path = tmp_path / f"m{ending}"
    path.write_bytes(KINDS[kind](tmp_path))
    path.with_suffix(".bin").touch()
    assert refusal(lambda path: load_exported(path, config_for()), path) == f"{path}: not {WANTED[ending]}, but {kind}"


@pytest.mark.parametrize("kind", ["an ONNX file", "a TFLite file", "ncnn's list of layers", "a MINDIR file",
                                  "a MindSpore Lite file"])
def test_an_exported_network_as_a_checkpoint(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "w.ckpt"
    path.write_bytes(KINDS[kind](tmp_path))
    assert refusal(open_pretrained, path).startswith(f"{path}: {kind}, not a checkpoint; ")


def test_a_folder_as_a_checkpoint(tmp_path: Path) -> None:
    assert refusal(open_pretrained, tmp_path) == f"{tmp_path}: a folder, not a checkpoint"


def test_an_unrelated_network_as_mindspore_saves_it(tmp_path: Path) -> None:
    names = ("layer1.0.conv1.weight", "end_point.weight")
    write_checkpoint(tmp_path / "resnet.ckpt", {name: Tensor(np.ones((4, 4), np.float32)) for name in names}, {},
                     CheckpointMetadata())
    assert "holds another network: its 2 arrays are not named as those of a MobileNetV2" in refusal(
        open_pretrained, tmp_path / "resnet.ckpt")


def test_a_cut_archive_and_what_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(archive(tmp_path, False)[:40])
    assert file_kind(path) == "a zip archive, as PyTorch writes"
    for content in (b"", bytes(range(256))):
        path.write_bytes(content)
        assert file_kind(path) == ""
