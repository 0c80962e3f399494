"""The compilers of this machine, stand-ins that say what they are, and what is said where none will do."""
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from src.cpu_kernels import KernelsUnavailable, accelerate
from src.mobilenetV2 import ConvBN

GCC, CLANG = ("__GNUC__", "__GNUC_MINOR__", "__GNUC_PATCHLEVEL__"), ("__clang_major__", "__clang_minor__",
                                                                    "__clang_patchlevel__")
COMPILERS = {"g++": ["g++"], "clang": ["clang++"], "zig": [sys.executable, "-m", "ziglang", "c++"]}


def has(kind: str) -> bool:
    """Whether this machine has one of COMPILERS."""
    return bool(importlib.util.find_spec("ziglang") if kind == "zig" else shutil.which(COMPILERS[kind][0]))


def version(kind: str, *numbers: int) -> dict[str, int]:
    """The macros by which g++ or clang tells its version; clang says that it is a GCC 4.2.1, too."""
    if kind == "g++":
        return dict(zip(GCC, numbers, strict=True))
    return {"__clang__": 1, **dict(zip(CLANG, numbers, strict=True)), **dict(zip(GCC, (4, 2, 1), strict=True))}


def stand_in(path: Path, macros: dict[str, int], script: str = "exit 1") -> Path:
    """A command that predefines some macros; asked for anything else, it runs a shell script."""
    lines = " ".join(f"'#define {name} {value}'" for name, value in macros.items())
    path.write_text(f'#!/bin/sh\ncase "$*" in *-dM*) printf "%s\\n" {lines}; exit;; esac\n{script}\n')
    path.chmod(0o755)
    return path


def off_in_one_line() -> str:
    """What `accelerate` says where it cannot; the stock cells stay and run, and "on" raises the same."""
    cell = ConvBN(4, 8)
    line = accelerate(cell, "auto")
    assert line.startswith("CPU kernels: off: ")
    assert "\n" not in line
    assert type(cell) is ConvBN
    assert cell(Tensor(np.ones((1, 4, 2, 2), np.float32))).shape == (1, 8, 2, 2)
    with pytest.raises(KernelsUnavailable) as raised:
        accelerate(cell, "on")
    assert str(raised.value) in line
    return line
