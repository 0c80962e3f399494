"""Kill training again and again, at random moments, and see that it ends as if nothing had happened.

    python tests/end_to_end/kill_and_resume.py --kills 200 [--seed 0]

Prints how often it was killed and whether every parameter came out bit-identical to the uninterrupted run.
"""
import argparse
import multiprocessing
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import make_images  # noqa: E402 - needs the path

from src.checkpoint.file import read_checkpoint  # noqa: E402
from tests.support import dying_train  # noqa: E402

STEPS_PER_EPOCH = 4
STEPS_OF_A_LIFE = 4  # at most, before it is killed
RENAMES_OF_A_STEP = 4  # a checkpoint and its JSON, twice

# Each is a fork of one that has imported everything and computed nothing.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([dying_train.__name__])


def run_with_kills(folder: Path, kills: int, seed: int) -> tuple[int, list[str]]:
    """Train in `folder` without and with kills.

    Returns how often it was killed, and the names of the parameters that came out different.
    """
    moments = random.Random(seed)
    make_images(folder / "photos", {"train/ape": 8, "train/zebra": 8, "val/ape": 2, "val/zebra": 2})
    epochs = max(3, kills * STEPS_OF_A_LIFE // 2 // STEPS_PER_EPOCH)
    options = ["--platform", "CPU", "--dataset_path", folder / "photos", "--image_size", "32", "--width_mult", "0.35",
               "--batch_size", "4", "--epoch_size", epochs, "--log_steps", "1", "--save_checkpoint_steps", "1",
               "--lr_max", "0.05"]
    live(folder / "whole" / "checkpoint", options, None, 0)
    killed = 0
    while killed < kills:
        in_saving = moments.random() < 0.5
        status = live(folder / "killed" / "checkpoint", options,
                      None if in_saving else moments.randint(1, STEPS_OF_A_LIFE),
                      moments.randint(1, STEPS_OF_A_LIFE * RENAMES_OF_A_STEP) if in_saving else 0)
        if status == 0:
            break
        killed += 1
    else:
        live(folder / "killed" / "checkpoint", options, None, 0)
    whole, found = (read_checkpoint(folder / name / "checkpoint" / "last.ckpt") for name in ("whole", "killed"))
    names = whole.network.keys() | whole.state.keys()
    values, wanted = ({**checkpoint.network, **checkpoint.state} for checkpoint in (found, whole))
    different = [name for name in sorted(names) if name not in values
                 or not np.array_equal(values[name].asnumpy(), wanted[name].asnumpy())]
    return killed, different + ["history"] * (whole.training.history != found.training.history)


def live(checkpoints: Path, options: list[object], steps: int | None, renames: int) -> int:
    """One process: killed after `steps` lines of its log, or by itself after `renames`; returns its exit status.

    The kill comes while the process goes on: with its next step, its saving, or its validation.
    """
    checkpoints.parent.mkdir(exist_ok=True)
    argv = [str(part) for part in (renames, *options, "--save_checkpoint_path", checkpoints)]
    log, end_of_process = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=dying_train.main_with_log, args=(end_of_process, argv))
    process.start()
    end_of_process.close()
    with log, open(log.fileno(), encoding="utf-8", closefd=False) as lines:
        for line in lines:
            steps = steps - 1 if steps is not None and line.startswith("epoch: [") else steps
            if steps == 0:
                process.kill()
    process.join()
    if process.exitcode not in {0, -9}:
        raise AssertionError(f"training ended with status {process.exitcode}")
    return process.exitcode


def main() -> None:
    """Kill as often as asked, and print the count."""
    parser = argparse.ArgumentParser(description="Kill training at random moments and compare the end.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        killed, different = run_with_kills(Path(folder), asked.kills, asked.seed)
    print(f"killed {killed} times; " + (f"different: {', '.join(different[:5])}" if different else "bit-identical"))
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
