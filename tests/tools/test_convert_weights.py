"""The command that writes weights of other projects as checkpoints."""
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_one_clear_line, config_for, run_script
from mindspore import Tensor
from safetensors.numpy import save_file

from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.foreign_writer import write_foreign
from src.checkpoint.namings import TIMM, TORCH, TORCHVISION
from src.checkpoint.record import CheckpointMetadata
from src.checkpoint.torch_file import read_torch_file
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


# ---- out

@pytest.mark.parametrize(("target", "name"), [("torchvision", "w.pth"), ("torchvision", "模型.safetensors"),
                                              ("timm", "w.bin"), ("timm", "w.safetensors"),
                                              ("safetensors", "w.safetensors")])
def test_out_and_in_again_gives_the_same_bits(target: str, name: str, tmp_path: Path) -> None:
    weights = {key: Tensor(value) for key, value in random_weights().items()}
    write_checkpoint(tmp_path / "k.ckpt", weights, {}, CheckpointMetadata())
    main(["--source", str(tmp_path / "k.ckpt"), "--to", target, "--output", str(tmp_path / name)])
    main(["--source", str(tmp_path / name), "--output", str(tmp_path / "back.ckpt")])
    assert (tmp_path / "back.ckpt").read_bytes() == (tmp_path / "k.ckpt").read_bytes()


def test_torchvisions_file_is_as_torchvision_publishes_it(shared: Path, tmp_path: Path) -> None:
    """The same names, shapes and bits, but for the counters of training steps."""
    published = shared / "weights" / "mobilenet_v2_imagenet.pth"
    main(["--source", str(published), "--to", "torchvision", "--output", str(tmp_path / "w.pth")])
    expected = {name: value for name, value in read_torch_file(published).items() if "num_batches" not in name}
    found = read_torch_file(tmp_path / "w.pth")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs PyTorch, which this project does without")
def test_pytorch_reads_it(tmp_path: Path) -> None:
    import torch
    weights = random_weights()
    write_foreign(tmp_path / "w.pth", weights, TORCHVISION)
    found = torch.load(tmp_path / "w.pth", weights_only=True)
    assert all(np.array_equal(found[name].numpy(), value)
               for name, value in renamed(weights, TORCHVISION, TORCH).items())


def test_a_classifier_of_another_form_has_no_name_elsewhere(tmp_path: Path) -> None:
    weights = {**random_weights(), "head.dense.multiplier": np.ones(1, np.float32)}
    with pytest.raises(UserError, match="timm has no name for head.dense.multiplier"):
        write_foreign(tmp_path / "w.pth", weights, TIMM)


@pytest.mark.parametrize(("options", "name"), [((), "k.json"), (("--to", "timm"), "k.ckpt"),
                                               (("--to", "safetensors"), "k.pth")])
def test_the_ending_tells_the_format(options: tuple[str, ...], name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "s.ckpt", {key: Tensor(value) for key, value in random_weights().items()}, {},
                     CheckpointMetadata())
    with pytest.raises(UserError, match=r"name the output with the ending \."):
        main(["--source", str(tmp_path / "s.ckpt"), *options, "--output", str(tmp_path / name)])
    assert not (tmp_path / name).exists()


def test_as_a_command(tmp_path: Path) -> None:
    run = run_script("tools/convert_weights.py", "--source", tmp_path / "none.pth", "--output", tmp_path / "k.ckpt")
    assert_one_clear_line(run, "none.pth", "no such checkpoint")
    assert not (tmp_path / "k.ckpt").exists()
