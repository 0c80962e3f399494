"""Boost mode: what MindSpore really leaves out in training, and that its checkpoints are those of the plain network."""
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import config_for
from mindspore import Tensor

import train
from src.checkpoint.file import Checkpoint, read_checkpoint
from src.data.image_folder import ImageFolder
from src.dataset import ImageData
from src.deployment.exporter import ExportOptions, deployable, export
from src.deployment.model_file import open_model
from src.deployment.runtime import load_exported
from src.distributed.device import setup_device
from src.distributed.world import World
from src.errors import UserError
from src.evaluation import evaluate
from src.model_utils.config import get_config

PROFILE = ("--config_path", "default_config_boost.yaml", "--amp_level", "O0")


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch that the boost profile describes."""
    folder = tmp_path_factory.mktemp("boosted")
    argv = ["train.py", "--platform", "CPU", *PROFILE, "--image_size", "32", "--width_mult", "0.35", "--batch_size",
            "4", "--epoch_size", "1", "--warmup_epochs", "0", "--weight_decay", "0.1", "--norm_bias_decay", "True",
            "--dataset_path", str(photos), "--save_checkpoint_path", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        train.main()
    return folder


@pytest.fixture(scope="module")
def boosted(folder: Path) -> Checkpoint:
    return read_checkpoint(folder / "last.ckpt")


def test_it_leaves_out_the_batch_norms_after_expansions_and_no_others(boosted: Checkpoint) -> None:
    values = {name: value.asnumpy() for name, value in boosted.network.items()}
    norms = [name.removesuffix(".moving_mean") for name in values if name.endswith(".moving_mean")]
    left_out = [norm for norm in norms if not values[f"{norm}.moving_mean"].any()]
    assert len(norms) == 52
    assert left_out == [f"backbone.blocks.{block}.expand.bn" for block in range(1, 17)]
    for norm in norms:
        trained = values[f"{norm}.beta"].any() or not (values[f"{norm}.gamma"] == values[f"{norm}.gamma"][0]).all()
        assert trained == (norm not in left_out)
    for norm in left_out:  # what is left there changes nothing
        np.testing.assert_array_equal(values[f"{norm}.moving_variance"], 1)
        np.testing.assert_array_equal(values[f"{norm}.gamma"], np.float32(math.sqrt(1 + 1e-5)))
        assert not any(norm in name for name in boosted.state)


def test_the_plain_network_scores_its_checkpoint_as_the_run_did(folder: Path, boosted: Checkpoint,
                                                               photos: Path) -> None:
    images = ImageFolder.scan(photos / "val")
    model = open_model(config_for("--pretrain_ckpt", folder / "last.ckpt", *PROFILE))
    result = evaluate(model.network(3), ImageData(images, 32, 4, training=False), World())
    row = boosted.training.history[-1]
    assert result.top1 == row["top1"]
    assert result.loss == pytest.approx(row["val_loss"], rel=1e-4)


def test_it_is_exported_like_any_other(boosted: Checkpoint, tmp_path: Path) -> None:
    options = ExportOptions(32, 2)
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    config = config_for("--width_mult", 0.35, *PROFILE)
    network = deployable(boosted, config, options)
    expected = network(Tensor(images)).asnumpy()
    export(network, options, tmp_path / "m.mindir")
    np.testing.assert_array_equal(load_exported(tmp_path / "m.mindir", config).run(images), expected)


def test_what_it_cannot_start_from_or_run_on_is_told(folder: Path, tmp_path: Path) -> None:
    plain = train.load_pretrained(config_for("--pretrain_ckpt", folder / "last.ckpt"))
    assert plain is not None  # the other way round nothing is missing
    (tmp_path / "plain.ckpt").write_bytes((folder / "last.ckpt").read_bytes())  # no JSON beside it
    with pytest.raises(UserError, match="needs the batch norms that boost_mode O1 leaves out"):
        train.load_pretrained(config_for("--pretrain_ckpt", tmp_path / "plain.ckpt", *PROFILE))
    with pytest.raises(UserError, match="boost_mode O1 and amp_level O2"):
        setup_device(get_config(["--platform", "Ascend", "--recipe", "best", "--boost_mode", "O1"]))
    with pytest.raises(UserError, match="boost_mode O1 and cpu_kernels on"):
        setup_device(config_for("--cpu_kernels", "on", *PROFILE))
