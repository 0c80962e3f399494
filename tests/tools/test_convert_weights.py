"""The command that writes weights of other projects as checkpoints."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_one_clear_line, config_for, run_script
from mindspore import Tensor
from safetensors.numpy import save_file

from src.checkpoint.file import read_checkpoint
from src.checkpoint.namings import TORCH, TORCHVISION
from src.errors import UserError
from src.models import define_net
from src.utils import load_weights
from tests.support.foreign_weights import random_weights, renamed
from tests.support.torch_files import torch_state, write_old, write_zip
from tools.convert_weights import main

# Logits of PyTorch 2.13 for the ImageNet weights in ../shared and one image of noise: with
# net = MobileNetV2(1000).eval() of tools/peers/torch_network.py and the weights loaded,
#   np.save("logits_64.npy", net(torch.from_numpy(noise(64))).detach().numpy()[0])
LOGITS = Path(__file__).parents[1] / "fixtures" / "logits_64.npy"


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)


def test_every_format_gives_the_same_checkpoint(tmp_path: Path, torch_names: SimpleNamespace) -> None:
    weights = random_weights()
    torchvision = renamed(weights, TORCHVISION, TORCH)
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
    np.testing.assert_array_equal(network.head.classifier.bias.asnumpy(), weights["head.classifier.bias"])


def test_logits_are_pytorchs(shared: Path, tmp_path: Path) -> None:
    outputs = []
    for name in ("mobilenet_v2_imagenet.safetensors", "mobilenet_v2_imagenet.pth", "model_zoo_ancestor.ckpt"):
        outputs.append(tmp_path / f"{name}.ckpt")
        main(["--source", str(shared / "weights" / name), "--output", str(outputs[-1])])
    assert len({output.read_bytes() for output in outputs}) == 1
    checkpoint = read_checkpoint(outputs[0])
    assert checkpoint.config["width_mult"] == 1.0
    network = define_net(config_for(), 1000)
    load_weights(network, checkpoint)
    network.set_train(False)
    logits = network(Tensor(noise(64))).asnumpy()[0]
    np.testing.assert_allclose(logits, np.load(LOGITS), atol=1e-3, rtol=0)


def test_the_output_is_a_checkpoint_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"name the output with the ending \.ckpt"):
        main(["--source", str(tmp_path / "a.pth"), "--output", str(tmp_path / "k.json")])


def test_as_a_command(tmp_path: Path) -> None:
    run = run_script("tools/convert_weights.py", "--source", tmp_path / "none.pth", "--output", tmp_path / "k.ckpt")
    assert_one_clear_line(run, "none.pth", "no such checkpoint")
    assert not (tmp_path / "k.ckpt").exists()
