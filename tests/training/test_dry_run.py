"""`train.py --dry_run True` says what would be done and does nothing."""
from pathlib import Path

import numpy as np
import pytest

from src.data.image_folder import ImageFolder
from src.distributed.world import World
from src.mobilenetV2 import MobileNetV2
from src.model_utils.config import get_config
from src.training.dry_run import describe_run, multiply_adds
from tests.conftest import config_for, run_script


def table(text: str) -> dict[str, str]:
    return {line[:14].strip(): line[15:] for line in text.splitlines()}


def test_nothing_changes_on_disk(photos: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    run = run_script("train.py", "--platform", "CPU", "--dataset_path", photos, "--dry_run", "True",
                     "--save_checkpoint_path", tmp_path / "checkpoint", "--batch_size", 8)
    assert run.returncode == 0, run.stderr
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before
    told = table(run.stdout)
    assert told["recipe"] == "plain"
    assert told["platform"] == "CPU, 1 rank"
    assert told["precision"] == "O0, float32 throughout"
    assert told["compiler"] == "cpu_kernels auto"
    assert told["feed"] == ("4.8 MB a batch, 4.8 MB a step to each rank, float32, normalised, "
                            "a batch ahead on the device: off")
    assert told["steps"] == "2 per epoch, 15 epochs, 30 in all"
    assert told["validation"].startswith("9 in ")
    assert told["network"].startswith("MobileNetV2 1.0, 2,227,715 parameters, 299.")
    assert told["checkpoints"] == f"{tmp_path}/checkpoint/mobilenetv2-<epoch>_2.ckpt, last.ckpt, best.ckpt"


def test_ranks_enlarge_the_batch_and_the_learning_rate(photos: Path) -> None:
    folder = ImageFolder.scan(photos / "train")
    config = config_for("--batch_size", 4, "--lr_base_batch", 4, "--lr_max", 0.1, "--warmup_epochs", 0)
    one, two = (table(describe_run(config, World(0, ranks), folder, None)) for ranks in (1, 2))
    assert (one["batch"], two["batch"]) == ("4 x 1 = 4 of 224 pixels", "4 x 2 = 8 of 224 pixels")
    assert (one["learning rate"].split()[0], two["learning rate"].split()[0]) == ("0.1", "0.2")
    assert two["steps"].startswith("2 per epoch")


@pytest.mark.parametrize(("options", "optimizer"), [
    ((), "momentum 0.9; weight decay 4e-05"),
    (("--recipe", "best"), "Nesterov momentum 0.9; weight decay 4e-05, none on batch norms and biases"),
    (("--optimizer", "adamw", "--weight_decay", 0.01, "--layer_decay", 0.8),
     "AdamW, betas 0.9 and 0.999, epsilon 1e-08; weight decay 0.01; each layer's rate is 0.8 of the next one's")])
def test_the_optimizer_and_its_numbers(options: tuple[object, ...], optimizer: str, photos: Path) -> None:
    folder = ImageFolder.scan(photos / "train")
    assert table(describe_run(config_for(*options), World(), folder, None))["optimizer"] == optimizer


def test_accumulated_batches_enlarge_them_too(photos: Path) -> None:
    folder = ImageFolder.scan(photos / "train")
    config = config_for("--batch_size", 4, "--lr_base_batch", 4, "--lr_max", 0.1, "--warmup_epochs", 0,
                        "--grad_accum_steps", 2)
    told = table(describe_run(config, World(0, 2), folder, None))
    assert told["batch"] == "4 x 2 x 2 = 16 of 224 pixels"
    assert told["learning rate"].split()[0] == "0.4"
    assert told["steps"].startswith("1 per epoch")  # of 2 batches


@pytest.mark.parametrize(("options", "feed"), [
    ("--platform Ascend", "38.5 MB a batch, 38.5 MB a step to each rank, uint8 pixels"),
    ("--platform Ascend --mixup_alpha 0.2 --grad_accum_steps 1",
     "154.1 MB a batch, 154.1 MB a step to each rank, float32, normalised"),
    ("--platform CPU", "154.1 MB a batch, 154.1 MB a step to each rank, float32, normalised"),
    ("--platform CPU --freeze_layer backbone --pretrain_ckpt imagenet", "features in memory")])
def test_the_bytes_that_go_to_the_device(options: str, feed: str) -> None:
    folder = ImageFolder(Path("photos"), ("cat",), ("cat/000.jpg",) * 256, np.zeros(256, np.int32))
    config = get_config(["--batch_size", "256", *options.split()])
    assert table(describe_run(config, World(), folder, None))["feed"] == f"{feed}, a batch ahead on the device: off"
    ahead = config.replace({"device_prefetch": True})
    assert table(describe_run(ahead, World(), folder, None))["feed"] == f"{feed}, a batch ahead on the device: on"


def test_multi_scale_training_needs_the_memory_of_its_largest_size(photos: Path) -> None:
    folder = ImageFolder.scan(photos / "train")
    range_of_sizes, largest_size = ("--multi_scale_min", 32, "--multi_scale_max", 128), ("--image_size", 128)
    sizes, largest = (table(describe_run(config_for("--batch_size", 4, *options), World(), folder, None))
                      for options in (range_of_sizes, largest_size))
    assert sizes["batch"] == "4 x 1 = 4 of 32 to 128 pixels"
    assert sizes["memory"] == largest["memory"]


def test_training_images_of_their_own_size(photos: Path) -> None:
    folder = ImageFolder.scan(photos / "train")
    smaller, growing, usual = (table(describe_run(config_for("--batch_size", 4, *options), World(), folder, None))
                               for options in (("--train_image_size", 96),
                                               ("--train_image_size", 96, "--train_image_size_start", 64),
                                               ("--image_size", 96)))
    assert smaller["batch"] == "4 x 1 = 4 of 96 pixels"
    assert growing["batch"] == "4 x 1 = 4 of 64 to 96 pixels"
    assert smaller["memory"] == growing["memory"] == usual["memory"]
    assert smaller["network"] != usual["network"]  # its multiply-adds are those of evaluation


def test_a_frozen_backbone_needs_no_memory_for_its_layers(photos: Path) -> None:
    folder = ImageFolder.scan(photos / "train")
    frozen = table(describe_run(config_for("--freeze_layer", "backbone"), World(), folder, None))
    assert frozen["trained"] == "the classifier, 3,843 parameters, from new weights"
    assert int(frozen["memory"].split()[1]) < 20
    assert "mobilenetv2_head-" in frozen["checkpoints"]


@pytest.mark.parametrize(("width", "millions"), [(1.0, 301), (1.4, 582)])
def test_multiply_adds_are_the_paper_s(width: float, millions: int) -> None:
    assert round(multiply_adds(MobileNetV2(1000, width), 224) / 1e6) == millions


def test_what_ascend_is_told(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "3600")
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    config = get_config(["--platform", "Ascend", "--batch_size", "4", "--grad_accum_steps", "2"])
    told = table(describe_run(config, World(0, 2), ImageFolder.scan(photos / "train"), None))
    assert told["platform"] == "Ascend, 2 ranks"
    assert told["precision"] == "O3, float16, weights in float32; loss scale 1024"
    assert told["compiler"] == "jit_level O1"
    assert "ASCEND_RT_VISIBLE_DEVICES=0,1, " in told["environment"]
    assert "HCCL_CONNECT_TIMEOUT=3600" in told["environment"]
    assert told["feed"] == ("0.6 MB a batch, 1.2 MB a step to each rank, uint8 pixels, "
                            "a batch ahead on the device: off")
