"""eval.py: the score of a checkpoint, every image once, on the classes that it was trained on."""
import ast
import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Images, assert_one_clear_line, config_for, run_script
from mindspore import Tensor
from PIL import Image

import eval as evaluation
from src.checkpoint.file import write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.confidence import reliability
from src.data.image_folder import ImageFolder
from src.errors import UserError
from src.models import define_net
from src.utils import network_parameters

RESULT_LINE = re.compile(r"^result: (\{'acc': [\d.]+, 'top5': [\d.]+, 'images': \d+, [^}]*\}) ckpt=(.+)$",
                         re.MULTILINE)
CLASSES = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose classifier tells the tests' colours apart by chance at best, trained as at 64 pixels."""
    network = define_net(config_for("--width_mult", 0.35), 3)
    weight = network.head.classifier.weight
    weight.set_data(Tensor(np.random.default_rng(5).standard_normal(weight.shape).astype(np.float32)))
    path = tmp_path_factory.mktemp("eval") / "best.ckpt"
    write_checkpoint(path, network_parameters(network), {},
                     CheckpointMetadata({"width_mult": 0.35, "image_size": 64, "batch_size": 9}, tuple(CLASSES)))
    return path


def call_main(*argv: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eval.py", "--platform", "CPU", *map(str, argv)])
        evaluation.main()


def result(out: str) -> dict[str, float]:
    (score, _), = RESULT_LINE.findall(out)
    return ast.literal_eval(score)


def refusal(*argv: object) -> str:
    with pytest.raises(UserError) as error:
        call_main(*argv)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_same_counts_at_any_batch_size(checkpoint: Path, photos: Path, capsys: pytest.CaptureFixture) -> None:
    scores = []
    for batch_size in (1, 7, 32, 400):
        call_main("--dataset_path", photos / "train", "--pretrain_ckpt", checkpoint, "--batch_size", batch_size)
        scores.append(result(capsys.readouterr().out))
    assert scores == [scores[0]] * 4
    assert scores[0]["images"] == 21
    assert scores[0]["top5"] == 1.0  # of three classes


def test_as_a_command_with_a_confusion_matrix(checkpoint: Path, photos: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture) -> None:
    run = run_script("eval.py", "--platform", "CPU", "--dataset_path", photos, "--pretrain_ckpt", checkpoint,
                     "--confusion_matrix", tmp_path / "confusion.png")
    assert run.returncode == 0, run.stderr
    assert result(run.stdout)["images"] == 9  # val of the root
    assert run.stdout.rstrip().endswith(f"ckpt={checkpoint}")
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.format == "PNG"
    call_main("--dataset_path", photos / "val", "--pretrain_ckpt", checkpoint)  # stock cells, the folder itself
    assert result(capsys.readouterr().out) == result(run.stdout)


def test_metrics_and_every_image_are_written(checkpoint: Path, photos: Path, tmp_path: Path,
                                             capsys: pytest.CaptureFixture) -> None:
    call_main("--dataset_path", photos, "--pretrain_ckpt", checkpoint, "--predictions", tmp_path)
    told = result(capsys.readouterr().out)
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert (found["top1"], found["images"]) == (told["acc"], told["images"])
    assert found["balanced_accuracy"] == pytest.approx(told["balanced_acc"], abs=1e-6)
    assert [round(end, 4) for end in found["top1_95"]] == [*told["acc_95"]]
    assert [row["class"] for row in found["classes"]] == ["blue", "green", "red"]
    assert sum(row["images"] for row in found["classes"]) == np.sum(found["confusion"]) == 9
    with (tmp_path / "scored.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == list(ImageFolder.scan(photos / "val").files)
    assert sum(int(row["right"]) for row in rows) == round(9 * found["top1"])
    assert all((row["class"] == row["predicted"]) == (row["right"] == "1") for row in rows)
    assert np.mean([float(row["loss"]) for row in rows]) == pytest.approx(found["loss"], abs=1e-5)
    confidence = found["confidence"]
    assert (confidence["images"], confidence["fitted_on_these_images"]) == (9, True)  # the checkpoint has none
    probabilities, right = (np.array([float(row[name]) for row in rows]) for name in ("probability", "right"))
    assert confidence["ece"] == pytest.approx(reliability(probabilities, right).ece, abs=1e-5)
    calibrated, right = (np.array([float(row[name]) for row in rows]) for name in ("calibrated", "right"))
    assert list(rows[0])[-1] == "calibrated"
    assert confidence["ece_calibrated"] == pytest.approx(reliability(calibrated, right).ece, abs=1e-5)
    for name in "reliability", "reliability_calibrated":
        assert sum(row["images"] for row in confidence[name]) == 9


def test_size_and_width_are_the_checkpoints_unless_chosen(checkpoint: Path, photos: Path,
                                                          capsys: pytest.CaptureFixture,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = evaluation.ImageData
    monkeypatch.setattr(evaluation, "ImageData", lambda folder, size, *rest, **named: seen.append(size) or original(
        folder, size, *rest, **named))
    call_main("--dataset_path", photos, "--pretrain_ckpt", checkpoint)
    call_main("--dataset_path", photos, "--pretrain_ckpt", checkpoint, "--image_size", 32)
    assert seen == [64, 32]
    text = refusal("--dataset_path", photos, "--pretrain_ckpt", checkpoint, "--width_mult", 0.5)
    assert "does not fit the network" in text
    assert "width_mult" in text
    assert capsys.readouterr().out.count("result:") == 2


def test_other_classes_are_an_error_not_a_number(checkpoint: Path, images: Images) -> None:
    renamed = images({"blue": 1, "green": 1, "rad": 1}, name="renamed")
    text = refusal("--dataset_path", renamed, "--pretrain_ckpt", checkpoint)
    assert str(renamed) in text
    assert "the folder lacks red; the model does not know rad" in text
    fewer = images({"blue": 1, "red": 1}, name="fewer")
    assert "the folder lacks green" in refusal("--dataset_path", fewer, "--pretrain_ckpt", checkpoint)


def test_without_json_the_number_of_classes_still_counts(checkpoint: Path, images: Images, tmp_path: Path) -> None:
    bare = tmp_path / "bare.ckpt"
    bare.write_bytes(checkpoint.read_bytes())
    four = images({"a": 1, "b": 1, "c": 1, "d": 1})
    text = refusal("--dataset_path", four, "--pretrain_ckpt", bare, "--width_mult", 0.35, "--image_size", 32)
    assert "head.classifier.weight 3x1280 instead of 4x1280" in text


def test_what_is_missing_is_named(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    assert "--pretrain_ckpt" in refusal("--dataset_path", photos)
    assert "--dataset_path" in refusal("--pretrain_ckpt", checkpoint)
    missing = tmp_path / "none.ckpt"
    assert refusal("--dataset_path", photos, "--pretrain_ckpt", missing) == f"{missing}: no such checkpoint"
    assert "no such folder" in refusal("--dataset_path", tmp_path / "none", "--pretrain_ckpt", checkpoint)
    (tmp_path / "hollow").mkdir()
    assert "no images here" in refusal("--dataset_path", tmp_path / "hollow", "--pretrain_ckpt", checkpoint)


@pytest.mark.parametrize("share", [0, 0.5])
def test_damaged_checkpoints_end_in_one_line(share: float, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "k.ckpt"
    content = checkpoint.read_bytes()
    path.write_bytes(content[:int(share * len(content))])
    path.with_suffix(".json").write_text(json.dumps({**json.loads(checkpoint.with_suffix(".json").read_text())}))
    run = run_script("eval.py", "--platform", "CPU", "--dataset_path", photos, "--pretrain_ckpt", path)
    assert_one_clear_line(run, str(path), "damaged" if share else "empty")
