"""Every kind of image through a whole network: trained on, scored, predicted, exported; and all others named.

The photo is the developers' and the network has ImageNet weights where they are; else a drawn scene and new weights.
"""
import csv
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, config_for
from PIL import Image

import eval as evaluate_command
import export
import infer
import train
from src.checkpoint.file import write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.errors import UserError
from src.models import define_net
from src.utils import network_parameters
from tests.support.odd_images import OddImage, encoded, not_images, odd_images, photo

SHARED = ROOT.parent / "shared"
SAMPLES = SHARED / "data" / "odd_images"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet.safetensors"
PHOTO_SIZE = (256, 208)
CLASSES = ("other", "scene")
CLOSE = 0.02  # of probabilities
GREY_SAMPLES = {"grey16.png": 1 / 257, "float32.tif": 255}  # and what makes 8 bits of them


@dataclass(frozen=True)
class Outcome:
    """What came of all kinds of images."""

    out: str  # what was printed
    exit_status: object  # of infer.py
    probabilities: dict[str, float]  # that an image is the scene, by its path
    faults: dict[str, str]  # of the bad ones


def call(main: Callable[[], None], *argv: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", "--platform", "CPU", *map(str, argv)])
        main()


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    if not SAMPLES.is_dir():
        return photo().resize(PHOTO_SIZE)
    with Image.open(SAMPLES / "plain.jpg") as image:
        return image.convert("RGB").crop((0, 24, 256, 232))


@pytest.fixture(scope="module")
def kinds(scene: Image.Image) -> dict[str, OddImage]:
    return odd_images(scene)


@pytest.fixture(scope="module")
def root(scene: Image.Image, kinds: dict[str, OddImage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kinds as a class to train on, beside another class; and all that is to be predicted."""
    root = tmp_path_factory.mktemp("every")
    for folder in "data/scene", "data/other", "predicted/kinds", "predicted/expected", "predicted/bad":
        (root / folder).mkdir(parents=True)
    for name, image in kinds.items():
        (root / "data/scene" / name).write_bytes(image.content)
        (root / "predicted/kinds" / name).write_bytes(image.content)
        image.expected.convert("RGB").save(root / "predicted/expected" / f"{name}.png")
    for name, content in not_images().items():
        (root / "predicted/bad" / name).write_bytes(content)
    if SAMPLES.is_dir():
        (root / "predicted/samples").symlink_to(SAMPLES)
        for name, scale in GREY_SAMPLES.items():
            with Image.open(SAMPLES / name) as image:
                grey = np.rint(np.asarray(image) * scale).astype(np.uint8)
            Image.fromarray(grey).save(root / f"predicted/expected/sample_{name}.png")
    tiles = np.asarray(scene).reshape(16, PHOTO_SIZE[1] // 16, 16, PHOTO_SIZE[0] // 16, 3)
    for number in range(30):  # the same colours in another order
        order = np.random.default_rng(number).permutation(256)
        shuffled = tiles.swapaxes(1, 2).reshape(256, *tiles.shape[1::2], 3)[order].reshape(
            16, 16, *tiles.shape[1::2], 3).swapaxes(1, 2).reshape(*PHOTO_SIZE[::-1], 3)
        (root / "data/other" / f"{number}.jpg").write_bytes(encoded(Image.fromarray(shuffled), "JPEG"))
    return root


@pytest.fixture(scope="module")
def outcome(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Train a head on a frozen backbone, export the network, and let the file score and predict."""
    work = tmp_path_factory.mktemp("work")
    weights = WEIGHTS
    if not weights.is_file():
        weights = work / "new.ckpt"
        write_checkpoint(weights, network_parameters(define_net(config_for(), 2)), {}, CheckpointMetadata())
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        call(train.main, "--dataset_path", root / "data", "--freeze_layer", "backbone", "--pretrain_ckpt", weights,
             "--epoch_size", 1, "--batch_size", 16, "--lr_max", 0.003, "--run_eval", "False", "--save_checkpoint_path",
             work / "run")
        call(export.main, "--ckpt_file", work / "run/last.ckpt", "--file_format", "ONNX", "--file_name",
             work / "m.onnx", "--export_batch_size", 0)
        call(evaluate_command.main, "--dataset_path", root / "data", "--pretrain_ckpt", work / "m.onnx",
             "--predictions", work / "scored")
        with pytest.raises(SystemExit) as ended:
            call(infer.main, "--model", work / "m.onnx", "--images", root / "predicted", "--predictions", work / "out",
                 "--batch_size", 64, "--top_k", 2)
    with (work / "out/predictions.csv").open(encoding="utf-8") as file:
        rows = {str(Path(row["file"]).relative_to(root / "predicted")): row for row in csv.DictReader(file)}
    yield Outcome("\n".join(printed), ended.value.code, {
        name: float(row["probability"] if row["class"] == "scene" else row["probability_2"])
        for name, row in rows.items() if not row["error"]}, {
        name: row["error"] for name, row in rows.items() if row["error"]})


def test_all_of_them_are_trained_on_and_scored(outcome: Outcome, kinds: dict[str, OddImage]) -> None:
    assert len(kinds) >= 80
    images = len(kinds) + 30
    assert f"{images} training images of 2 classes" in outcome.out
    scored = re.search(r"^result: \{'acc': ([\d.]+), .*'images': (\d+)[,}]", outcome.out, re.MULTILINE)
    assert scored
    assert int(scored[2]) == images
    assert float(scored[1]) > (0.9 if WEIGHTS.is_file() else 0)


def test_every_kind_has_the_probability_of_the_photo(outcome: Outcome, scene: Image.Image,
                                                        kinds: dict[str, OddImage]) -> None:
    found, plain = outcome.probabilities, outcome.probabilities["kinds/plain.jpg"]
    if WEIGHTS.is_file():
        assert 0.5 < plain < 0.99  # at 1 all differences would be small
    far = {}
    for name, image in kinds.items():
        wanted = plain if image.expected is scene else found[f"expected/{name}.png"]
        if abs(found[f"kinds/{name}"] - wanted) > CLOSE:
            far[name] = (found[f"kinds/{name}"], wanted)
    assert not far


def test_the_developers_samples_have_it_too(outcome: Outcome) -> None:
    if not SAMPLES.is_dir():
        pytest.skip("needs ../shared/data/odd_images")
    found = {name: probability for name, probability in outcome.probabilities.items() if name.startswith("samples/")}
    assert len(found) >= 9
    expected = dict.fromkeys(found, found["samples/plain.jpg"]) | {
        f"samples/{name}": outcome.probabilities[f"expected/sample_{name}.png"] for name in GREY_SAMPLES}
    assert not {name: probability for name, probability in found.items() if abs(probability - expected[name]) > CLOSE}


def test_all_others_are_named(outcome: Outcome) -> None:
    assert outcome.exit_status == 1
    assert outcome.faults.keys() == {f"bad/{name}" for name in not_images()}


def test_training_names_all_others_at_once(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        call(train.main, "--dataset_path", root / "predicted", "--left_out_file", tmp_path / "bad.txt",
             "--save_checkpoint_path", tmp_path / "run")
    assert f"{len(not_images())} bad images" in str(error.value)
    assert {Path(line.partition("\t")[0]).name for line in (tmp_path / "bad.txt").read_text().splitlines()} >= \
        not_images().keys()
