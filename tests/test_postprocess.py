"""postprocess.py and tools/make_label_file.py: every labelled image counts, or an error lists what is wrong."""
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Images, assert_one_clear_line, run_script

import postprocess
from src.errors import UserError
from tools import make_label_file

Results = tuple[Path, Path]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Ten images, among them names alike up to a dot; seven right, nine within five."""
    generator = np.random.default_rng(0)
    lines = []
    for number in range(10):
        name = f"cat.{number % 2}/a.b.{number}.jpg"
        logits = generator.uniform(0, 1, 8).astype(np.float32)
        order = np.argsort(-logits)
        label = order[0] if number < 7 else order[3] if number < 9 else order[6]
        path = tmp_path / "result_Files" / f"{name}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        logits.tofile(path)
        lines.append(f"{name}:{label}\n")
    (tmp_path / "label.txt").write_text("".join(lines))
    return tmp_path / "result_Files", tmp_path / "label.txt"


def refusal(results: Results) -> str:
    with pytest.raises(UserError) as error:
        postprocess.main(["--result_path", str(results[0]), "--label_path", str(results[1])])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_model_zoo_s_command_counts_the_same(results: Results, capsys: pytest.CaptureFixture) -> None:
    postprocess.main(["--config_path=../default_config.yaml", f"--result_path={results[0]}",
                      f"--label_path={results[1]}"])
    assert capsys.readouterr().out.endswith("'Accuracy': 0.70000\n")


def test_every_image_counts(results: Results) -> None:
    run = run_script("postprocess.py", "--result_path", results[0], "--label_path", results[1])
    assert run.returncode == 0, run.stderr
    assert run.stdout == "10 images, top-5 0.90000\n'Accuracy': 0.70000\n"


def test_it_needs_no_mindspore(results: Results) -> None:
    code = (f"import sys; sys.modules['mindspore'] = None; import postprocess; "
            f"postprocess.main(['--result_path', {str(results[0])!r}, '--label_path', {str(results[1])!r}])")
    run = run_script("-c", code)
    assert run.returncode == 0, run.stderr


def test_missing_extra_short_and_impossible_results_are_listed(results: Results) -> None:
    (results[0] / "cat.0" / "a.b.2.jpg.bin").unlink()
    assert refusal(results).endswith("9 results for 10 labelled images: 1 have no result: cat.0/a.b.2.jpg")
    (results[0] / "cat.0" / "other.jpg.bin").write_bytes(bytes(32))
    assert "1 are not labelled: cat.0/other.jpg" in refusal(results)
    (results[0] / "cat.1" / "a.b.1.jpg.bin").write_bytes(bytes(28))
    (results[0] / "cat.1" / "a.b.3.jpg.bin").write_bytes(b"")
    assert "2 have a result that is not 8 float32 long: cat.1/a.b.1.jpg, cat.1/a.b.3.jpg" in refusal(results)
    with results[1].open("a") as file:
        file.write("cat.1/new.jpg:8\n")
    assert "1 have a label beyond the 8 classes of the results: cat.1/new.jpg" in refusal(results)


def test_a_folder_without_results_is_refused(results: Results, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "10 have no result: " in refusal((tmp_path / "empty", results[1]))
    assert "no such folder" in refusal((tmp_path / "none", results[1]))


@pytest.mark.parametrize(("text", "says"), [
    ("", "labels no image"), ("\n\n", "labels no image"), ("cat/a.jpg\n", "line 1: expected"),
    ("cat/a.jpg:1\ncat/b.jpg:two\n", "line 2: expected"), ("a.jpg:1\na.jpg:1\n", "line 2: a.jpg is labelled a second"),
    (":3\n", "line 1: expected"), ("a.jpg:-1\n", "line 1: expected"),
])
def test_wrong_label_files_are_refused(text: str, says: str, results: Results) -> None:
    results[1].write_text(text)
    assert says in refusal(results)


def test_an_unreadable_label_file_is_one_line(results: Results, tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    for name in ("none.txt", "binary.txt"):
        run = run_script("postprocess.py", "--result_path", results[0], "--label_path", tmp_path / name)
        assert_one_clear_line(run, str(tmp_path / name))


def test_an_image_that_is_not_a_number_is_not_right(results: Results, capsys: pytest.CaptureFixture) -> None:
    np.full(8, np.nan, np.float32).tofile(results[0] / "cat.0" / "a.b.0.jpg.bin")
    postprocess.main(["--result_path", str(results[0]), "--label_path", str(results[1])])
    assert "'Accuracy': 0.60000" in capsys.readouterr().out


def test_label_file_of_a_folder(images: Images, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = images({"val/red": 2, "val/a:b c": 1, "train/red": 1})
    (root / "val" / "hollow").mkdir()
    model = tmp_path / "m.mindir"
    (tmp_path / "m.mindir.json").write_text(json.dumps({"classes": ["a:b c", "red"]}))
    label = tmp_path / "out" / "label.txt"
    make_label_file.main(["--dataset_path", str(root), "--output", str(label), "--model", str(model)])
    assert label.read_text() == "a:b c/000.jpg:0\nred/000.jpg:1\nred/001.jpg:1\n"
    assert "3 images of 2 classes" in capsys.readouterr().out
    assert postprocess.read_labels(label) == {"a:b c/000.jpg": 0, "red/000.jpg": 1, "red/001.jpg": 1}

    (tmp_path / "m.mindir.json").write_text(json.dumps({"classes": ["a:b c", "rad"]}))
    with pytest.raises(UserError, match="rad, red"):
        make_label_file.main(["--dataset_path", str(root), "--output", str(label), "--model", str(model)])
    run = run_script("tools/make_label_file.py", "--dataset_path", tmp_path / "none", "--output", tmp_path / "l")
    assert_one_clear_line(run, "no such folder")
    assert not (tmp_path / "l").exists()
