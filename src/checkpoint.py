"""Checkpoints: one file of parameters and a JSON of the same stem that says what they are.

A checkpoint holds the network under its parameters' own names, ready for evaluation and export, and under `state.` what
only a training run needs. Its JSON holds the configuration, the classes, epoch and step, the metrics, the curves so far
and the digest of the checkpoint.
"""
import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Tensor

from src.errors import UserError
from src.files import link_or_copy, whole_file

STATE_PREFIX = "state."
BEST, LAST = "best", "last"
RECORDS = ("curves.csv", "curves.png", "report.html", "best.npz", "tensorboard", "profile")  # what else a run leaves


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read."""

    path: Path
    network: dict[str, Tensor]
    state: dict[str, Tensor]  # without the prefix
    about: dict[str, Any] = field(default_factory=dict)  # its JSON; empty where there is none

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that it was trained with, as far as it is known."""
        return self.about.get("config", {})

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, if the checkpoint tells them."""
        return tuple(self.about["classes"]) if self.about.get("classes") else None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and the JSON beside it, if there is one.

    Raises:
        UserError: the file is missing, empty, damaged (its digest is not the JSON's) or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    about = read_about(path)
    if path.stat().st_size == 0:
        raise UserError(f"{path}: this checkpoint is empty; use another one")
    if about.get("sha256", digest := file_digest(path)) != digest:
        raise UserError(f"{path}: this checkpoint is damaged: it is not the file that {path.stem}.json describes; "
                        "use another one")
    try:
        values = ms.load_checkpoint(str(path))
    except Exception as error:  # MindSpore raises what its parsers raise
        raise UserError(f"{path}: not a MindSpore checkpoint, or a damaged one "
                        f"({str(error).strip().splitlines()[0]})") from error
    state = {name: value for name, value in values.items() if name.startswith(STATE_PREFIX)}
    network = {name: value for name, value in values.items() if name not in state}
    return Checkpoint(path, network, {name.removeprefix(STATE_PREFIX): value for name, value in state.items()}, about)


def write_checkpoint(path: Path, network: Mapping[str, Tensor], state: Mapping[str, Tensor],
                     about: dict[str, Any]) -> None:
    """Write a checkpoint, then its JSON, each whole or not at all."""
    values = {**network, **{STATE_PREFIX + name: value for name, value in state.items()}}
    with whole_file(path) as temporary:
        try:
            ms.save_checkpoint([{"name": name, "data": value} for name, value in values.items()], str(temporary))
        except RuntimeError as error:
            raise UserError(f"{path}: cannot write this checkpoint: {str(error).splitlines()[0]}") from error
        digest = file_digest(temporary)
    with whole_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({**about, "sha256": digest}, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Retention:
    """Which numbered checkpoints of a run are kept."""

    latest: int  # the newest so many
    best: int = 0  # those of the best so many epochs
    every: int = 0  # those of every so manieth epoch; 0 for none


class CheckpointFolder:
    """The checkpoints of one run: numbered ones, `best` and `last`. It removes none but this run's own.

    Args:
        path: the folder.
        retention: what to keep besides `best` and `last`.
    """

    def __init__(self, path: Path, retention: Retention) -> None:
        self.path = path
        self._retention = retention
        self._written: list[tuple[Path, dict[str, Any]]] = []  # oldest first, with what their JSON says

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Take over the checkpoints of the run that this one is of; mend `best` and `last`, which are written last."""
        run = checkpoint.about["run"]
        found = [(path, about) for path in self.path.glob("mobilenetv2*-*_*.ckpt")
                 if (about := _about_or_nothing(path)).get("run") == run and about["step"] <= checkpoint.about["step"]]
        self._written = sorted(found, key=lambda entry: entry[1]["step"])
        if checkpoint.path in {path for path, _ in found}:
            self._name_latest(checkpoint.path, checkpoint.about)

    def set_aside_earlier_run(self) -> None:
        """Move what an earlier run left here into a folder of the present date."""
        left = [file for pattern in ("mobilenetv2*-*_*.ckpt", f"{BEST}.ckpt", f"{LAST}.ckpt")
                for file in self.path.glob(pattern)]
        left = [file for found in left for file in (found, found.with_suffix(".json")) if file.is_file()]
        left += [file for name in RECORDS if (file := self.path / name).exists()]
        if not left:
            return
        date = time.strftime("earlier-%Y%m%d-%H%M%S")
        names = (date, *(f"{date}-{n}" for n in range(2, 100)))  # several runs may begin in one second
        aside = next(folder for name in names if not (folder := self.path / name).exists())
        try:
            aside.mkdir()
            for file in left:
                file.rename(aside / file.name)
        except OSError as error:
            raise UserError(f"{aside}: cannot set an earlier run's checkpoints aside: {error.strerror}") from error
        print(f"{self.path}: an earlier run's checkpoints are now in {aside.name}/")

    def save(self, name: str, network: Mapping[str, Tensor], state: Mapping[str, Tensor],
             about: dict[str, Any]) -> bool:
        """Write a checkpoint as `name` and as `last`, and as `best` if its JSON says so; drop what is not to be kept.

        Returns whether that was possible: a full disk costs this checkpoint, but none before it.
        """
        path = self.path / f"{name}.ckpt"
        try:
            write_checkpoint(path, network, state, about)
            self._name_latest(path, about)
        except UserError as error:
            print(f"warning: no checkpoint this time, training goes on: {error}", file=sys.stderr)
            return False
        self._written = [entry for entry in self._written if entry[0] != path] + [(path, about)]
        keep = self._kept()
        for old, _ in self._written:
            if old not in keep:
                for file in (old, old.with_suffix(".json")):
                    file.unlink(missing_ok=True)
        self._written = [entry for entry in self._written if entry[0] in keep]
        return True

    def _name_latest(self, path: Path, about: Mapping[str, Any]) -> None:
        for second_name in (LAST, BEST) if about["is_best"] else (LAST,):
            for file in (path, path.with_suffix(".json")):
                link_or_copy(file, self.path / f"{second_name}{file.suffix}")

    def _kept(self) -> set[Path]:
        whole = [(path, about) for path, about in self._written if about["whole_epoch"]]
        by_score = sorted(whole, key=lambda entry: entry[1]["metrics"].get("top1", -1.0), reverse=True)
        every = self._retention.every
        kept = [self._written[-1], *whole[-self._retention.latest:], *by_score[:self._retention.best],
                *((path, about) for path, about in whole if every and about["epoch"] % every == 0)]
        return {path for path, _ in kept}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") \
            else hashlib.sha256(file.read()).hexdigest()


def read_about(path: Path) -> dict[str, Any]:
    """The JSON beside a checkpoint; empty if there is none.

    Raises:
        UserError: it cannot be read or is no description of a checkpoint.
    """
    path = path.with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot read what the checkpoint beside it is: {error}") from error
    classes = about.get("classes") if isinstance(about, dict) else None
    if not (isinstance(about, dict) and isinstance(about.get("config", {}), dict)
            and (classes is None or isinstance(classes, list) and all(isinstance(name, str) for name in classes))):
        raise UserError(f"{path}: not the description of a checkpoint")
    return about


def _about_or_nothing(path: Path) -> dict[str, Any]:
    try:
        return read_about(path)
    except UserError:
        return {}
