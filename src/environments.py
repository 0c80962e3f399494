"""Virtual environments for programs that do not fit into this one, and child processes that end for certain."""
import contextlib
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.files import atomic_folder

# This project's errors, pip's, and Python's.
ERROR_LINE = re.compile(r"^(?:error: |ERROR: |(?=[\w.]*(?:Error|Exception): ))(.+)", re.MULTILINE)
GRACE = 10  # seconds that a process has to end after Ctrl-C before it is killed
VERSION = "import sys; print('.'.join(map(str, sys.version_info[:2])))"


@dataclass(frozen=True)
class Environment:
    """What an environment has.

    Args:
        requirements: pip's file of pinned packages.
        python_version: that it needs, such as "3.7"; empty for that of this process.
        dependencies: whether pip installs what the packages depend on, too.
    """

    requirements: Path
    python_version: str = ""
    dependencies: bool = True

    def python_in(self, folder: Path) -> Path:
        """The Python of this environment, which need not exist yet, in a folder of environments.

        The path depends on all that the environment has, so that other requirements make another one.
        """
        python = self.python_version or f"{sys.base_prefix}\0{platform.python_version()}"
        wanted = f"{self.requirements.read_text(encoding='utf-8')}\0{python}"
        digest = hashlib.sha256(wanted.encode()).hexdigest()[:12]
        return folder / f"{self.requirements.stem}-{digest}" / "bin" / "python"


def make_environment(environment: Environment, folder: Path, say: Callable[[str], None], interpreter: str = "") -> Path:
    """The Python of an environment, which is made if needed.

    Args:
        environment: what it has.
        folder: of environments, which are kept there.
        say: is told of an installation.
        interpreter: the Python to make it with; empty for this one, or for one on PATH if it needs another version.

    Raises:
        UserError: the environment cannot be made.
    """
    python = environment.python_in(folder)
    path = python.parents[1]
    if not path.is_dir():
        interpreter = _interpreter(environment.python_version, interpreter)
        say(f"{path}: installing {environment.requirements.name} ...")
        options = () if environment.dependencies else ("--no-deps",)
        with atomic_folder(path) as temporary:
            run_child([interpreter, "-m", "venv", temporary])
            run_child([temporary / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", *options,
                       "--requirement", environment.requirements])
    return python


def _interpreter(version: str, named: str) -> str:
    """A Python of this version, if one is given; else this one."""
    if not version:
        return named or sys.executable
    advice = f"CPython {version} is needed here: --python names one, as --python /usr/bin/python{version}"
    own = ".".join(map(str, sys.version_info[:2])) == version
    found = named or (sys.executable if own else shutil.which(f"python{version}"))
    if not found:
        raise UserError(f"python{version} is not on PATH; {advice}")
    try:
        actual = run_child([found, "-c", VERSION]).strip()
    except UserError as error:
        raise UserError(f"{found}: cannot be used: {error}; {advice}") from error
    if actual != version:
        raise UserError(f"{found}: is Python {actual}; {advice}")
    return found


def run_child(command: Sequence[object], variables: Mapping[str, str] | None = None) -> str:
    """The standard output of a command. When this returns or raises, the command and its children have ended.

    Raises:
        UserError: it failed; the text is its last error.
    """
    words = [str(word) for word in command]
    try:
        child = subprocess.Popen(words, env=os.environ | (variables or {}), text=True, errors="replace",  # noqa: S603
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 start_new_session=True)
    except OSError as error:
        raise UserError(f"{words[0]}: cannot be started: {error.strerror or error}") from error
    with child:
        try:
            output, errors = child.communicate()
        finally:
            end_group(child)
    if child.returncode == 0:
        return output
    messages = ERROR_LINE.findall(errors) or errors.splitlines()[-1:] or [f"ended with status {child.returncode}"]
    raise UserError(messages[-1].strip())


def end_group(child: subprocess.Popen) -> None:
    """Send Ctrl-C to a running child and its children. Kill those that have not ended after a while."""
    try:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGINT)
            child.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
