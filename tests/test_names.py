"""Names that are not text have one form wherever they are written, and are found again by it."""
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, config_for, make_images, run_script
from hypothesis import given
from hypothesis import strategies as st

import postprocess
from src.data.image_check import check_images
from src.data.image_folder import ImageFolder
from src.dataset import ImageData
from src.deployment.prediction import list_images
from src.errors import UserError
from src.names import ESCAPED, escape_line, escape_name, unescape_name
from tools import describe_data, make_label_file, split_pictures

TINY = ROOT / "tests" / "fixtures" / "tiny.onnx"
LATIN1, LINES = b"latin1_\xe9.jpg", b"two\nlines.jpg"
WRITTEN = (r"latin1_\xe9.jpg", r"two\x0alines.jpg")
LOCALES = {"UTF-8": {"LC_ALL": "C.UTF-8"}, "C": {"LC_ALL": "C"},
           "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}


@given(st.binary(max_size=12) | st.text(alphabet="\\x5ce9a0", max_size=12).map(str.encode))
def test_every_name_has_a_form_of_its_own_in_one_line(raw: bytes) -> None:
    name = os.fsdecode(raw)
    form = escape_name(name)
    assert unescape_name(form) == name
    assert len(form.splitlines()) <= 1
    form.encode()


@pytest.mark.parametrize(("raw", "form"), [
    (b"plain.jpg", "plain.jpg"), ("Straße 写真.jpg".encode(), "Straße 写真.jpg"), (LATIN1, WRITTEN[0]),
    (LINES, WRITTEN[1]), (rb"a\b.jpg", r"a\b.jpg"), (rb"a\xe9.jpg", r"a\x5cxe9.jpg"),
    ("a\u2028b".encode(), r"a\xe2\x80\xa8b")])
def test_only_what_no_text_takes_is_escaped(raw: bytes, form: str) -> None:
    assert escape_name(os.fsdecode(raw)) == form


@given(st.text())
def test_any_text_can_be_printed_anywhere(text: str) -> None:
    """Also what only JSON can hold: half of a surrogate pair."""
    assert len(escape_line(text).splitlines()) <= 1
    for encoding in "utf-8", "ascii", "latin-1":
        text.encode(encoding, ESCAPED)
    escape_name(text).encode()


def test_an_error_is_one_line_whatever_it_names() -> None:
    assert str(UserError(f"{os.fsdecode(LINES)}: gone, {os.fsdecode(LATIN1)} too")) == \
        f"{WRITTEN[1]}: gone, {WRITTEN[0]} too"


# ---- commands

@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of the tiny network; each has an image of an odd name."""
    root = make_images(tmp_path / "photos", {"blue": 2, "green": 2})
    (root / "blue" / "001.jpg").rename(root / "blue" / os.fsdecode(LATIN1))
    (root / "green" / "001.jpg").rename(root / "green" / os.fsdecode(LINES))
    return root


@pytest.mark.parametrize("locale", LOCALES)
def test_prediction_writes_every_name_and_reads_it_back(locale: str, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")
    (photos / "blue" / "000.jpg").rename(broken := photos / "blue" / os.fsdecode(b"broken_\xe9.jpg"))
    broken.write_text("no image")
    run = subprocess.run([sys.executable, ROOT / "infer.py", "--platform", "CPU", "--model", TINY, "--images",
                          photos, "--predictions", tmp_path / "out"], cwd=ROOT, capture_output=True, check=False,
                         env={**os.environ, **LOCALES[locale]}, timeout=300)
    assert run.returncode == 1, run.stderr  # for the broken one
    assert rb"/blue/broken_\xe9.jpg: not an image" in run.stderr
    wanted = [str(photos / name) for name in (
        r"blue/broken_\xe9.jpg", f"blue/{WRITTEN[0]}", "green/000.jpg", f"green/{WRITTEN[1]}")]
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == wanted
    told = json.loads((tmp_path / "out" / "predictions.json").read_bytes())
    assert [image["file"] for image in told["pictures"]] == wanted
    assert (tmp_path / "out" / "predictions.png").stat().st_size
    (tmp_path / "list.txt").write_text("\n".join(wanted))
    assert list_images(str(tmp_path / "list.txt")) == list_images(str(photos))


def test_a_list_may_have_the_bytes_themselves(photos: Path) -> None:
    (photos / "list.txt").write_bytes(b"blue/" + LATIN1 + b"\r\n\n")
    assert [path.exists() for path in list_images(str(photos / "list.txt"))] == [True]


def test_a_label_file_finds_the_results(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    label = tmp_path / "label.txt"
    make_label_file.main(["--dataset_path", str(photos), "--output", str(label)])
    assert label.read_text(encoding="utf-8").splitlines() == [
        "blue/000.jpg:0", f"blue/{WRITTEN[0]}:0", "green/000.jpg:1", f"green/{WRITTEN[1]}:1"]
    for name in ImageFolder.scan(photos).files:  # as the 310 program names them: by the bytes
        result = tmp_path / "results" / f"{name}.bin"
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_bytes(bytes(8))
    argv = ["--result_path", str(tmp_path / "results"), "--label_path", str(label)]
    postprocess.main(argv)
    assert "4 images" in capsys.readouterr().out
    next((tmp_path / "results" / "blue").glob("latin1_*")).unlink()
    with pytest.raises(UserError, match=re.escape(f"1 have no result: blue/{WRITTEN[0]}")):
        postprocess.main(argv)


def test_a_label_file_with_the_bytes_themselves_will_do(tmp_path: Path) -> None:
    (tmp_path / "label.txt").write_bytes(b"blue/" + LATIN1 + b":0\n a.jpg:1\n")
    assert list(postprocess.read_labels(tmp_path / "label.txt")) == [os.fsdecode(b"blue/" + LATIN1), " a.jpg"]


def test_bad_images_duplicates_and_descriptions_are_told(photos: Path, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture) -> None:
    odd = next((photos / "blue").glob("latin1_*"))
    shutil.copy(odd, photos / "green" / "copy.jpg")
    (photos / "green" / os.fsdecode(b"bad_\xe9.jpg")).write_text("no image")
    check_images(ImageFolder.scan(photos), config_for("--bad_images", "skip"), training=True)
    assert r"green/bad_\xe9.jpg: not an image" in capsys.readouterr().err
    describe_data.main(["--dataset_path", str(photos), "--output", str(tmp_path / "d.png"), "--check"])
    assert r"green/bad_\xe9.jpg: not an image" in capsys.readouterr().out
    for _ in range(2):  # the second time it reads what it had written
        split_pictures.main(["--source", str(photos), "--output", str(tmp_path / "split")])
    assert f"blue/{WRITTEN[0]} = green/copy.jpg" in (out := capsys.readouterr().out)
    assert "all of it was there already" in out
    json.loads((tmp_path / "split" / ".split.json").read_bytes())[f"blue/{WRITTEN[0]}"]


def test_an_evaluation_lists_its_mistakes(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")
    (photos / "red").mkdir()
    for name in ImageFolder.scan(photos).files:  # the same in all classes: wrong in all but one
        for label in "blue", "green", "red":
            if not (target := photos / label / name.partition("/")[2]).exists():
                shutil.copy(photos / name, target)
    run = run_script("eval.py", "--platform", "CPU", "--dataset_path", photos, "--pretrain_ckpt", TINY, "--report",
                     tmp_path / "r.html", "--confusion_matrix", tmp_path / "c.png")
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert WRITTEN[0] in page
    assert WRITTEN[1] in page


@pytest.mark.parametrize("which", ["root", "class"])
def test_a_folder_whose_name_is_not_utf8_is_read(which: str, photos: Path) -> None:
    reference = [images.asnumpy() for images, _ in ImageData(ImageFolder.scan(photos), 32, 4, training=False).epoch()]
    folder = photos if which == "root" else photos / "blue"
    renamed = folder.rename(folder.with_name(os.fsdecode(b"bl\xe9")))
    found = ImageFolder.scan(renamed if which == "root" else photos)
    read = [images.asnumpy() for images, _ in ImageData(found, 32, 4, training=False).epoch()]
    np.testing.assert_array_equal(read, reference)
