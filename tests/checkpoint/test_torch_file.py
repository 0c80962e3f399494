"""The reader of PyTorch's files: nothing in them is run, and nothing outside their storages is touched."""
import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from src.checkpoint.torch_file import read_torch_file
from src.errors import UserError
from tests.support.torch_files import Storage, TorchTensor, pickled, torch_state, write_old, write_zip


class Malicious:
    """Its pickle runs a command in whoever reads it trustingly."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("write", [write_zip, write_old])
def test_code_in_a_pickle_is_not_run(write: Callable, tmp_path: Path) -> None:
    path = write(tmp_path / "evil.pth", {"epoch": 3, "evil": Malicious(tmp_path / "proof")}, [])
    assert read_torch_file(path)["epoch"] == 3
    assert not (tmp_path / "proof").exists()
    pickle.loads(pickled(Malicious(tmp_path / "proof")))  # the attack itself is sound
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__"])
def test_no_builtin_is_called(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", f"cbuiltins\n{name}\n(tR.".encode())
    with pytest.raises(UserError, match=f"holds an object of builtins.{name}, of which nothing is run"):
        read_torch_file(path)


class Optimizer:
    """An object with a state, a list and a dictionary, as training scripts leave beside the weights."""

    def __init__(self, proof: Path) -> None:
        self.rates = {"lr": 0.1}
        self.proof = str(proof)

    def __setstate__(self, state: dict) -> None:
        Path(state["proof"]).touch()


def test_what_training_leaves_beside_the_weights_is_passed_over(tmp_path: Path, torch_names: SimpleNamespace) -> None:
    weights = {"w": np.arange(3, dtype=np.float32)}
    left = {"args": argparse.Namespace(lr=0.1, path=Path("data")), "optimizer": Optimizer(tmp_path / "proof"),
            "best": np.float64(0.5), "when": [Optimizer(tmp_path / "proof")]}
    path = write_zip(tmp_path / "w.pth.tar", *torch_state(torch_names, {"model": weights, **left}))
    np.testing.assert_array_equal(read_torch_file(path)["model"]["w"], weights["w"])
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(("offset", "shape", "strides"), [
    (0, (4, 4), (4, 1)), (9, (2,), (1,)), (0, (2, 2), (100, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (-2,), (1,)),
    (0, (2, 2), (1,)), (2 ** 62, (1,), (1,)),
])
@pytest.mark.parametrize("write", [write_zip, write_old])
def test_no_tensor_reaches_beyond_its_storage(write: Callable, offset: int, shape: tuple, strides: tuple,
                                              tmp_path: Path, torch_names: SimpleNamespace) -> None:
    storage = Storage(torch_names.torch.FloatStorage, np.zeros(10, np.float32), "0")
    path = write(tmp_path / "w.pth", {"w": TorchTensor(torch_names, storage, offset, shape, strides)}, [storage])
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(path)


def test_views_shared_storages_and_transposes(tmp_path: Path, torch_names: SimpleNamespace) -> None:
    storage = Storage(torch_names.torch.FloatStorage, np.arange(12, dtype=np.float32), "0")

    def tensor(*place: Any) -> TorchTensor:  # noqa: ANN401 - offset, shape, strides
        return TorchTensor(torch_names, storage, *place)

    value = {"t": tensor(0, (4, 3), (1, 4)), "v": tensor(2, (3,), (1,)), "s": tensor(11, (), ()),
             "none": tensor(0, (0, 3), (3, 1))}
    found = read_torch_file(write_zip(tmp_path / "w.pth", value, [storage]))
    np.testing.assert_array_equal(found["t"], np.arange(12).reshape(3, 4).T)
    assert found["v"].tolist() == [2, 3, 4]
    assert found["s"] == 11
    assert found["none"].shape == (0, 3)


def test_half_precision(tmp_path: Path, torch_names: SimpleNamespace) -> None:
    half = Storage(torch_names.torch.HalfStorage, np.array([0.5, -2], np.float16), "0")
    brain = Storage(torch_names.torch.BFloat16Storage, np.array([0x3F00, 0xC000], np.uint16), "1")
    value = {"h": TorchTensor(torch_names, half, 0, (2,), (1,)), "b": TorchTensor(torch_names, brain, 0, (2,), (1,))}
    for write in (write_zip, write_old):
        found = read_torch_file(write(tmp_path / "w.pth", value, [half, brain]))
        assert found["h"].tolist() == found["b"].tolist() == [0.5, -2]


def test_truncated_anywhere_is_an_error(tmp_path: Path, torch_names: SimpleNamespace) -> None:
    weights = {f"layer{n}.weight": np.full((20, n + 1), n, np.float32) for n in range(30)}
    for write in (write_zip, write_old):
        content = write(tmp_path / "whole.pth", *torch_state(torch_names, weights)).read_bytes()
        for share in (0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.9999):
            cut = tmp_path / "cut.pth"
            cut.write_bytes(content[:int(share * len(content))])
            with pytest.raises(UserError, match=r"cut\.pth: not a PyTorch file, or a damaged one") as error:
                read_torch_file(cut)
            assert "\n" not in str(error.value)


def test_a_type_of_numbers_that_is_not_read(tmp_path: Path, torch_names: SimpleNamespace) -> None:
    """Beside the weights it does no harm, but in the older format the weights cannot be found behind it."""
    torch_names.torch.UntypedStorage = type("UntypedStorage", (), {"__module__": "torch"})
    odd = Storage(torch_names.torch.UntypedStorage, np.zeros(3, np.uint8), "7")
    value, storages = torch_state(torch_names, {"w": np.ones(3, np.float32)})
    value["odd"] = TorchTensor(torch_names, odd, 0, (3,), (1,))
    assert read_torch_file(write_zip(tmp_path / "w.pth", value, storages))["w"].tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="tensors of a type that is not read"):
        read_torch_file(write_old(tmp_path / "w.pth", value, [odd, *storages]))


@pytest.mark.parametrize("value", [[1, 2], "text", 3])
def test_something_else_than_a_dictionary(value: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no dictionary of tensors, but a (list|str|int)"):
        read_torch_file(write_zip(tmp_path / "w.pth", value, []))


def test_a_whole_network_is_not_built(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "w.pth", Optimizer(tmp_path / "proof"), [])
    with pytest.raises(UserError, match=r"holds an object of .*Optimizer, of which nothing is run here"):
        read_torch_file(path)
    assert not (tmp_path / "proof").exists()


def test_an_encrypted_archive(tmp_path: Path) -> None:
    content = bytearray(write_zip(tmp_path / "w.pth", {}, []).read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # of each file, and of the list of files
        place = content.find(signature)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(signature, place + 1)
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match="is an encrypted zip archive"):
        read_torch_file(tmp_path / "w.pth")


def test_a_torchscript_program(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "w.pt", {}, [], **{"code/__torch__.py": b"class Net"})
    with pytest.raises(UserError, match="is a TorchScript program"):
        read_torch_file(path)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("model.weights.h5", b"x")
    with pytest.raises(UserError, match=r"but not one of torch\.save: it holds model\.weights\.h5"):
        read_torch_file(tmp_path / "w.zip")


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled({}))
        archive.writestr("archive/byteorder", b"big")
    with pytest.raises(UserError, match="big-endian"):
        read_torch_file(path)
