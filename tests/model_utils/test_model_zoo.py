"""Files and options of MindSpore's model zoo: what they mean here, and what the log says of them."""
import sys
from pathlib import Path

import pytest

from src.errors import UserError
from src.lr_generator import run_lr
from src.model_utils.config import Config, get_config
from src.model_utils.model_zoo import NO_EFFECT, OBSOLETE
from tests.support.model_zoo_files import COMMON, FILES, write_file


@pytest.fixture(autouse=True)
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A training command, where no example checkpoint is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])


def read(name: str, folder: Path, *options: str) -> Config:
    return get_config(["--config_path", str(write_file(name, folder)), *options])


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_read_as_it_was_meant(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stated = {**COMMON, **FILES[name]}
    config = read(name, tmp_path)
    assert (config.platform, config.distribute) == (stated["platform"], False)
    for key in ("batch_size", "epoch_size", "warmup_epochs", "lr_max", "lr_end", "weight_decay", "num_classes",
                "keep_checkpoint_max", "save_checkpoint"):
        assert getattr(config, key) == stated[key]
    assert config.boost_mode == stated.get("boost_mode", stated.get("acc_mode", "O0"))
    assert (config.image_size, config.export_batch_size, config.export_softmax) == (224, 1, True)
    assert (config.pretrain_ckpt, config.freeze_layer, config.cache_session_id) == ("", "none", 0)
    assert config.save_checkpoint_path == "./ckpt_0"
    assert config.dropout == 0.0
    assert config.recipe == "plain"
    assert "recipe" in config.chosen  # so that a checkpoint does not bring another one
    line, = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / Path(name).name}: a file of MindSpore's model zoo (docs/migration.md), read")
    read_as, without_effect = line.split("; without effect: ")
    assert "lr_base_batch 0" in read_as
    assert set(without_effect.split(", ")) >= stated.keys() & NO_EFFECT


@pytest.mark.parametrize("batch", [150, 1200])
def test_rates_of_a_file_are_not_scaled(batch: int, tmp_path: Path) -> None:
    config = read("last/default_config_gpu.yaml", tmp_path)
    assert run_lr(config, batch, 10).max() == pytest.approx(0.8)


def test_options_are_stronger_than_what_a_file_means(tmp_path: Path) -> None:
    config = read("last/default_config_cpu.yaml", tmp_path, "--dropout", "0.2", "--save_checkpoint_path", "here",
                  "--export_softmax", "False", "--lr_base_batch", "150")
    assert (config.dropout, config.save_checkpoint_path, config.export_softmax, config.lr_base_batch) == (
        0.2, "here", False, 150)


def test_export_has_a_key_of_its_own_for_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("device_id: 0\npretrain_ckpt: trained.ckpt\nckpt_file: exported.ckpt\n")
    assert get_config(["--config_path", str(path)]).pretrain_ckpt == "trained.ckpt"
    monkeypatch.setattr(sys, "argv", ["export.py"])
    assert get_config(["--config_path", str(path)]).pretrain_ckpt == "exported.ckpt"


def test_an_example_that_exists_is_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "mobilenetv2-200_625.ckpt").touch()
    assert read("first/default_config.yaml", tmp_path).pretrain_ckpt == "./mobilenetv2-200_625.ckpt"


@pytest.mark.parametrize(("lines", "key", "value"), [
    ("run_distribute: False\ndistribute: True\n", "distribute", True),
    ("pretrain_ckpt: ''\ncheckpoint: a.ckpt\n", "pretrain_ckpt", "a.ckpt"),
    ("activation: None\n", "export_softmax", False),
])
def test_what_its_readme_adds_to_a_file(lines: str, key: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rank_id: 0\n" + lines)
    assert getattr(get_config(["--config_path", str(path)]), key) == value


def test_a_file_without_its_keys_is_this_project_s(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("lr_max: 0.1\nsave_checkpoint_path: ./\n")
    config = get_config(["--platform", "CPU", "--config_path", str(path)])
    assert (config.lr_base_batch, config.dropout, config.save_checkpoint_path) == (32, 0.2, "./")
    assert capsys.readouterr().out == ""


def test_mistakes_are_errors_in_its_files_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("device_id: 0\nactivation: Sigmoid\n")
    with pytest.raises(UserError, match="mine.yaml, line 2: activation Sigmoid cannot be exported here; Softmax"):
        get_config(["--config_path", str(path)])
    path.write_text("device_id: 0\nepochsize: 3\n")
    with pytest.raises(UserError, match="mine.yaml, line 2: unknown key epochsize; did you mean epoch_size"):
        get_config(["--config_path", str(path)])


@pytest.mark.parametrize("option", sorted(OBSOLETE))
def test_each_of_its_options_is_taken_and_named(option: str, capsys: pytest.CaptureFixture) -> None:
    value = {"activation": "Softmax", "acc_mode": "O1"}.get(option, "0")
    config = get_config([f"--{option}", value])
    line, = capsys.readouterr().out.splitlines()
    assert line.startswith(f"--{option}: an option of MindSpore's model zoo (docs/migration.md), ")
    changed = config.as_dict().items() - get_config([]).as_dict().items()
    assert changed == {"activation": {("export_softmax", True)}, "acc_mode": {("boost_mode", "O1")},
                       "batch_size_export": {("export_batch_size", 0)}}.get(option, set())
