"""Foreign weights: names of two libraries, two file formats, nothing executed, nothing lost."""
import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_one_clear_line, config_for, run_script
from mindspore import Tensor
from safetensors.numpy import save_file

from src.checkpoint.file import read_checkpoint
from src.checkpoint.torch_file import read_torch_file
from src.errors import UserError
from src.mobilenetV2 import MobileNetV2
from src.models import define_net
from src.utils import load_weights
from tools.convert_weights import (
    STATISTICS,
    Layer,
    convert,
    main,
    nearest_width,
    output_channels,
    timm_layers,
    torchvision_layers,
)

# Logits of PyTorch 2.13 for the ImageNet weights in ../shared and one image of noise: with
# net = MobileNetV2(1000).eval() of tools/peers/torch_network.py and the weights loaded,
#   np.save("logits_64.npy", net(torch.from_numpy(noise(64))).detach().numpy()[0])
LOGITS = Path(__file__).parents[1] / "fixtures" / "logits_64.npy"


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)


# ---- state dicts

def foreign(layers: Iterator[Layer], classifier: str, width: float = 0.35, classes: int = 4) -> dict[str, np.ndarray]:
    """A state dict of random weights under a library's names."""
    random = np.random.default_rng(1)
    network = MobileNetV2(classes, width)
    shapes = {p.name: p.shape for p in network.get_parameters()}
    state: dict[str, np.ndarray] = {}
    for ours, conv, norm in layers:
        state[f"{conv}.weight"] = random.standard_normal(shapes[f"{ours}.conv.weight"]).astype(np.float32)
        for mine, theirs in STATISTICS.items():
            state[f"{norm}.{theirs}"] = random.random(shapes[f"{ours}.bn.{mine}"]).astype(np.float32)
        state[f"{norm}.num_batches_tracked"] = np.array(7)
    for kind in ("weight", "bias"):
        state[f"{classifier}.{kind}"] = random.standard_normal(shapes[f"head.classifier.{kind}"]).astype(np.float32)
    return state


@pytest.fixture
def torchvision() -> dict[str, np.ndarray]:
    return foreign(torchvision_layers(), "classifier.1")


# ---- files as torch.save writes them

class _Storage:
    def __init__(self, kind: type, values: np.ndarray, key: str) -> None:
        self.kind, self.values, self.key = kind, values, key


@pytest.fixture
def torch_names(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Stand-ins that pickle under the names that PyTorch's classes have."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "HalfStorage", "BFloat16Storage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2() -> None:
        """Only its name counts."""

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    torch._utils = utils  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return types.SimpleNamespace(torch=torch, rebuild=_rebuild_tensor_v2)


class _TorchTensor:
    def __init__(self, names: types.SimpleNamespace, storage: _Storage, offset: int, shape: tuple[int, ...],
                 strides: tuple[int, ...]) -> None:
        self.arguments: tuple = (storage, offset, shape, strides, False, OrderedDict())
        self.rebuild = names.rebuild

    def __reduce__(self) -> tuple:
        return self.rebuild, self.arguments


class _Pickler(pickle.Pickler):
    old = False

    def persistent_id(self, obj: object) -> tuple | None:
        if not isinstance(obj, _Storage):
            return None
        pid = ("storage", obj.kind, obj.key, "cpu", obj.values.size)
        return (*pid, None) if self.old else pid


class _OldPickler(_Pickler):
    old = True


def pickled(value: object, pickler: type[_Pickler] = _Pickler) -> bytes:
    buffer = io.BytesIO()
    pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def write_zip(path: Path, value: object, storages: list[_Storage], **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        archive.writestr("archive/byteorder", b"little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.values.tobytes())
        for name, content in more.items():
            archive.writestr(f"archive/{name}", content)
    return path


def write_old(path: Path, value: object, storages: list[_Storage]) -> Path:
    parts = [pickled(part, _OldPickler) for part in (
        0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, [storage.key for storage in storages])]
    content = b"".join(len(s.values).to_bytes(8, "little") + s.values.tobytes() for s in storages)
    path.write_bytes(b"".join(parts) + content)
    return path


def torch_state(names: types.SimpleNamespace, state: dict[str, np.ndarray]) -> tuple[OrderedDict, list[_Storage]]:
    """A state dict as tensors in storages of their own."""
    storages, tensors = [], OrderedDict()
    for number, (name, value) in enumerate(state.items()):
        kind = names.torch.LongStorage if value.dtype == np.int64 else names.torch.FloatStorage
        storages.append(_Storage(kind, value.ravel(), str(number)))
        strides = tuple(stride // value.itemsize for stride in value.strides)
        tensors[name] = _TorchTensor(names, storages[-1], 0, value.shape, strides)
    return tensors, storages


# ---- the conversion

@pytest.mark.parametrize(("layers", "classifier"), [(torchvision_layers, "classifier.1"), (timm_layers, "classifier")])
def test_every_weight_arrives_under_its_own_name(layers: Callable[[], Iterator[Layer]], classifier: str) -> None:
    state = foreign(layers(), classifier)
    width, weights = convert(state, "here")
    assert width == 0.35
    assert len(weights) == 262 == len(state) - 52  # but for 52 counters
    for ours, conv, norm in layers():
        np.testing.assert_array_equal(weights[f"{ours}.conv.weight"], state[f"{conv}.weight"])
        np.testing.assert_array_equal(weights[f"{ours}.bn.moving_variance"], state[f"{norm}.running_var"])
    np.testing.assert_array_equal(weights["head.classifier.bias"], state[f"{classifier}.bias"])


def test_names_as_the_libraries_write_them() -> None:
    """As in the published files."""
    torchvision_names = {conv: ours for ours, conv, _ in torchvision_layers()}
    assert torchvision_names["features.0.0"] == "backbone.stem"
    assert torchvision_names["features.1.conv.0.0"] == "backbone.blocks.0.depthwise"
    assert torchvision_names["features.1.conv.1"] == "backbone.blocks.0.project"
    assert torchvision_names["features.17.conv.2"] == "backbone.blocks.16.project"
    assert torchvision_names["features.18.0"] == "backbone.last"
    timm_names = {conv: (ours, norm) for ours, conv, norm in timm_layers()}
    assert timm_names["blocks.0.0.conv_pw"] == ("backbone.blocks.0.project", "blocks.0.0.bn2")
    assert timm_names["blocks.1.1.conv_pw"] == ("backbone.blocks.2.expand", "blocks.1.1.bn1")
    assert timm_names["blocks.6.0.conv_pwl"] == ("backbone.blocks.16.project", "blocks.6.0.bn3")
    assert timm_names["conv_head"] == ("backbone.last", "bn2")


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 0.6, 1.2])
def test_the_width_is_read_off_the_weights(width: float) -> None:
    channels = dict(output_channels(width))
    found = nearest_width(channels)
    assert dict(output_channels(found)) == channels
    if width in {0.35, 0.5, 0.75, 1.0, 1.3, 1.4}:
        assert found == width


def test_faults_are_listed_in_one_line_by_the_sources_names(torchvision: dict[str, np.ndarray]) -> None:
    del torchvision["features.3.conv.1.1.running_mean"]
    torchvision["features.99.weight"] = np.zeros(3, np.float32)
    torchvision["features.2.conv.2.weight"] = np.zeros((8, 48, 3, 3), np.float32)
    with pytest.raises(UserError) as error:
        convert(torchvision, "w.pth")
    assert str(error.value) == (
        "w.pth: is no MobileNetV2 0.35: missing features.3.conv.1.1.running_mean; unexpected features.99.weight; "
        "of another shape: features.2.conv.2.weight 8x48x3x3 instead of 8x48x1x1")


@pytest.mark.parametrize("state", [{"conv1.weight": np.zeros((3, 3), np.float32)}, {}])
def test_another_networks_weights_are_refused(state: dict[str, np.ndarray]) -> None:
    with pytest.raises(UserError, match="neither torchvision's keys"):
        convert(state, "w.pth")


def test_classifier_alone_lists_what_is_missing() -> None:
    with pytest.raises(UserError, match="missing .* and 256 more"):
        convert({"classifier.1.weight": np.zeros((4, 1280), np.float32),
                 "classifier.1.bias": np.zeros(4, np.float32), "features.0.0.weight": np.ones((), np.float32)}, "w.pth")


def test_both_formats_give_the_same_checkpoint(torchvision: dict[str, np.ndarray], tmp_path: Path,
                                               torch_names: types.SimpleNamespace) -> None:
    sources = [write_zip(tmp_path / "new.pth", *torch_state(torch_names, torchvision)),
               write_old(tmp_path / "old.pth", *torch_state(torch_names, torchvision)),
               tmp_path / "w.safetensors"]
    save_file(torchvision, sources[-1])
    contents = set()
    for source in sources:
        output = tmp_path / f"{source.stem}.ckpt"
        main(["--source", str(source), "--output", str(output)])
        contents.add(output.read_bytes())
        checkpoint = read_checkpoint(output)
        assert checkpoint.metadata.source == source.name
        assert checkpoint.config == {"width_mult": 0.35, "num_classes": 4}
        assert checkpoint.classes is None
    assert len(contents) == 1
    network = define_net(config_for().adopt(checkpoint.config, "width_mult"), 4)
    load_weights(network, checkpoint)
    np.testing.assert_array_equal(network.head.classifier.bias.asnumpy(), torchvision["classifier.1.bias"])


def test_logits_are_pytorchs(shared: Path, tmp_path: Path) -> None:
    outputs = []
    for ending in ("safetensors", "pth"):
        outputs.append(tmp_path / f"{ending}.ckpt")
        main(["--source", str(shared / "weights" / f"mobilenet_v2_imagenet.{ending}"), "--output", str(outputs[-1])])
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    checkpoint = read_checkpoint(outputs[0])
    assert checkpoint.config["width_mult"] == 1.0
    network = define_net(config_for(), 1000)
    load_weights(network, checkpoint)
    network.set_train(False)
    logits = network(Tensor(noise(64))).asnumpy()[0]
    np.testing.assert_allclose(logits, np.load(LOGITS), atol=1e-3, rtol=0)


# ---- .pth files that are not what they should be

class Malicious:
    """Its pickle runs a command in whoever reads it trustingly."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("write", [write_zip, write_old])
def test_code_in_a_pickle_is_not_run(write: Callable, tmp_path: Path) -> None:
    path = write(tmp_path / "evil.pth", {"features.0.0.weight": Malicious(tmp_path / "proof")}, [])
    with pytest.raises(UserError, match=r"evil\.pth: asks for (posix|nt)\.system"):
        read_torch_file(path)
    assert not (tmp_path / "proof").exists()
    pickle.loads(pickled(Malicious(tmp_path / "proof")))  # the attack itself is sound
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__"])
def test_no_builtin_is_allowed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", f"cbuiltins\n{name}\n(tR.".encode())
    with pytest.raises(UserError, match=f"asks for builtins.{name}"):
        read_torch_file(path)


@pytest.mark.parametrize(("offset", "shape", "strides"), [
    (0, (4, 4), (4, 1)), (9, (2,), (1,)), (0, (2, 2), (100, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (-2,), (1,)),
    (0, (2, 2), (1,)), (2 ** 62, (1,), (1,)),
])
@pytest.mark.parametrize("write", [write_zip, write_old])
def test_no_tensor_reaches_beyond_its_storage(write: Callable, offset: int, shape: tuple, strides: tuple,
                                              tmp_path: Path, torch_names: types.SimpleNamespace) -> None:
    storage = _Storage(torch_names.torch.FloatStorage, np.zeros(10, np.float32), "0")
    path = write(tmp_path / "w.pth", {"w": _TorchTensor(torch_names, storage, offset, shape, strides)}, [storage])
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(path)


def test_views_shared_storages_and_transposes(tmp_path: Path, torch_names: types.SimpleNamespace) -> None:
    storage = _Storage(torch_names.torch.FloatStorage, np.arange(12, dtype=np.float32), "0")

    def tensor(*place: Any) -> _TorchTensor:  # noqa: ANN401 - offset, shape, strides
        return _TorchTensor(torch_names, storage, *place)

    value = {"t": tensor(0, (4, 3), (1, 4)), "v": tensor(2, (3,), (1,)), "s": tensor(11, (), ()),
             "none": tensor(0, (0, 3), (3, 1))}
    found = read_torch_file(write_zip(tmp_path / "w.pth", value, [storage]))
    np.testing.assert_array_equal(found["t"], np.arange(12).reshape(3, 4).T)
    assert found["v"].tolist() == [2, 3, 4]
    assert found["s"] == 11
    assert found["none"].shape == (0, 3)


def test_half_precision_is_read(tmp_path: Path, torch_names: types.SimpleNamespace) -> None:
    half = _Storage(torch_names.torch.HalfStorage, np.array([0.5, -2], np.float16), "0")
    brain = _Storage(torch_names.torch.BFloat16Storage, np.array([0x3F00, 0xC000], np.uint16), "1")
    value = {"h": _TorchTensor(torch_names, half, 0, (2,), (1,)), "b": _TorchTensor(torch_names, brain, 0, (2,), (1,))}
    for write in (write_zip, write_old):
        found = read_torch_file(write(tmp_path / "w.pth", value, [half, brain]))
        assert found["h"].tolist() == found["b"].tolist() == [0.5, -2]


def test_truncated_anywhere_is_an_error(torchvision: dict[str, np.ndarray], tmp_path: Path,
                                        torch_names: types.SimpleNamespace) -> None:
    for write in (write_zip, write_old):
        content = write(tmp_path / "whole.pth", *torch_state(torch_names, torchvision)).read_bytes()
        for share in (0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.9999):
            cut = tmp_path / "cut.pth"
            cut.write_bytes(content[:int(share * len(content))])
            with pytest.raises(UserError, match=r"cut\.pth: not a PyTorch file, or a damaged one") as error:
                read_torch_file(cut)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [{"state_dict": {}}, {"epoch": 3}, [1, 2], {}, {1: 2}])
def test_something_else_than_named_tensors(value: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not hold named tensors alone"):
        read_torch_file(write_zip(tmp_path / "w.pth", value, []))


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled({}))
        archive.writestr("archive/byteorder", b"big")
    with pytest.raises(UserError, match="big-endian"):
        read_torch_file(path)


# ---- the command

def test_files_of_the_wrong_kind(tmp_path: Path) -> None:
    def refusal(source: Path, output: Path = tmp_path / "k.ckpt") -> str:
        with pytest.raises(UserError) as error:
            main(["--source", str(source), "--output", str(output)])
        return str(error.value)

    assert refusal(tmp_path / "none.pth") == f"{tmp_path / 'none.pth'}: no such file"
    for name in ("a.safetensors", "a.txt", "a.pth"):
        (tmp_path / name).write_bytes(b"text")
    assert "a.safetensors: not a safetensors file" in refusal(tmp_path / "a.safetensors")
    assert "expected a .pth or a .safetensors file" in refusal(tmp_path / "a.txt")
    assert "a.pth: not a PyTorch file" in refusal(tmp_path / "a.pth")
    assert "ending .ckpt" in refusal(tmp_path / "a.pth", tmp_path / "k.json")
    assert not (tmp_path / "k.ckpt").exists()


def test_the_command_ends_in_one_line(tmp_path: Path) -> None:
    run = run_script("tools/convert_weights.py", "--source", tmp_path / "none.pth", "--output", tmp_path / "k.ckpt")
    assert_one_clear_line(run, "none.pth", "no such file")
