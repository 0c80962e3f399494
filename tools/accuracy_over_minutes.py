"""Draws how fast training gets to which accuracy: starts commands in turn, and notes when each prints a score.

    python tools/accuracy_over_minutes.py --output docs/accuracy_over_minutes.svg \\
        --run "this project" "python train.py --platform CPU --dataset_path photos --pretrain_ckpt imagenet ..." \\
        --run "PyTorch, 0.01" "torch/bin/python tools/peers/finetune_torch.py --dataset_path photos --lr 0.01 ..."

A score is "'acc': 0.9" or "top-1 0.9" in a line. Minutes count from the start of the process. A CSV file with all
scores is written beside the picture, and read again: `--run` of a name that it has is not started.
"""
import argparse
import csv
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.errors import UserError, run_command
from src.files import atomic_write

SCORE = re.compile(r"(?:'acc': |\btop-1 )(0\.\d+|1\.0+)")
Scores = list[tuple[float, float]]  # minutes, top-1


def measure(name: str, command: str) -> Scores:
    """Run a command to its end; its scores, and when it printed them.

    Raises:
        UserError: it fails, or prints no score.
    """
    begin, scores, line = time.monotonic(), [], ""
    with subprocess.Popen(shlex.split(command), stdout=subprocess.PIPE,  # noqa: S603 - the user's own
                          stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            if found := SCORE.search(line):
                scores.append(((time.monotonic() - begin) / 60, float(found[1])))
                print(f"{name}: {scores[-1][0]:.2f} minutes, {scores[-1][1]:.2%}", file=sys.stderr, flush=True)
    if process.returncode or not scores:
        raise UserError(f"{name}: the command ended with status {process.returncode} and {len(scores)} scores: "
                        f"{line.strip()}")
    return scores


def read_scores(path: Path) -> dict[str, Scores]:
    """The scores of an earlier call, by run."""
    runs: dict[str, Scores] = {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                runs.setdefault(row["run"], []).append((float(row["minutes"]), float(row["top1"])))
    return runs


def write_scores(runs: dict[str, Scores], path: Path) -> None:
    """A row for each score."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("run", "minutes", "top1"))
        table.writerows((name, f"{minutes:.2f}", f"{top1:.4f}") for name, scores in runs.items()
                        for minutes, top1 in scores)


def draw(runs: dict[str, Scores], path: Path) -> None:
    """A line for each run."""
    import matplotlib as mpl
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = ""  # the same file each time
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, scores in runs.items():
        axes.plot(*zip(*scores, strict=True), marker="o", markersize=3, label=name)
    axes.set_xlabel("minutes")
    axes.set_ylabel("top-1 on the validation images")
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip("."), facecolor="white", metadata={"Date": None})
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=2, action="append", required=True, metavar=("NAME", "COMMAND"))
    parser.add_argument("--output", type=Path, required=True, help="the picture, .svg or .png")
    options = parser.parse_args(argv)
    if options.output.suffix not in {".svg", ".png"}:
        raise UserError(f"{options.output}: must end in .svg or .png")
    table = options.output.with_suffix(".csv")
    runs = read_scores(table)
    for name, command in options.run:
        if name not in runs:
            runs[name] = measure(name, command)
            write_scores(runs, table)
    draw(read_scores(table), options.output)
    print(options.output)


if __name__ == "__main__":
    run_command(main)
