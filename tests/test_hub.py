"""The network as MindSpore Hub gets it, and the description that Hub asks for."""
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from conftest import ROOT
from mindspore import Tensor, nn
from safetensors.numpy import save_file

import mindspore_hub_conf as hub
from src.checkpoint.file import write_checkpoint
from src.checkpoint.namings import TIMM, TORCH
from src.checkpoint.record import CheckpointMetadata
from src.errors import UserError
from src.mobilenetV2 import MobileNetV2
from src.utils import network_parameters
from tests.support.foreign_weights import renamed

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)

# What mindspore_hub's loader does, from a folder that is not the repository's.
LOADER = """
import importlib.util, sys
path, checkpoint = sys.argv[1:]
sys.path.insert(0, path.rpartition("/")[0])
spec = importlib.util.spec_from_file_location("mindspore_hub_conf", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from mindspore import nn, load_checkpoint, load_param_into_net
network = module.create_network("MobileNetV2".lower(), num_classes=5, width_mult=0.35)
assert isinstance(network, nn.Cell)
missing, unexpected = load_param_into_net(network, load_checkpoint(checkpoint), strict_load=True)
print("missing", len(missing), "classes", network.head.classifier.out_channels)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network with 5 classes."""
    path = tmp_path_factory.mktemp("hub") / "mobilenetv2.ckpt"
    write_checkpoint(path, network_parameters(MobileNetV2(5, 0.35)), {},
                     CheckpointMetadata({"width_mult": 0.35}))
    return path


def run(network: nn.Cell) -> np.ndarray:
    return network.set_train(False)(Tensor(IMAGES)).asnumpy()


def test_loaded_by_path_from_another_folder(checkpoint: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", LOADER, str(ROOT / "mindspore_hub_conf.py"), str(checkpoint)],
                          cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "missing 0 classes 5\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_tells_width_and_classes(checkpoint: Path) -> None:
    network = hub.create_network("mobilenetv2", pretrain_ckpt=str(checkpoint))
    logits = run(network)
    plain = MobileNetV2(5, 0.35)
    ms.load_param_into_net(plain, ms.load_checkpoint(str(checkpoint)), strict_load=True)
    np.testing.assert_array_equal(logits, run(plain))


def test_weights_of_another_project(checkpoint: Path, tmp_path: Path) -> None:
    weights = {name: value.asnumpy() for name, value in ms.load_checkpoint(str(checkpoint)).items()}
    save_file(renamed(weights, TIMM, TORCH), tmp_path / "model.safetensors")
    network = hub.create_network("mobilenetv2", pretrain_ckpt=tmp_path / "model.safetensors")
    np.testing.assert_array_equal(run(network), run(hub.create_network("mobilenetv2", pretrain_ckpt=checkpoint)))


def test_without_the_top_it_is_the_backbone(checkpoint: Path) -> None:
    backbone = hub.create_network("mobilenetv2", include_top=False, pretrain_ckpt=checkpoint)
    assert run(backbone).shape == (2, backbone.out_channels, 1, 1)
    whole = hub.create_network("mobilenetv2", pretrain_ckpt=checkpoint)
    np.testing.assert_array_equal(run(backbone), run(whole.backbone))


def test_other_classes_need_filter_head(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="another number of classes"):
        hub.create_network("mobilenetv2", num_classes=3, pretrain_ckpt=checkpoint)
    network = hub.create_network("mobilenetv2", 3, pretrain_ckpt=checkpoint, filter_head=True)
    assert network.head.classifier.out_channels == 3


def test_defaults_are_the_papers() -> None:
    network = hub.create_network("mobilenetv2")
    assert sum(parameter.size for parameter in network.trainable_params()) == 3_504_872


def test_unknown_names_and_arguments_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="resnet50 is not a network of this repository"):
        hub.create_network("resnet50")
    with pytest.raises(TypeError):
        hub.create_network("mobilenetv2", classes=3)


# ---- the asset's description

def test_description_has_what_hub_asks_for() -> None:
    text = (ROOT / "hub/mobilenetv2_imagenet2012.md").read_text(encoding="utf-8")
    title, fields, body = text.split("\n---\n")
    values = yaml.safe_load(fields)
    assert title.strip() == f"# {values['model-name']}"
    for key in ("backbone-name", "module-type", "fine-tunable", "input-shape", "model-version", "train-dataset",
                "author", "update-time", "repo-link", "user-id", "used-for", "train-backend", "infer-backend",
                "mindspore-version", "asset", "license", "summary"):
        assert values.get(key) not in {None, ""} if not isinstance(values.get(key), list) else values[key], key
    assert set(values["asset"][0]) == {"file-format", "asset-link", "asset-sha256", "asset-id"}
    assert isinstance(hub.create_network(values["model-name"].lower()), nn.Cell)
    for heading in ("## Introduction", "## Usage", "## Citation"):
        assert heading in body


def test_commands_of_the_description_run(checkpoint: Path, tmp_path: Path) -> None:
    """The block of Python in docs/hub.md that needs no Hub."""
    blocks = (ROOT / "docs/hub.md").read_text(encoding="utf-8").split("```python\n")[1:]
    code = next(block.partition("```")[0] for block in blocks if "mindspore_hub_conf" in block)
    done = subprocess.run([sys.executable, "-c", code.replace("checkpoint/best.ckpt", str(checkpoint))], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
