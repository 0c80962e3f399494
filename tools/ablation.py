"""Measures the effect of each part of a recipe: runs train.py for several variants and seeds, and prints a table.

    python tools/ablation.py --dataset_path photos --output ablation --seeds 1,2,3 --recipe best --without all \\
        --with mixup_alpha=0.2 -- --platform CPU --pretrain_ckpt imagenet.ckpt --filter_head True --image_size 96
    python tools/ablation.py --dataset_path photos --output rates --seeds 1,2,3 \\
        --variant "rate .005" lr_max=0.005 --variant "rate .01, no decay" lr_max=0.01,weight_decay=0

What stands after `--` are options of train.py for every run. With --recipe the variants are the plain recipe, the
recipe, the recipe with one of its keys as in the plain one (--without KEY,KEY or all), and with one key more (--with).

Each run has a folder, OUTPUT/<variant>/seed<n>, with train.log, checkpoints, curves and, at the end, result.json.
After an interruption start the same command again: finished runs are kept, and the others resume. The table goes to the
standard output, everything else to the standard error.
"""
import argparse
import csv
import json
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.data.sources import validation_source
from src.errors import UserError, first_line, run_command
from src.files import atomic_write
from src.json_records import read_record, to_json
from src.model_utils.config import Config, get_config

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
OWN_KEYS = ("seed", "save_checkpoint_path", "dataset_path")  # that every run gets from here
Options = dict[str, str]


@dataclass(frozen=True)
class Variant:
    """A name, and its options of train.py."""

    name: str
    options: Options

    @property
    def folder(self) -> str:
        """The name without characters that are special to a file system or a shell."""
        return re.sub(r"[^\w.=+-]+", "_", self.name)


@dataclass(frozen=True)
class Scores:
    """Validation top-1 of a run."""

    best: float
    last: float


@dataclass(frozen=True)
class Result:
    """What is kept of a finished run."""

    best: float
    last: float
    arguments: list[str]  # of train.py


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line asks for and print the table."""
    argv = list(sys.argv[1:] if argv is None else argv)
    split = argv.index("--") if "--" in argv else len(argv)
    options, common = _parse(argv[:split]), argv[split + 1:]
    seeds = _seeds(options.seeds)
    variants = [Variant(name, _pairs([pairs], "--variant")) for name, pairs in options.variant]
    if options.recipe:
        variants = recipe_variants(options.recipe, options.without, options.plus, common) + variants
    _check(variants, seeds, options.dataset_path, common)

    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)
    scores: dict[str, list[Scores]] = {variant.name: [] for variant in variants}
    runs = [(variant, seed) for seed in seeds for variant in variants]  # a first table after the first seed
    for number, (variant, seed) in enumerate(runs, 1):
        command = train_command(variant, seed, options.dataset_path, common)
        found = run(command, options.output / variant.folder / f"seed{seed}")
        scores[variant.name].append(found)
        print(f"[{number}/{len(runs)}] {variant.name}, seed {seed}: best {found.best:.2%}, last {found.last:.2%}",
              file=sys.stderr)
    print(table(variants, scores, seeds, options.dataset_path, common))


def recipe_variants(recipe: str, without: str, plus: Sequence[str], common: Sequence[str]) -> list[Variant]:
    """The variants: the plain recipe, the recipe, the recipe without each named key, and with each added key.

    Raises:
        UserError: a key to leave out has the same value in both recipes.
    """
    plain, ours = (get_config(["--recipe", name, *common]).as_dict() for name in ("plain", recipe))
    differing = [key for key in plain if plain[key] != ours[key] and key != "recipe"]
    keys = differing if without == "all" else [key for key in without.split(",") if key]
    if strange := [key for key in keys if key not in differing]:
        raise UserError(f"--without {strange[0]}: the recipe {recipe} does not set it apart from plain with these "
                        f"options; it differs in {', '.join(differing) or 'nothing'}")
    return [Variant("plain", {"recipe": "plain"}), Variant(recipe, {"recipe": recipe}),
            *(Variant(f"{recipe} without {key}", {"recipe": recipe, key: str(plain[key])}) for key in keys),
            *(Variant(f"{recipe} with {pairs}", {"recipe": recipe, **_pairs([pairs], "--with")}) for pairs in plus)]


def train_command(variant: Variant, seed: int, dataset_path: str, common: Sequence[str]) -> list[str]:
    """The words of a run's command line, but for where its checkpoints go."""
    own = [word for key, value in variant.options.items() for word in (f"--{key}", value)]
    return [sys.executable, "-u", str(TRAIN), "--dataset_path", dataset_path, *common, *own, "--seed", str(seed)]


def run(command: Sequence[str], folder: Path) -> Scores:
    """The scores of a run. Runs or resumes it unless it is finished.

    Raises:
        UserError: train.py failed.
    """
    result, log = folder / "result.json", folder / "train.log"
    arguments = list(command[3:])
    if (done := _finished(result)) and done.arguments == arguments:
        return Scores(done.best, done.last)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        output = log.open("ab")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to: {error.strerror}") from error
    with output:
        # In its own session, so that Ctrl-C reaches it only once, from here: a second one would end train.py at once.
        process = subprocess.Popen([*command, "--save_checkpoint_path", str(folder)], stdin=subprocess.DEVNULL,  # noqa: S603
                                   stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if status:
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise UserError(f"train.py ended with status {status}; {log} ends with: {last}")
    scores = _scores(folder / "curves.csv")
    with atomic_write(result) as temporary:
        temporary.write_text(json.dumps(to_json(Result(scores.best, scores.last, arguments)), indent=1) + "\n",
                             encoding="utf-8")
    return scores


def table(variants: Sequence[Variant], scores: Mapping[str, Sequence[Scores]], seeds: Sequence[int],
          dataset_path: str, common: Sequence[str]) -> str:
    """Markdown: per variant mean and standard deviation (of n - 1) of top-1 over the seeds, in per cent."""
    words = shlex.join(["python", "train.py", "--dataset_path", dataset_path, *common])
    listed = ",".join(map(str, seeds))
    lines = [f"`{words} --seed {f'{{{listed}}}' if len(seeds) > 1 else listed}` and:", "",
             f"| variant | options | best top-1, %, {len(seeds)} seed{'s' * (len(seeds) > 1)} | last top-1, % |",
             "|---|---|---|---|"]
    for variant in variants:
        own = shlex.join(word for key, value in variant.options.items() for word in (f"--{key}", value))
        best, last = (_mean([getattr(score, which) for score in scores[variant.name]]) for which in ("best", "last"))
        lines.append(f"| {variant.name} | {f'`{own}`' if own else ''} | {best} | {last} |")
    return "\n".join(lines)


def _mean(shares: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(shares):.2f}"
    return f"{mean} ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else mean


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", required=True, help="as of train.py; there must be images to validate on")
    parser.add_argument("--output", required=True, type=Path, help="folder of all runs")
    parser.add_argument("--seeds", default="1,2,3", help="seeds of each variant's runs (default 1,2,3)")
    parser.add_argument("--recipe", default="", help="a recipe of default_config.yaml to take apart")
    parser.add_argument("--without", default="", metavar="KEY,KEY|all", help="keys of the recipe to leave out singly")
    parser.add_argument("--with", dest="plus", default=[], action="append", metavar="KEY=VALUE[,KEY=VALUE]",
                        help="keys to add to the recipe; may be given several times")
    parser.add_argument("--variant", default=[], action="append", nargs=2, metavar=("NAME", "KEY=VALUE[,KEY=VALUE]"),
                        help="any other variant; '' for no options; may be given several times")
    return parser.parse_args(argv)


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise UserError(f"--seeds must be whole numbers like 1,2,3, not {text!r}") from None


def _pairs(texts: Sequence[str], option: str) -> Options:
    pairs = [pair.partition("=") for text in texts for pair in text.split(",") if pair]
    if wrong := next((key for key, equals, _ in pairs if not equals), None):
        raise UserError(f"{option}: expected KEY=VALUE, not {wrong!r}")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _check(variants: Sequence[Variant], seeds: Sequence[int], dataset_path: str, common: Sequence[str]) -> None:
    """Check the options before hours of computation."""
    if not variants:
        raise UserError("nothing to run: name variants with --recipe or --variant")
    folders = [variant.folder for variant in variants]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise UserError(f"two variants would share the folder {twice}; give them other names")
    for variant in variants:
        if own := next((key for key in OWN_KEYS if key in variant.options or f"--{key}" in common), None):
            raise UserError(f"{own} is this tool's to set, for each run; leave it out of train.py's options")
        config: Config = get_config(train_command(variant, seeds[0], dataset_path, common)[3:])
        if not config.run_eval or not (config.val_share or validation_source(dataset_path, config.eval_dataset_path)):
            raise UserError(f"{dataset_path}: no validation, so nothing to compare; name a folder with train/ and "
                            "val/, and leave run_eval on")


def _finished(result: Path) -> Result | None:
    try:
        return read_record(Result, result, "the result of a run")
    except UserError:  # there is none yet
        return None


def _scores(curves: Path) -> Scores:
    try:
        with curves.open(encoding="utf-8", newline="") as file:
            top1 = [float(row["top1"]) for row in csv.DictReader(file)]
        return Scores(max(top1), top1[-1])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{curves}: not the curves of a run that was validated: {first_line(error)}") from error


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_command(main)
