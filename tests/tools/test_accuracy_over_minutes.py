"""The picture of accuracy over minutes."""
import shlex
import sys
from pathlib import Path

import pytest

from src.errors import UserError
from tools.accuracy_over_minutes import main, read_scores

OURS = """print("result: {'acc': 0.75, 'top5': 0.9}"); print("epoch"); print("result: {'acc': 1.0}")"""


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def test_scores_are_noted_kept_and_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    main(["--output", str(picture), "--run", "ours", python(OURS), "--run", "PyTorch", python("print('top-1 0.5000')")])
    runs = read_scores(picture.with_suffix(".csv"))
    assert {name: [top1 for _, top1 in scores] for name, scores in runs.items()} == {"ours": [0.75, 1.0],
                                                                                    "PyTorch": [0.5]}
    assert all(0 <= minutes < 1 for scores in runs.values() for minutes, _ in scores)
    assert ">PyTorch<" in picture.read_text() or "<!-- PyTorch -->" in picture.read_text()
    first = picture.read_bytes()
    main(["--output", str(picture), "--run", "ours", "this is not started again"])
    assert picture.read_bytes() == first


@pytest.mark.parametrize("code", ["import sys; print('top-1 0.5'); sys.exit('no memory')", "print('no score')"])
def test_a_command_that_fails_or_has_no_score_is_told(code: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ours: the command ended with status [01] and [01] scores: no "):
        main(["--output", str(tmp_path / "a.svg"), "--run", "ours", python(code)])
    assert not list(tmp_path.iterdir())
