"""The runtimes of TFLite and ncnn, on small files of one network that tests/fixtures/make_tiny_model.py writes."""
import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, config_for, make_images

import eval as evaluation
import infer
from src.deployment import engines
from src.deployment.description import description_path
from src.deployment.formats import files_of
from src.deployment.runtime import load_exported
from src.errors import UserError

FIXTURES = ROOT / "tests" / "fixtures"
CLASSES = ("blue", "green", "red")
MODULES = {".tflite": "ai_edge_litert", ".param": "ncnn"}
ENDINGS = pytest.mark.parametrize("ending", MODULES)


def needs_runtime(ending: str) -> None:
    pytest.importorskip(MODULES[ending], reason="needs a runtime that requirements-runtimes.txt names")


def batch(size: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((size, 3, 32, 32)).astype(np.float32)


def call(module: object, *argv: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["x", "--platform", "CPU", *map(str, argv)])
        module.main()  # type: ignore[attr-defined]


def copied(ending: str, folder: Path, name: str = "m", described: bool = True) -> Path:
    source, target = FIXTURES / f"tiny{ending}", folder / f"{name}{ending}"
    for file, copy in zip(files_of(source), files_of(target), strict=True):
        shutil.copy(file, copy)
    if described:
        shutil.copy(description_path(source), description_path(target))
    return target


@ENDINGS
def test_computes_what_the_onnx_file_does(ending: str) -> None:
    needs_runtime(ending)
    loaded = load_exported(FIXTURES / f"tiny{ending}", config_for("--onnx_threads", 1))
    reference = load_exported(FIXTURES / "tiny.onnx", config_for())
    assert (loaded.classes, loaded.image_size, loaded.normalisation is None) == (CLASSES, 32, False)
    for size in (1, 5, 2):
        np.testing.assert_allclose(loaded.run(batch(size)), reference.run(batch(size)), atol=2e-5)


@ENDINGS
def test_eval_and_infer_take_it(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    needs_runtime(ending)
    photos = make_images(tmp_path / "photos", dict.fromkeys(CLASSES, 3))
    results, rows = [], []
    for model in (FIXTURES / "tiny.onnx", copied(ending, tmp_path, "模 型")):
        call(evaluation, "--dataset_path", photos, "--pretrain_ckpt", model)
        results.append(capsys.readouterr().out.partition("result: ")[2].partition(" ckpt=")[0])
        call(infer, "--model", model, "--images", photos, "--predictions", tmp_path / "out")
        with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as file:
            rows.append([row["class"] for row in csv.DictReader(file)])
    assert "'images': 9" in results[0]
    assert results[0] == results[1]
    assert rows[0] == rows[1]


@ENDINGS
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("described", [True, False])
def test_truncated_files_are_refused(ending: str, share: float, described: bool, tmp_path: Path) -> None:
    needs_runtime(ending)
    path = copied(ending, tmp_path, described=described)
    cut = files_of(path)[-1]
    content = cut.read_bytes()
    cut.write_bytes(content[:int(share * len(content))])
    with pytest.raises(UserError, match="damaged") as error:
        load_exported(path, config_for())
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@ENDINGS
def test_something_else_is_refused(ending: str, tmp_path: Path) -> None:
    needs_runtime(ending)
    path = copied(ending, tmp_path, described=False)
    path.write_text("not a network\n")
    with pytest.raises(UserError, match=r"^\S+: not .*, but a text$"):
        load_exported(path, config_for())


def test_ncnns_weights_are_missed_by_name_and_belong_to_the_digest(tmp_path: Path) -> None:
    path = copied(".param", tmp_path)
    weights = path.with_suffix(".bin")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="not the one that m.param.json describes"):
        load_exported(path, config_for())
    weights.unlink()
    with pytest.raises(UserError, match=r"m\.bin: no such file"):
        load_exported(path, config_for())


@ENDINGS
def test_without_the_runtime_it_is_said_what_to_install(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "is_installed", lambda _: False)
    with pytest.raises(UserError, match="which is not installed: pip install -r requirements-runtimes.txt"):
        load_exported(FIXTURES / f"tiny{ending}", config_for())


def test_a_network_of_another_input_is_refused(tmp_path: Path) -> None:
    needs_runtime(".param")
    path = copied(".param", tmp_path, described=False)
    path.write_text(path.read_text().replace(" images", " data"))
    with pytest.raises(UserError, match="no network that this project exported"):
        load_exported(path, config_for())


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_whole_numbers_of_a_quantised_network(kind: type) -> None:
    details = {"dtype": kind, "quantization": (0.05, 3)}
    values = np.array([-0.2, 0, 0.07, 5, 1e6], np.float32)
    whole = engines._quantised(values, details)
    assert whole.dtype == kind
    limit = (np.iinfo(kind).max - 3) * 0.05
    low = (np.iinfo(kind).min - 3) * 0.05
    np.testing.assert_allclose(engines._floats(whole, details), np.clip(values, low, limit), atol=0.025)
    assert list(engines._quantised(np.array([0, 0.05], np.float32), details)) == [3, 4]
