"""The benchmark's command and report; no figure is judged."""
import json
from typing import Any

import pytest
from conftest import run_script

FIELDS = {"batch_size", "image_size", "train_images_per_s", "eval_images_per_s", "data_images_per_s", "startup_s",
          "peak_memory_mb", "cpu_kernels", "threads"}
SMALL = ("tools/benchmark.py", "--batch_size", 2, "--image_size", 32, "--steps", 1)


def report(*options: object) -> dict[str, Any]:
    run = run_script(*SMALL, *options)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.strip().splitlines()[-1])


def test_everything_is_measured() -> None:
    found = report()
    assert found.keys() == FIELDS
    assert found["cpu_kernels"] in ("on", "off")
    assert all(found[name] > 0 for name in FIELDS - {"cpu_kernels"})


def test_one_mode_without_kernels() -> None:
    found = report("--mode", "eval", "--cpu_kernels", "off")
    assert found.keys() == FIELDS
    assert found["cpu_kernels"] == "off"
    assert {name for name, value in found.items() if value is None} == {
        "train_images_per_s", "data_images_per_s", "startup_s", "peak_memory_mb"}


@pytest.mark.parametrize("option", [("--steps", 0), ("--mode", "sleep")])
def test_nonsense_is_refused(option: tuple) -> None:
    run = run_script(*SMALL, *option)
    assert run.returncode == 2
    assert option[0] in run.stderr
