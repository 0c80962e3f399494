"""export.py to TFLite, ncnn, Core ML and MindSpore Lite, by their own converters where these are installed."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_clear_line, run_script

import export as export_script
from src.checkpoint.file import write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.deployment import conversion
from src.deployment.conversion import CONVERTERS
from src.deployment.description import content_digest
from src.deployment.formats import ENDINGS, files_of
from src.environments import Environment
from src.errors import UserError
from src.mobilenetV2 import MobileNetV2
from tests.support.converters import needs_converter
from tools import install_converter

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conversion") / "k.ckpt"
    network = MobileNetV2(3, 0.35)
    write_checkpoint(path, {parameter.name: parameter for parameter in network.get_parameters()}, {},
                     CheckpointMetadata({"width_mult": 0.35, "image_size": 32}, CLASSES))
    return path


def call(*argv: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["x", "--platform", "CPU", *map(str, argv)])
        export_script.main()


@pytest.mark.parametrize("file_format", CONVERTERS)
def test_any_name_will_do_and_it_computes_the_same(file_format: str, checkpoint: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture) -> None:
    needs_converter(file_format)
    path = tmp_path / "文件 夹" / f"模型 1{ENDINGS[file_format]}"
    size = () if file_format == "NCNN" else ("--export_batch_size", 0)
    call("--ckpt_file", checkpoint, "--file_format", file_format, "--file_name", path, "--export_normalise",
         "--export_softmax", *size)
    verdict = capsys.readouterr().out.splitlines()[-1]
    if file_format == "COREML" and sys.platform != "darwin":
        assert verdict.startswith("not verified: Core ML runs on macOS only; read back, the package has input images, "
                                  "output probabilities and ")
    else:
        assert verdict.startswith("verified: loaded back, it differs from the checkpoint by ")
        assert verdict.endswith("top-1 equal")
    files = {path, *files_of(path), path.with_name(f"{path.name}.json")}
    assert {file for file in path.parent.rglob("*") if file.is_file() or file == path} == files
    description = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert description["sha256"] == content_digest(path)
    assert description["input"]["layout"] == ("NHWC" if file_format == "TFLITE" else "NCHW")
    assert (description["classes"], description["output"]["name"]) == (list(CLASSES), "probabilities")


class FakeConverter:
    """A converter whose script writes a file and these scores, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.script = folder / "to_tflite.py"
        environment = Environment(folder / "none.txt")
        monkeypatch.setattr(Environment, "python_in", lambda *_: Path(sys.executable))
        converter = conversion.Converter("a fake", self.script, environment, "0 MB")
        monkeypatch.setitem(CONVERTERS, "TFLITE", converter)

    def writes(self, scores: np.ndarray) -> None:
        self.script.write_text("import sys, numpy\nopen(sys.argv[2], 'w').write('file')\n"
                               f"numpy.save(sys.argv[4], numpy.array({scores.tolist()}, numpy.float32))\n")


def test_a_file_that_computes_something_else_is_not_written(checkpoint: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    FakeConverter(monkeypatch, tmp_path).writes(np.array([[1.0, 2.0, 3.0]]))
    with pytest.raises(UserError, match=r"m\.tflite: would not compute what the checkpoint does; not written"):
        call("--ckpt_file", checkpoint, "--file_format", "TFLITE", "--file_name", tmp_path / "new" / "m")
    assert not (tmp_path / "new").exists()


def test_a_converter_that_fails_is_one_line(checkpoint: Path, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    FakeConverter(monkeypatch, tmp_path).script.write_text("raise ValueError('no such operator')")
    with pytest.raises(UserError, match="^TFLITE: a fake cannot write this network: ValueError: no such operator$"):
        call("--ckpt_file", checkpoint, "--file_format", "TFLITE", "--file_name", tmp_path / "m")


def test_without_the_converter_its_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    run = run_script("export.py", "--platform", "CPU", "--ckpt_file", "any.ckpt", "--file_format", "NCNN")
    assert_one_clear_line(run, "NCNN is written by pnnx, which is not installed",
                          "python tools/install_converter.py NCNN")


def test_what_the_format_cannot_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NCNN takes one image at a time: leave out --export_batch_size 4"):
        call("--ckpt_file", "any.ckpt", "--file_format", "NCNN", "--export_batch_size", 4)
    (tmp_path / "m.mlpackage").mkdir()
    with pytest.raises(UserError, match=r"m\.mlpackage: already exists; name another --file_name"):
        call("--ckpt_file", "any.ckpt", "--file_format", "COREML", "--file_name", tmp_path / "m")


def test_an_installation_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    run = run_script("tools/install_converter.py", "LITE", "--python", tmp_path / "python3.7")
    assert_one_clear_line(run, "LITE: MindSpore Lite cannot be installed: ", "CPython 3.7 is needed here")
    assert list((tmp_path / "cache" / "converters").iterdir()) == []


def test_versions_are_pinned() -> None:
    for converter in CONVERTERS.values():
        lines = converter.environment.requirements.read_text(encoding="utf-8").splitlines()
        packages = [line for line in lines if line and not line.startswith("#")]
        assert packages
        assert [line for line in packages if "==" not in line.partition(";")[0]] == []
    assert set(CONVERTERS) == {"TFLITE", "NCNN", "COREML", "LITE"}


def test_the_tool_names_its_formats(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        install_converter.main(["DOCX"])
    assert "TFLITE" in capsys.readouterr().err
