"""Checkpoints: round trip, digest, faults in one line, and a folder that deletes nothing of others."""
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import training_metadata
from mindspore import Tensor

from src.checkpoint.file import file_digest, read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.checkpoint.retention import CheckpointFolder, Retention
from src.errors import UserError

NETWORK = {"backbone.w": np.arange(6, dtype=np.float32).reshape(2, 3), "head.b": np.ones(4, np.float32)}
STATE = {"global_step": np.array([7], np.int32), "moments.backbone.w": np.zeros((2, 3), np.float32)}
METADATA = CheckpointMetadata({"width_mult": 0.5, "image_size": 64}, ("cat", "dög"), training=training_metadata(3))


def tensors(values: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: Tensor(value) for name, value in values.items()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "mobilenetv2-3_10.ckpt"
    write_checkpoint(path, tensors(NETWORK), tensors(STATE), METADATA)
    return path


def fault_of(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(str(path.with_suffix("")))
    return text


# ---- round trip

def test_what_was_written_is_read(saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    assert set(checkpoint.network) == set(NETWORK)
    assert set(checkpoint.state) == set(STATE)
    for name, value in {**NETWORK, **STATE}.items():
        found = {**checkpoint.network, **checkpoint.state}[name].asnumpy()
        np.testing.assert_array_equal(found, value)
        assert found.dtype == value.dtype
    assert checkpoint.metadata == dataclasses.replace(METADATA, sha256=checkpoint.digest)
    assert checkpoint.config == METADATA.config
    assert checkpoint.classes == ("cat", "dög")


def test_json_beside_it_holds_the_digest(saved: Path) -> None:
    values = json.loads(saved.with_suffix(".json").read_text(encoding="utf-8"))
    assert values["sha256"] == file_digest(saved)
    assert (values["classes"], values["epoch"], values["run"]) == (["cat", "dög"], 3, "0123abcd")


def test_files_can_be_read_by_others(saved: Path) -> None:
    assert saved.stat().st_mode & 0o777 == saved.with_suffix(".json").stat().st_mode & 0o777 != 0o400


def test_without_json_nothing_is_known_but_the_weights(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    checkpoint = read_checkpoint(saved)
    assert (checkpoint.config, checkpoint.classes) == ({}, None)
    assert set(checkpoint.network) == set(NETWORK)


# ---- faults

def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert fault_of(tmp_path / "none.ckpt").endswith("none.ckpt: no such checkpoint")


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert "a folder, not a checkpoint" in fault_of(tmp_path)


@pytest.mark.parametrize("with_json", [True, False])
def test_an_empty_file_is_refused(saved: Path, with_json: bool) -> None:
    saved.write_bytes(b"")
    if not with_json:
        saved.with_suffix(".json").unlink()
    assert "is empty" in fault_of(saved)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_cut_anywhere_is_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[:int(share * len(content))])
    assert "is damaged" in fault_of(saved)


def test_truncated_at_a_parameter_is_seen(saved: Path, tmp_path: Path) -> None:
    """MindSpore loads such a file silently, with fewer parameters."""
    shorter = tmp_path / "shorter.ckpt"
    write_checkpoint(shorter, tensors({"backbone.w": NETWORK["backbone.w"]}), {}, CheckpointMetadata())
    whole, part = saved.read_bytes(), shorter.read_bytes()
    assert whole.startswith(part)
    saved.write_bytes(part)
    assert "is damaged" in fault_of(saved)


def test_one_flipped_bit_is_seen(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    assert "is damaged" in fault_of(saved)


@pytest.mark.parametrize("content", [b"this is a text\n", b"\x00" * 100, b"PK\x03\x04" + b"\x11" * 50])
def test_something_else_under_that_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    assert "not a MindSpore checkpoint" in fault_of(path)


@pytest.mark.parametrize(("text", "says"), [("{not json", "not a JSON file, or a damaged one"),
                                            ("[1]", "not the description of a checkpoint")])
def test_a_broken_json_is_refused(saved: Path, text: str, says: str) -> None:
    saved.with_suffix(".json").write_text(text)
    assert says in fault_of(saved)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_checkpoint(tmp_path / "file" / "k.ckpt", tensors(NETWORK), {}, CheckpointMetadata())


# ---- the folder of a run

def save(folder: CheckpointFolder, epoch: int, best: bool = False, top1: float = 0.0, step: int = 5) -> None:
    finished = epoch if step == 5 else epoch - 1
    training = training_metadata(finished, step=5 * (epoch - 1) + step, metrics={"top1": top1} if step == 5 else {},
                                 whole_epoch=step == 5, is_best=best)
    network = tensors({"head.b": np.full(2, epoch, np.float32)})
    assert folder.save(f"mobilenetv2-{epoch}_{step}", network, {}, CheckpointMetadata(training=training))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_keeps_the_latest_and_best_and_last(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, Retention(latest=2))
    for epoch in range(1, 6):
        save(folder, epoch, best=epoch == 2)
    stems = ["best", "last", "mobilenetv2-4_5", "mobilenetv2-5_5"]
    assert names(tmp_path) == sorted(f"{stem}.{ending}" for stem in stems for ending in ("ckpt", "json"))
    for stem, epoch in (("best", 2), ("last", 5), ("mobilenetv2-4_5", 4)):
        checkpoint = read_checkpoint(tmp_path / f"{stem}.ckpt")
        assert checkpoint.training.epoch == epoch
        assert checkpoint.network["head.b"].asnumpy().tolist() == [epoch, epoch]


def test_keeps_the_best_and_every_nth_epoch_too(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, Retention(latest=1, best=2, every=3))
    scores = [0.9, 0.1, 0.2, 0.8, 0.3, 0.4, 0.5]
    for epoch, top1 in enumerate(scores, 1):
        save(folder, epoch, top1=top1)
    kept = {int(path.stem.partition("-")[2].partition("_")[0]) for path in tmp_path.glob("mobilenetv2-*.ckpt")}
    assert kept == {7, 1, 4, 3, 6}  # the latest; the best two; every third


def test_a_checkpoint_within_an_epoch_makes_way_for_the_next(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, Retention(latest=1))
    save(folder, 1)
    save(folder, 2, step=3)
    assert {"mobilenetv2-1_5.ckpt", "mobilenetv2-2_3.ckpt"} <= set(names(tmp_path))
    save(folder, 2)
    assert [name for name in names(tmp_path) if name.startswith("mobilenetv2-") and name.endswith(".ckpt")] == [
        "mobilenetv2-2_5.ckpt"]


def test_a_checkpoint_that_cannot_be_written_costs_none_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                  capsys: pytest.CaptureFixture) -> None:
    folder = CheckpointFolder(tmp_path, Retention(latest=1))
    save(folder, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise RuntimeError("No space left on device")

    monkeypatch.setattr("mindspore.save_checkpoint", full)
    assert not folder.save("mobilenetv2-2_5", {}, {}, CheckpointMetadata(training=training_metadata(2)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert "training goes on" in capsys.readouterr().err


def test_an_earlier_run_is_moved_aside_whole(tmp_path: Path) -> None:
    earlier = CheckpointFolder(tmp_path, Retention(3))
    for epoch in (1, 2):
        save(earlier, epoch, best=True)
    (tmp_path / "curves.csv").write_text("epoch\n")
    (tmp_path / "curves.png").write_bytes(b"png")
    (tmp_path / "report.html").write_text("<!DOCTYPE html>")
    (tmp_path / "MODEL_CARD.md").write_text("# MobileNetV2")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events").write_bytes(b"curves")
    (tmp_path / "mobilenetv2_head-9_5.ckpt").write_bytes(b"of a frozen run, without JSON")
    (tmp_path / "notes.txt").write_text("the user's own")
    (tmp_path / "resnet.ckpt").write_bytes(b"the user's own")
    contents = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    CheckpointFolder(tmp_path, Retention(3)).set_aside_earlier_run()
    aside, = (path for path in tmp_path.iterdir() if path.is_dir())
    assert names(tmp_path) == sorted([aside.name, "notes.txt", "resnet.ckpt"])
    found = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == contents  # nothing lost, nothing changed
    assert read_checkpoint(aside / "best.ckpt").training.epoch == 2


def test_nothing_to_set_aside_makes_no_folder(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path / "new", Retention(1)).set_aside_earlier_run()
    assert names(tmp_path) == []


def test_runs_in_quick_succession_are_both_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        folder = CheckpointFolder(tmp_path, Retention(1))
        folder.set_aside_earlier_run()
        save(folder, epoch)
    kept = {read_checkpoint(path).training.epoch for path in tmp_path.rglob("last.ckpt")}
    assert kept == {1, 2, 3}
