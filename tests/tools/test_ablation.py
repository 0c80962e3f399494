"""tools/ablation.py: runs of train.py for variants and seeds, a table of them, and what a second start leaves alone."""
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, config_for, make_images

from src.checkpoint.file import write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.errors import UserError
from src.model_utils.config import get_config
from src.models import define_net
from src.utils import network_parameters
from tools import ablation

# Runs that a SIGINT ends only when they have written down that it came; the second one would end them at once.
STUBBORN = """
import pathlib, signal, sys, time
came = []
signal.signal(signal.SIGINT, lambda *_: came.append(1))
folder = pathlib.Path(sys.argv[sys.argv.index("--save_checkpoint_path") + 1])
(folder / "started").touch()
while not came:
    time.sleep(.01)
(folder / "saved").write_text(str(len(came)))
sys.exit(130)
"""
DRIVER = """
import pathlib, sys
from src.errors import run_command
from tools.ablation import run
run_command(lambda: run([sys.executable, "-u", sys.argv[1]], pathlib.Path(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options of quick runs: a classifier on a frozen backbone."""
    folder = tmp_path_factory.mktemp("given")
    make_images(folder / "photos", {"train/ape": 6, "train/zebra": 6, "val/ape": 4, "val/zebra": 4})
    write_checkpoint(folder / "k.ckpt", network_parameters(define_net(config_for("--width_mult", 0.35), 2)), {},
                     CheckpointMetadata())
    return ("--dataset_path", str(folder / "photos"), "--", "--platform", "CPU", "--image_size", "32", "--batch_size",
            "4", "--freeze_layer", "backbone", "--epoch_size", "2", "--width_mult", "0.35",
            "--pretrain_ckpt", str(folder / "k.ckpt"))


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as error:
        ablation.main(argv)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_variant_is_run_once_and_stands_in_the_table(given: tuple[str, ...], tmp_path: Path,
                                                           capsys: pytest.CaptureFixture) -> None:
    argv = ("--output", str(tmp_path / "out"), "--seeds", "4", "--variant", "as it is", "",
            "--variant", "still", "lr_max=0,dropout=0", *given)
    ablation.main(argv)
    first = capsys.readouterr()
    logs = {path: path.read_text() for path in (tmp_path / "out").rglob("train.log")}
    assert {str(path.relative_to(tmp_path / "out")) for path in logs} == {"as_it_is/seed4/train.log",
                                                                         "still/seed4/train.log"}
    about = json.loads((tmp_path / "out/still/seed4/last.json").read_text())
    assert (about["config"]["lr_max"], about["config"]["dropout"], about["config"]["seed"]) == (0, 0, 4)
    top1 = [row["top1"] for row in about["history"]]
    head, _, titles, _, default, still = first.out.strip().splitlines()
    assert head.startswith("`python train.py --dataset_path ")
    assert head.endswith(" --seed 4` and:")
    assert titles == "| variant | options | best top-1, %, 1 seed | last top-1, % |"
    assert default.startswith("| as it is |  | ")
    assert still == f"| still | `--lr_max 0 --dropout 0` | {100 * max(top1):.2f} | {100 * top1[-1]:.2f} |"
    assert "[2/2] still, seed 4: best " in first.err

    ablation.main(argv)  # finished runs are not run again
    assert capsys.readouterr().out == first.out
    assert {path: path.read_text() for path in (tmp_path / "out").rglob("train.log")} == logs


def test_a_finished_run_of_other_options_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "variant"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"arguments": ["--seed", "1"], "best": 0.5, "last": 0.4}))
    quick = tmp_path / "quick.py"
    quick.write_text(f"open({str(folder / 'curves.csv')!r}, 'w').write('epoch,top1\\n1,0.75\\n2,0.25\\n')")
    assert ablation.run([sys.executable, "-u", str(quick), "--seed", "1"], folder) == ablation.Scores(0.5, 0.4)
    for _ in range(2):
        assert ablation.run([sys.executable, "-u", str(quick), "--seed", "2"], folder) == ablation.Scores(0.75, 0.25)


def quiet(folder: Path) -> Path:
    """A training that does nothing."""
    (folder / "quiet.py").touch()
    return folder / "quiet.py"


@pytest.mark.parametrize("content", [
    "", "[]", "{}", "[" * 5000, '{"arguments": []}', '{"arguments": [], "best": "x", "last": 1}', '{"arguments": 1}'])
def test_a_damaged_result_is_made_again(content: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    (tmp_path / "curves.csv").write_text("epoch,top1\n1,0.75\n")
    assert ablation.run([sys.executable, "-u", str(quiet(tmp_path))], tmp_path) == ablation.Scores(0.75, 0.75)


@pytest.mark.parametrize("content", [b"", b"epoch,loss\n1,2\n", b"top1\nx\n", b"top1\n1\0\n", b"\xff"])
def test_curves_that_are_none_are_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_bytes(content)
    with pytest.raises(UserError, match="curves.csv: not the curves of a run that was validated"):
        ablation.run([sys.executable, "-u", str(quiet(tmp_path))], tmp_path)


def test_mean_and_deviation_over_the_seeds() -> None:
    variants = [ablation.Variant("a", {}), ablation.Variant("b", {"lr_max": "0.1"})]
    scores = {"a": [ablation.Scores(0.5, 0.4), ablation.Scores(0.6, 0.6)], "b": [ablation.Scores(1, 0)] * 2}
    lines = ablation.table(variants, scores, [1, 2], "my photos", ["--platform", "CPU"]).splitlines()
    assert lines[0] == "`python train.py --dataset_path 'my photos' --platform CPU --seed {1,2}` and:"
    assert lines[-2:] == ["| a |  | 55.00 ± 7.07 | 50.00 ± 14.14 |",
                          "| b | `--lr_max 0.1` | 100.00 ± 0.00 | 0.00 ± 0.00 |"]


def test_ctrl_c_reaches_the_run_once_and_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "stubborn.py"), str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as tool:
        while not (tmp_path / "run/started").exists():
            assert tool.poll() is None
        tool.send_signal(signal.SIGINT)
        _, errors = tool.communicate(timeout=60)
    assert (tool.returncode, errors) == (130, "interrupted\n")
    assert (tmp_path / "run/saved").read_text() == "1"  # written after the signal: the tool did not leave before
    assert not (tmp_path / "run/result.json").exists()


def test_a_run_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import sys; print('error: no such thing'); sys.exit(2)")
    with pytest.raises(UserError, match=r"status 2; .*/run/train.log ends with: error: no such thing"):
        ablation.run([sys.executable, "-u", str(tmp_path / "bad.py")], tmp_path / "run")


def test_what_would_fail_is_told_before_anything_runs(given: tuple[str, ...], tmp_path: Path) -> None:
    out = ("--output", str(tmp_path / "out"))
    assert refusal(*out, *given).startswith("nothing to run")
    assert "epoch_sise; did you mean epoch_size?" in refusal(*out, "--variant", "a", "epoch_sise=3", *given)
    assert "--epoch_size is given 2 times" in refusal(*out, "--variant", "a", "epoch_size=3", *given)
    assert refusal(*out, "--variant", "a", "seed=3", *given).startswith("seed is this tool's to set")
    assert refusal(*out, "--variant", "a", "flip", *given) == "--variant: expected KEY=VALUE, not 'flip'"
    assert "share the folder a_b" in refusal(*out, "--variant", "a b", "", "--variant", "a/b", "", *given)
    assert "whole numbers" in refusal(*out, "--seeds", "1,x", "--variant", "a", "", *given)
    assert "no validation" in refusal(*out, "--variant", "a", "run_eval=False", *given)
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_taken_apart_by_what_sets_it_apart(given: tuple[str, ...]) -> None:
    common = given[given.index("--") + 1:]
    variants = ablation.recipe_variants("best", "all", ["mixup_alpha=0.2,cutmix_alpha=1"], common)
    plain, best, *without, more = variants
    assert (plain.options, best.options) == ({"recipe": "plain"}, {"recipe": "best"})
    assert more.options == {"recipe": "best", "mixup_alpha": "0.2", "cutmix_alpha": "1"}
    left_out = {key for variant in without for key in variant.options} - {"recipe"}
    assert {"ema_decay", "nesterov", "norm_bias_decay"} <= left_out
    assert not {"epoch_size", "batch_size"} & left_out  # set by the common options and by the CPU profile
    ours, theirs = (get_config([*common, "--recipe", name]).as_dict() for name in ("best", "plain"))
    for variant in without:
        (key, value), = set(variant.options.items()) - {("recipe", "best")}
        argv = [word for pair in variant.options.items() for word in (f"--{pair[0]}", pair[1])]
        assert get_config([*common, *argv]).as_dict() == {**ours, key: theirs[key]}
        assert value == str(theirs[key])
    one = ablation.recipe_variants("best", "nesterov", [], common)
    assert [variant.name for variant in one] == ["plain", "best", "best without nesterov"]
    with pytest.raises(UserError, match="--without epoch_size: the recipe best does not set it apart"):
        ablation.recipe_variants("best", "epoch_size", [], common)
