"""How many operators the training step for Ascend has: each one is a launch on a card, however small it is."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PROGRAM = ROOT / "tests" / "support" / "ascend_step.py"
# What computes nothing: the order of side effects, tuples, names of values.
BOOKKEEPING = {"UpdateState", "Load", "TupleGetItem", "Depend", "MakeTuple", "TensorMove", "Partial", "Switch",
               "Return"}
OPERATOR = re.compile(r"^  %\w+\([^)]*\) = (?:PrimFunc_)?(\w+)\(", re.MULTILINE)


def operators(graph: Path) -> list[str]:
    """The computing operators of a graph, from the text that MindSpore writes of it."""
    return [name for name in OPERATOR.findall(graph.read_text(encoding="utf-8")) if name not in BOOKKEEPING]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], list[str], list[str]]:
    """Numbers of the network's parts; the operators of the step as it is, and with Nesterov's rule as on CPU."""
    folder = tmp_path_factory.mktemp("graphs")
    environment = os.environ | {"MS_DEV_SAVE_GRAPHS": "1", "MS_DEV_SAVE_GRAPHS_PATH": str(folder),
                                "MS_DEV_DUMP_IR_PASSES": "validate", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, PROGRAM], env=environment, cwd=folder, capture_output=True, text=True,
                            check=True)
    step, other = sorted(folder.glob("*_validate_*.ir"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return json.loads(result.stdout.splitlines()[-1]), operators(step), operators(other)


def most(numbers: dict[str, int]) -> int:
    """How many operators a step may have. Of the whole network, with 158 gradients, it has 2,542 of 2,556.

    A gradient takes five: three look for infinity, one divides by the loss scale, and `ApplyMomentum`. Weight decay
    takes two for each parameter that it is for, the moving average three. What is left is forward, backward and
    casts: 16 for each convolution with its batch norm and activation, 42 for the input, the classifier and the loss.
    """
    return (5 * numbers["gradients"] + 2 * numbers["decayed"] + 3 * numbers["averaged"]
            + 16 * numbers["convolutions"] + 42)


def test_no_small_operators_creep_in(compiled: tuple[dict[str, int], list[str], list[str]]) -> None:
    numbers, step, _ = compiled
    assert numbers == {"gradients": 14, "decayed": 5, "averaged": 22, "convolutions": 4}
    assert step.count("ApplyMomentum") == numbers["gradients"]
    assert len(step) <= most(numbers)
    assert len(step) + min(numbers.values()) > most(numbers)  # one more for each of something would be too many


def test_the_count_shows_seven_operators_in_the_place_of_one(
        compiled: tuple[dict[str, int], list[str], list[str]]) -> None:
    """Nesterov's rule as it is on CPU."""
    numbers, step, other = compiled
    assert "ApplyMomentum" not in other
    assert len(other) - len(step) >= 6 * numbers["gradients"]
    assert len(other) > most(numbers)
