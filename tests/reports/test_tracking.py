"""Tracking: what MLflow and Weights & Biases get of a run. With the real packages, where they are installed."""
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import config_for

from src.errors import UserError
from src.reports import tracking
from src.reports.tracking import MlflowWriter, WandbWriter, check_tracking, open_writers, tracked_settings

SECRET = "token-1234567890"


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install -r requirements-tracking.txt")


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)


def config(name: str) -> Any:
    return config_for("--tracking", name, "--epoch_size", 7, "--pretrain_ckpt", f"/home/{SECRET}/start.ckpt",
                      "--data_url", f"https://user:{SECRET}@example.com/data", "--dataset_path", f"/{SECRET}/photos")


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_told_before_the_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=f"tracking is {name}, but .* pip install -r requirements-tracking.txt"):
        check_tracking(config(name))
    check_tracking(config("none"))


def test_settings_have_no_path_and_no_url() -> None:
    settings = tracked_settings(config("mlflow"))
    assert settings["epoch_size"] == 7
    assert settings["pretrain_ckpt"] == "start.ckpt"
    assert SECRET not in str(settings)
    assert not {"data_url", "dataset_path", "save_checkpoint_path"} & settings.keys()


def test_without_tracking_nothing_is_written(tmp_path: Path) -> None:
    assert open_writers(config("none"), tmp_path, "abcd", 0) == []
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_started_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no server\nat all")

    monkeypatch.setattr(tracking, "MlflowWriter", fail)
    with pytest.raises(UserError, match="mlflow cannot be started: no server; mend that, or use --tracking none"):
        open_writers(config("mlflow"), tmp_path, "abcd", 0)


class Broken:
    """A client whose server is gone."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise ConnectionError(f"{name}: no answer")
        return fail


@pytest.mark.parametrize(("writer", "client"), [(MlflowWriter, "_client"), (WandbWriter, "_run")])
def test_a_server_that_is_gone_costs_the_figures_alone(writer: Any, client: str,
                                                       capsys: pytest.CaptureFixture) -> None:
    made = writer.__new__(writer)
    setattr(made, client, Broken())
    made._run = getattr(made, "_run", "")
    for step in 1, 2:
        made.write(step, {"step/loss": 1.0})
    made.close(True, [])
    assert capsys.readouterr().err.count("training goes on") == 1


# ---- the real packages

def write_in_two_parts(name: str, folder: Path, files: Sequence[Path]) -> None:
    """A run that is stopped after step 4 and goes on from step 3."""
    for steps, is_finished in (((1, 2, 3, 4), False), ((3, 4, 5, 6), True)):
        writer, = open_writers(config(name), folder, "0123abcd", steps[0] - 1)
        for step in steps:
            writer.write(step, {"step/loss": 10.0 - step, "epoch/top1": 0.1 * step})
        writer.close(is_finished, files)


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "MODEL_CARD.md"
    path.write_text("# the card")
    return path


def test_mlflow_has_one_run_with_the_curves_of_both_parts(tmp_path: Path, card: Path) -> None:
    needs("mlflow")
    from mlflow import MlflowClient
    write_in_two_parts("mlflow", tmp_path, [card])
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    experiment, = (found for found in client.search_experiments() if found.name == "mobilenetv2")
    run, = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["epoch_size"] == "7"
    points = {(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "step/loss")}
    assert points == {(step, 10.0 - step) for step in range(1, 7)}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == [card.name]
    assert SECRET.encode() not in content(tmp_path)


def test_wandb_keeps_everything_here(tmp_path: Path, card: Path) -> None:
    needs("wandb")
    write_in_two_parts("wandb", tmp_path, [card])
    runs = sorted((tmp_path / "wandb").glob("offline-run-*-0123abcd"))
    assert runs
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*.wandb"))  # what `wandb sync` sends
    for wanted in (b"step/loss", b"epoch/top1", b"optimisation_step", b"epoch_size", b"MODEL_CARD.md"):
        assert wanted in written, wanted
    assert [path.read_text() for path in runs[-1].rglob(card.name)] == ["# the card"]
    for private in (str(tmp_path), Path(sys.argv[0]).name, str(Path.home())):
        assert private.encode() not in written, private
    assert SECRET.encode() not in content(tmp_path)
