"""Which recipe a run has that names none."""
from pathlib import Path

import pytest
from conftest import config_for, training_metadata

from src.checkpoint.names import metadata_path
from src.checkpoint.record import CheckpointMetadata, write_metadata
from src.distributed.world import World
from src.model_utils.config import Config, get_config
from src.training.default_recipe import settle_recipe, with_fitting_epochs

TRAINED = ("--pretrain_ckpt", "k.ckpt")


def settled(*options: object) -> Config:
    return settle_recipe(config_for(*options), World())


def test_a_trained_network_is_fine_tuned(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = (*TRAINED, "--save_checkpoint_path", tmp_path / "none", "--lr_max", 0.3)
    config = settled(*options)
    assert config == config_for(*options, "--recipe", "finetune")
    assert config.train_image_size == 192
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("recipe: finetune, ")
    assert "--recipe plain" in line


@pytest.mark.parametrize("options", [
    (), (*TRAINED, "--recipe", "plain"), (*TRAINED, "--recipe", "best"), (*TRAINED, "--freeze_layer", "backbone"),
    (*TRAINED, "--qat", True)])
def test_other_runs_stay_as_they_are(options: tuple[object, ...], capsys: pytest.CaptureFixture) -> None:
    assert settled(*options) == config_for(*options)
    assert capsys.readouterr().out == ""


def test_on_other_platforms_nothing_is_chosen() -> None:
    config = get_config(["--platform", "GPU", *TRAINED])
    assert settle_recipe(config, World()) == config


@pytest.mark.parametrize(("changes", "resume", "recipe"), [
    ({}, "auto", "plain"), ({}, "never", "finetune"), ({}, "file", "plain"), ({"recipe": "best"}, "auto", "finetune"),
    ({"linear_probe": True}, "auto", "finetune"), (None, "auto", "finetune")])
def test_what_an_earlier_version_began_goes_on_as_it_began(changes: dict | None, resume: str, recipe: str,
                                                           tmp_path: Path) -> None:
    """`changes` are those of its configuration, None stands for a damaged file."""
    checkpoint = tmp_path / "mobilenetv2-1_5.ckpt"
    earlier = {key: value for key, value in config_for(*TRAINED).as_dict().items() if key != "linear_probe"}
    write_metadata(CheckpointMetadata({**earlier, **(changes or {})}, training=training_metadata(1)), checkpoint)
    checkpoint.touch()
    if changes is None:
        metadata_path(checkpoint).write_text("{")
    where = ("--save_checkpoint_path", tmp_path, "--resume", checkpoint if resume == "file" else resume)
    assert settled(*TRAINED, *where).recipe == recipe


FINE_TUNED = ("--recipe", "finetune", "--batch_size", 32)


@pytest.mark.parametrize(("options", "images", "ranks", "epochs"), [
    (FINE_TUNED, 736, 1, 20), (FINE_TUNED, 90, 1, 60), (FINE_TUNED, 5000, 1, 15), (FINE_TUNED, 736, 2, 41),
    ((*FINE_TUNED, "--grad_accum_steps", 2), 736, 1, 41), ((*FINE_TUNED, "--epoch_size", 7), 90, 1, 7),
    ((*FINE_TUNED, "--max_minutes", 5), 5000, 1, 60), (("--max_minutes", 5, "--epoch_size", 9), 90, 1, 9),
    (("--max_minutes", 5), 90, 1, 60), (("--recipe", "best"), 90, 1, 15)], ids=str)
def test_small_sets_have_more_epochs(options: tuple[object, ...], images: int, ranks: int, epochs: int) -> None:
    assert with_fitting_epochs(config_for(*options), images, World(0, ranks)).epoch_size == epochs
