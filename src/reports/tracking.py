"""The figures of a run for MLflow and for Weights & Biases, beside TensorBoard's event files.

Nothing but the figures, the keys that affect the result, and the model card leaves the run: no path, no URL, no
variable of the environment, no command line.
"""
import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from src.errors import UserError, first_line
from src.log import logger
from src.model_utils.config import Config
from src.model_utils.keys import KEYS
from src.reports.event_file import EventFile

MODULES = {"mlflow": "mlflow", "wandb": "wandb"}  # the choices of `tracking` but none, and what they import
PROJECT = "mobilenetv2"  # of all runs, unless the user names another one in the program's own variable
RUN_TAG = "mobilenetv2.run"  # by which a resumed run finds itself in MLflow


class Writer(Protocol):
    """Takes the figures of a run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point at optimisation step `step` to the curve of each name."""

    def close(self, is_finished: bool, files: Sequence[Path]) -> None:
        """Take the files of the run, at its end or when it is stopped before."""


def check_tracking(config: Config) -> None:
    """Check before the training that the program that the key `tracking` names is installed.

    Raises:
        UserError: it is not.
    """
    if config.tracking in MODULES and importlib.util.find_spec(MODULES[config.tracking]) is None:
        raise UserError(f"tracking is {config.tracking}, but the package {MODULES[config.tracking]} is not installed: "
                        "pip install -r requirements-tracking.txt")


def open_writers(config: Config, folder: Path, run_id: str, step: int) -> list[Writer]:
    """The writers that a configuration asks for.

    Args:
        config: of the run.
        folder: of its checkpoints.
        run_id: of the run; the same when it is resumed.
        step: steps done so far.

    Raises:
        UserError: one of them cannot be started.
    """
    writers: list[Writer] = []
    if config.tensorboard:
        writers.append(EventFile(folder / "tensorboard", step))
    if config.tracking in MODULES:
        settings = tracked_settings(config)
        try:
            writers.append(MlflowWriter(folder, run_id, settings) if config.tracking == "mlflow" else
                           WandbWriter(folder, run_id, settings))
        except Exception as error:  # both raise many types of error
            raise UserError(f"tracking: {config.tracking} cannot be started: {first_line(error)}; mend that, or use "
                            "--tracking none") from error
    return writers


def tracked_settings(config: Config) -> dict[str, Any]:
    """The keys that affect the result. Of a file only the name is told."""
    settings = {key: value for key, value in config.as_dict().items() if KEYS[key].affects_result}
    return {**settings, "pretrain_ckpt": Path(config.pretrain_ckpt).name}


class _Tolerant:
    """Gives up at the first error: a server that is gone, or a full disk, costs the figures alone."""

    _name: str
    _gave_up = False

    @contextlib.contextmanager
    def _tolerate(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # both raise many types of error
            self._gave_up = True
            logger.warning(f"no more figures for {self._name}, training goes on: {first_line(error)}")


class MlflowWriter(_Tolerant):
    """A run of MLflow: at `$MLFLOW_TRACKING_URI`, or in the folder `mlflow`.

    Args:
        folder: of the run's checkpoints.
        run_id: of the run. A run of MLflow that has it is gone on with.
        settings: its parameters.
    """

    _name = "MLflow"

    def __init__(self, folder: Path, run_id: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        here = f"sqlite:///{(folder / 'mlflow' / 'mlflow.db').absolute()}"
        uri = os.environ.get("MLFLOW_TRACKING_URI") or here
        if uri == here:
            (folder / "mlflow").mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        artifacts = (folder / "mlflow" / "artifacts").absolute().as_uri() if uri == here else None
        experiment = known.experiment_id if known else self._client.create_experiment(name, artifacts)
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run_id}'")
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, "RUNNING")
            return
        run = self._client.create_run(experiment, run_name=run_id, tags={RUN_TAG: run_id})
        self._run = run.info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, value)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point at optimisation step `step` to the curve of each name."""
        if self._gave_up:
            return
        with self._tolerate():
            for name, value in values.items():
                self._client.log_metric(self._run, name, value, step=step)

    def close(self, is_finished: bool, files: Sequence[Path]) -> None:
        """Take the files of the run, at its end or when it is stopped before."""
        if self._gave_up:
            return
        with self._tolerate():
            for file in files:
                self._client.log_artifact(self._run, str(file))
            self._client.set_terminated(self._run, "FINISHED" if is_finished else "KILLED")


class WandbWriter(_Tolerant):
    """A run of Weights & Biases, in the folder `wandb`. Nothing is sent unless `$WANDB_MODE` is online.

    Args:
        folder: of the run's checkpoints.
        run_id: of the run, which a resumed run goes on with.
        settings: its configuration.
    """

    _name = "Weights & Biases"

    def __init__(self, folder: Path, run_id: str, settings: Mapping[str, Any]) -> None:
        import wandb
        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True, save_code=False,
                               host="", x_disable_meta=True, x_disable_machine_info=True, x_disable_stats=True,
                               x_save_requirements=False)
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(project=os.environ.get("WANDB_PROJECT", PROJECT), id=run_id, resume="allow",
                               dir=str(folder), mode=mode, config=dict(settings),
                               settings=quiet)
        # A resumed run may write earlier steps again, which its own counter of steps would refuse.
        self._run.define_metric("*", step_metric="optimisation_step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point at optimisation step `step` to the curve of each name."""
        if self._gave_up:
            return
        with self._tolerate():
            self._run.log({"optimisation_step": step, **values})

    def close(self, is_finished: bool, files: Sequence[Path]) -> None:
        """Take the files of the run, at its end or when it is stopped before."""
        if self._gave_up:
            return
        with self._tolerate():
            for file in files:
                shutil.copy(file, self._run.dir)  # of a file elsewhere it would make a link
                self._run.save(str(Path(self._run.dir) / file.name), base_path=self._run.dir, policy="now")
            self._run.finish(0 if is_finished else 1)
