"""Where a result came from: settings, the command that repeats it, versions and machine."""
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from src.cpu_kernels.cells import library_in_use
from src.model_utils.config import BASE_FILE, Config, get_config
from src.names import escape_name

ROOT = BASE_FILE.parent


def changed_settings(config: Config) -> dict[str, Any]:
    """The keys whose values differ from the defaults of the platform and recipe."""
    usual = get_config(["--platform", config.platform, "--recipe", config.recipe]).as_dict()
    return {key: value for key, value in config.as_dict().items() if value != usual[key]}


def repeating_command(config: Config, script: Path) -> str:
    """Shell lines that run a script again with this configuration.

    For several processes the user must add the launcher.
    """
    settings = {"platform": config.platform, "recipe": config.recipe, **changed_settings(config)}
    return f"cd {_quote(str(Path.cwd()))}\n{shell_line(script, settings)}"


def shell_line(script: Path, settings: Mapping[str, Any]) -> str:
    """A shell line that runs a script with these values."""
    return " ".join(map(_quote, ["python", str(script), *option_words(settings)]))


def option_words(settings: Mapping[str, Any]) -> list[str]:
    """A command line with these values. Key and value are one word, because a value may begin with a dash."""
    return [f"--{key}={value}" for key, value in settings.items()]


def _quote(word: str) -> str:
    """Quote a word for a shell. A word that is not text gets the escapes of src/names.py between $' and '."""
    if word == escape_name(word):
        return shlex.quote(word)
    plain = "".join(chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}"
                    for byte in os.fsencode(word))
    return f"$'{plain}'"


def environment(network: object, rank_size: int) -> dict[str, str]:
    """Versions and machine. `network` is the network that was used."""
    kernels = isinstance(network, nn.Cell) and library_in_use(network) is not None
    return {
        "Project": _project_version(),
        "MindSpore": ms.__version__,
        "Python": platform.python_version(),
        "numpy": np.__version__,
        "CPU kernels": "on" if kernels else "off",
        "Operating system": platform.platform(),
        "Processor": f"{processor_name()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores usable",
        "Processes": str(rank_size),
        "Interpreter": sys.executable,
    }


def _project_version() -> str:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    git = shutil.which("git")
    command = [git or "git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False) if git else None  # noqa: S603
    commit = found.stdout.strip() if found and found.returncode == 0 else ""
    return " ".join(filter(None, (stated[1] if stated else "unknown", f"({commit})" if commit else "")))


def processor_name() -> str:
    """The name of the processor, or the kind of machine if the kernel has no name."""
    try:
        names = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = None
    return names[1] if names else platform.machine()
