"""src/environments.py: one environment for each content, none after a failure, made by the Python that they need."""
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from src import environments
from src.environments import Environment, make_environment, run_child
from src.errors import UserError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands, which make a folder instead of an environment. Requirements of "bad" cannot be installed."""
    commands = []

    def install(command: Sequence[object]) -> str:
        words = [str(word) for word in command]
        commands.append(words)
        if words[1] == "-c":
            return "3.7\n"
        if "pip" not in words:
            (Path(words[-1]) / "bin").mkdir(parents=True)
        elif Path(words[-1]).read_text().startswith("bad"):
            raise UserError("no such version")
        return ""
    monkeypatch.setattr(environments, "run_child", install)
    return commands


def test_another_environment_for_other_versions_and_none_after_a_failure(installed: list, tmp_path: Path) -> None:
    requirements = tmp_path / "peer.txt"
    told: list[str] = []
    pythons = []
    for text in ("good==1\n", "good==2\n", "good==1\n"):
        requirements.write_text(text)
        pythons.append(make_environment(Environment(requirements), tmp_path / "environments", told.append))
    assert pythons[0] == pythons[2] != pythons[1]
    assert len(told) == 2
    requirements.write_text("bad==1\n")
    with pytest.raises(UserError, match="no such version"):
        make_environment(Environment(requirements), tmp_path / "environments", told.append)
    assert len(list((tmp_path / "environments").iterdir())) == 2


def test_packages_can_come_without_what_they_depend_on(installed: list, tmp_path: Path) -> None:
    requirements = tmp_path / "peer.txt"
    requirements.write_text("good==1\n")
    make_environment(Environment(requirements, dependencies=False), tmp_path, lambda _: None)
    assert "--no-deps" in installed[-1]


def test_another_python_is_found_or_named(installed: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = tmp_path / "old.txt"
    requirements.write_text("good==1\n")
    old = Environment(requirements, "3.7")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"python3\.7 is not on PATH; CPython 3\.7 is needed here: --python names one"):
        make_environment(old, tmp_path, lambda _: None)
    assert make_environment(old, tmp_path, lambda _: None, "/opt/python3.7") == old.python_in(tmp_path)
    assert [command[0] for command in installed[:2]] == ["/opt/python3.7"] * 2


def test_a_python_of_another_version_is_refused(tmp_path: Path) -> None:
    requirements = tmp_path / "old.txt"
    requirements.write_text("good==1\n")
    with pytest.raises(UserError, match=r": is Python 3\.\d+; CPython 3\.7 is needed here"):
        make_environment(Environment(requirements, "3.7"), tmp_path, lambda _: None, sys.executable)
    with pytest.raises(UserError, match="none/python: cannot be used: .*cannot be started"):
        make_environment(Environment(requirements, "3.7"), tmp_path, lambda _: None, str(tmp_path / "none" / "python"))


def test_a_failed_command_is_its_last_error() -> None:
    with pytest.raises(UserError, match="^ValueError: no such thing$"):
        run_child([sys.executable, "-c", "raise ValueError('no such thing')"])
