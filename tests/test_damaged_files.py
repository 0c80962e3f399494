"""A file of any kind that is read, with damage anywhere in it: an answer or one line, never a traceback."""
import importlib.util
import io
import json
import tarfile
import tempfile
import tracemalloc
import zipfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, config_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mindspore import Parameter, Tensor
from mindspore.mindrecord import FileWriter
from PIL import Image
from safetensors.numpy import save_file

from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.pretrained import open_pretrained
from src.checkpoint.record import CheckpointMetadata
from src.checkpoint.torch_file import read_torch_file
from src.data.formats.cifar import prepare_cifar
from src.data.formats.imagenet import RECORD, TRAIN, VAL, prepare_imagenet
from src.data.formats.mindrecord import unpack_mindrecord
from src.data.formats.tar_archive import compressed_members, tar_members
from src.data.formats.zip_archive import unpack
from src.data.image_check import check_file
from src.data.image_folder import ImageFolder
from src.data.stats import collect_stats, describe
from src.deployment.contact_sheet import draw_contact_sheet
from src.deployment.prediction import Prediction, list_images
from src.deployment.runtime import load_exported
from src.errors import UserError
from src.files import file_digest
from src.metrics import MISTAKE
from src.reports.best_evaluation import BestEvaluation
from src.reports.report import Evaluated, Report, write_report
from src.training.profiler import summary
from src.utils import load_parameters
from tests.data.formats.test_cifar import archive, binary10, python10
from tests.data.formats.test_imagenet import CLASSES, LABELS, tar, train_images, val_images, write_devkit
from tests.support.torch_files import write_zip

TINY = ROOT / "tests" / "fixtures" / "tiny.onnx"
WHOLE = 10 ** 9  # bytes: all of a file


@dataclass(frozen=True)
class Kind:
    """A whole file of a kind, what else lies beside it, and what reads it."""

    name: str
    content: bytes
    read: Callable[[Path], object]
    head: int = WHOLE  # damage is done to so many bytes at its beginning
    others: dict[str, bytes] = field(default_factory=dict)


@st.composite
def damaged(draw: st.DrawFn, kind: Kind) -> bytes:
    """The file with bytes changed, put in, taken out or cut off."""
    content = bytearray(kind.content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, min(kind.head, len(content))))
        new = draw(st.binary(min_size=1, max_size=4)
                   | st.sampled_from([b"\xff" * 8, b"\x80" + bytes(7), b"-1", b"9" * 12]))
        match draw(st.sampled_from(["change", "insert", "remove", "cut"])):
            case "change":
                content[place:place + len(new)] = new
            case "insert":
                content[place:place] = new
            case "remove":
                del content[place:place + len(new)]
            case "cut":
                del content[place:]
    return bytes(content)


def made_by(write: Callable[[Path], object], name: str = "file") -> bytes:
    """What a function writes to a path."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


# ---- the kinds

WEIGHTS = {f"backbone.{n}": np.full((n + 1, 3), n, np.float32) for n in range(3)}


def checkpoint() -> Kind:
    """Without a JSON, whose digest would tell the damage at once."""
    def read(path: Path) -> None:
        load_parameters({name: Parameter(Tensor(value)) for name, value in WEIGHTS.items()}, read_checkpoint(path))

    def write(path: Path) -> None:
        write_checkpoint(path, {name: Tensor(value) for name, value in WEIGHTS.items()}, {}, CheckpointMetadata())

    return Kind("k.ckpt", made_by(write, "k.ckpt"), read)


def safetensors() -> Kind:
    weights: dict[str, np.ndarray] = {"conv_stem.weight": np.ones((2, 3), np.float32),
                                      "classifier.bias": np.ones(3, np.float16)}
    return Kind("w.safetensors", made_by(lambda path: save_file(weights, path)), open_pretrained)


def torch_file() -> Kind:
    """What training leaves beside the weights; reading tensors is tried in test_torch_file.py."""
    values = {"epoch": 3, "args": Namespace(lr=0.1), "names": ["a", "b"], "nested": {"when": Path("here")}}
    return Kind("w.pth", made_by(lambda path: write_zip(path, values, [])), open_pretrained)


def onnx() -> Kind:
    return Kind("tiny.onnx", TINY.read_bytes(), lambda path: load_exported(path, config_for()).logits(
        np.zeros((4, 3, 32, 32), np.float32)), 3000)


def mindir() -> Kind:
    """With its JSON and the digest in it: MindSpore's reader ends the process at some damage. Only Lite runs this one.
    """
    path = TINY.with_suffix(".mindir")
    description = json.dumps({"sha256": file_digest(path)}).encode()
    return Kind(path.name, path.read_bytes(), lambda path: load_exported(path, config_for()), 3000,
                {f"{path.name}.json": description})


@cache
def mindrecord_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        writer = FileWriter(str(Path(folder) / "a.mindrecord"), 1)
        writer.add_schema({"label": {"type": "int32"}, "data": {"type": "bytes"}})
        writer.write_raw_data([{"label": 1, "data": b"\xff\xd8\xff"}])
        writer.commit()
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def mindrecord(name: str) -> Kind:
    return Kind(name, mindrecord_files()[name], lambda path: unpack_mindrecord(path.parent, path.parent / "out"), 800,
                mindrecord_files())


def tar_file(form: int, compression: str = "") -> Kind:
    def write(path: Path) -> None:
        with tarfile.open(path, f"w:{compression}", format=form) as opened:  # type: ignore[call-overload]
            for name in "a.JPEG", f"{'folder' * 15}/{'long' * 20}é.JPEG":
                info = tarfile.TarInfo(name)
                info.size = 3
                opened.addfile(info, io.BytesIO(b"abc"))

    def read(path: Path) -> None:
        one_line(lambda: tar_members(path))
        compressed_members(path, {"a.JPEG"}, 100)

    return Kind("a.tar", made_by(write), read)


def zip_file(compression: int) -> Kind:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as opened:
            opened.writestr("train/x/é.jpg", b"abc" * 50)
            opened.writestr("train/y/b.jpg", b"xyz")

    return Kind("data.zip", made_by(write), lambda path: unpack(path, path.parent / "out"))


def cifar(files: dict[str, bytes]) -> Kind:
    """The damage is in one of the files that are packed; the archive itself is `tar_file`."""
    name = next(name for name in files if "data_batch_1" in name)

    def read(path: Path) -> None:
        prepare_cifar(archive(path.with_name("c.tar.gz"), {**files, name: path.read_bytes()}), path.with_name("out"))

    return Kind("batch", files[name], read, head=300)


@cache
def imagenet_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        write_devkit(source, CLASSES, LABELS)
        (source / TRAIN).write_bytes(tar({f"{wnid}.tar": tar(train_images(wnid)) for wnid in CLASSES.values()}))
        (source / VAL).write_bytes(tar(val_images()))
        prepare_imagenet(source, source / "out", ("val",), 1)
        record = source / "out" / RECORD
        return {path.name: path.read_bytes() for path in (*source.iterdir(), record) if path.is_file()}


def imagenet(name: str) -> Kind:
    def read(path: Path) -> None:
        (path.parent / "out").mkdir()
        (path.parent / RECORD).rename(path.parent / "out" / RECORD)
        prepare_imagenet(path.parent, path.parent / "out", ("train", "val"), 1)

    return Kind(name, imagenet_files()[name], read, 2000, imagenet_files())


def image(form: str, mode: str) -> Kind:
    def read(path: Path) -> None:
        fault = check_file(path, path.parent / "copies", 1024).fault
        assert "\n" not in fault
        draw_contact_sheet([Prediction(path, ("a",), (1.0,), fault)],
                           path.with_suffix(".sheet"))
        folder = ImageFolder.scan(path.parents[1])
        for decode in False, True:
            describe({"train": collect_stats(folder, decode)}, decode)

    return Kind("class/a.jpg", made_by(lambda path: Image.new(mode, (20, 30)).save(path, form)), read)


def best_evaluation() -> Kind:
    row = {"epoch": 1, "loss": 1.0, "lr": 0.1, "val_loss": 2.0, "top1": 0.5, "top5": 1.0}
    best = BestEvaluation("run", 1, 0.5, np.eye(2, dtype=np.int64), np.zeros(2, MISTAKE), ("a/0.jpg", "b"))

    def read(path: Path) -> None:
        if found := BestEvaluation.load(path, "run", [row], 2, "top1"):
            evaluated = Evaluated("a test", "ab", found.confusion, found.mistakes, path.parent, found.files)
            write_report(Report("", "", {}, {}, {}, "", {}, evaluated=evaluated), path.with_suffix(".html"))

    return Kind("best.npz", made_by(best.save), read)


def profile_table() -> Kind:
    return Kind("cpu_op_type_info_0.csv", b"op_type,type_occurrences,total_compute_time\nA,1,2.5\n",
                lambda path: summary(path.parent, 2, 1.0, 0.5))


def image_list() -> Kind:
    return Kind("list.txt", b"a/b.jpg\nc.jpg\n", lambda path: [
        check_file(listed, path.parent / "copies", 1024) for listed in list_images(str(path))])


KINDS: dict[str, Callable[[], Kind]] = {
    "checkpoint": checkpoint,
    "safetensors": safetensors,
    "PyTorch": torch_file,
    "MINDIR": mindir,
    "ONNX": onnx,
    "MindRecord": lambda: mindrecord("a.mindrecord"),
    "index of MindRecord": lambda: mindrecord("a.mindrecord.db"),
    "tar, ustar": lambda: tar_file(tarfile.USTAR_FORMAT),
    "tar, GNU": lambda: tar_file(tarfile.GNU_FORMAT),
    "tar, pax": lambda: tar_file(tarfile.PAX_FORMAT),
    "tar.gz": lambda: tar_file(tarfile.PAX_FORMAT, "gz"),
    "tar.xz": lambda: tar_file(tarfile.PAX_FORMAT, "xz"),
    "zip, stored": lambda: zip_file(zipfile.ZIP_STORED),
    "zip, deflated": lambda: zip_file(zipfile.ZIP_DEFLATED),
    "zip, LZMA": lambda: zip_file(zipfile.ZIP_LZMA),
    "CIFAR's binary batch": lambda: cifar(binary10()),
    "CIFAR's pickle": lambda: cifar(python10()),
    "ImageNet's training archive": lambda: imagenet(TRAIN),
    "ImageNet's validation archive": lambda: imagenet(VAL),
    "ImageNet's record": lambda: imagenet(RECORD),
    "JPEG": lambda: image("JPEG", "RGB"),
    "JPEG, CMYK": lambda: image("JPEG", "CMYK"),
    "PNG": lambda: image("PNG", "RGBA"),
    "PNG, 16 bits": lambda: image("PNG", "I;16"),
    "BMP": lambda: image("BMP", "P"),
    "TIFF": lambda: image("TIFF", "RGB"),
    "TIFF, Lab": lambda: image("TIFF", "LAB"),
    "GIF": lambda: image("GIF", "P"),
    "evaluation of the best epoch": best_evaluation,
    "table of the profiler": profile_table,
    "list of images": image_list,
}


def one_line(read: Callable[[], object]) -> bool:
    """Whether reading succeeded; if not, it must say so in one line."""
    try:
        read()
    except UserError as fault:
        assert str(fault)
        assert "\n" not in str(fault)
        return False
    return True


def read_again(kind: Kind, content: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        for name, bytes_of_it in {**kind.others, kind.name: content}.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(bytes_of_it)
        return one_line(lambda: kind.read(Path(folder) / kind.name))


@pytest.mark.parametrize("name", KINDS)
def test_damage_ends_in_one_line_or_changes_nothing(name: str) -> None:
    if name == "ONNX" and not importlib.util.find_spec("onnxruntime"):
        pytest.skip("needs ONNX Runtime, which requirements.txt names")
    kind = KINDS[name]()
    read_again(kind, kind.content)  # the first one loads libraries

    @settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(damaged(kind))
    def look(content: bytes) -> None:
        read_again(kind, content)

    look()


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"safetensors", "PyTorch", "table of the profiler"}))
def test_what_is_whole_is_read(name: str) -> None:
    """Else the test above would show nothing."""
    if name == "ONNX" and not importlib.util.find_spec("onnxruntime"):
        pytest.skip("needs ONNX Runtime, which requirements.txt names")
    kind = KINDS[name]()
    assert read_again(kind, kind.content)


# ---- what chance would not find

def tar_with_size(size: int) -> bytes:
    """Two files, the second one's header with a size of any number of 64 bits."""
    header = bytearray(tarfile.TarInfo("b.JPEG").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 4 + (size % 2 ** 64).to_bytes(8, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return tarfile.TarInfo("a.JPEG").tobuf(tarfile.GNU_FORMAT) + bytes(header) + bytes(1024)


@pytest.mark.parametrize("size", [-1, -512, -1024])
def test_a_size_below_0_does_not_send_the_reader_back_for_ever(size: int, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_with_size(size))
    for read in tar_members, lambda path: compressed_members(path, {"b.JPEG"}, 100):
        with pytest.raises(UserError, match="b.JPEG has a size below 0"):
            read(tmp_path / "a.tar")


def test_a_pickle_takes_no_memory_for_what_it_does_not_have(tmp_path: Path) -> None:
    """A place in the pickle's memory, by a number of 32 bits: the reader in C would make room for all before it."""
    (tmp_path / "w.pth").write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")
    tracemalloc.start()
    assert not one_line(lambda: read_torch_file(tmp_path / "w.pth"))
    assert tracemalloc.get_traced_memory()[1] < 2 ** 24
    tracemalloc.stop()


def test_an_image_that_has_gone_is_a_grey_field(tmp_path: Path) -> None:
    draw_contact_sheet([Prediction(tmp_path / "gone.jpg", ("a",), (1.0,))], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getpixel((78, 78)) == (211, 211, 211)


def test_an_onnx_file_that_is_no_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")
    pixels, path = np.zeros((4, 3, 32, 32), np.float32), tmp_path / "tiny.onnx"
    path.write_bytes(TINY.read_bytes())
    session = onnxruntime.InferenceSession
    for found in [], [np.zeros((4, 0), np.float32)], [np.zeros(4, np.float32)], [["a list"]], [np.zeros((3, 3), "f4")]:
        monkeypatch.setattr(session, "run", lambda *_, found=found: found)
        with pytest.raises(UserError):
            load_exported(path, config_for()).logits(pixels)
    for inputs in [], [None, None]:
        monkeypatch.setattr(session, "get_inputs", lambda _, inputs=inputs: inputs)
        with pytest.raises(UserError, match=f"it has {len(inputs)} inputs, not one"):
            load_exported(path, config_for())
