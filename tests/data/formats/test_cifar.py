"""CIFAR's archives, in their structure but small, become the same image folder from either version; no code is run."""
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_one_clear_line, run_script
from PIL import Image

from src.data.formats.cifar import prepare_cifar
from src.data.image_folder import ImageFolder
from src.errors import UserError
from tools.prepare_cifar import main

CIFAR10 = ("airplane", "automobile", "bird")
CIFAR100 = ("apple", "aquarium_fish", "baby", "bear")
PER_BATCH = 4


class Python2Pickler(pickle._Pickler):
    """Writes texts as Python 2 does, which did not tell them from bytes."""

    dispatch = dict(pickle._Pickler.dispatch)
    write: Callable[[bytes], None]

    def save_bytes(self, content: bytes) -> None:
        self.write(b"U" + bytes([len(content)]) + content if len(content) < 256
                   else b"T" + struct.pack("<i", len(content)) + content)

    dispatch[bytes] = save_bytes


def pickled(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue()


def batch(seed: int, classes: int, fortran: bool = False) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (PER_BATCH, 3072), np.uint8)
    return (np.asfortranarray(pixels) if fortran else pixels), random.integers(0, classes, PER_BATCH).tolist()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


def binary10() -> dict[str, bytes]:
    files = {"batches.meta.txt": "\n".join((*CIFAR10, "")).encode(), "readme.html": b"hello"}
    for seed, name in enumerate((*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin")):
        pixels, labels = batch(seed, len(CIFAR10))
        files[name] = b"".join(bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))
    return {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}


def python10() -> dict[str, bytes]:
    files = {"batches.meta": pickled({b"num_cases_per_batch": PER_BATCH, b"num_vis": 3072,
                                      b"label_names": [name.encode() for name in CIFAR10]})}
    for seed, name in enumerate((*(f"data_batch_{n}" for n in range(1, 6)), "test_batch")):
        pixels, labels = batch(seed, len(CIFAR10), fortran=seed == 1)
        files[name] = pickled({b"batch_label": b"a batch", b"labels": labels, b"data": pixels,
                               b"filenames": [b"x.png"] * PER_BATCH})
    return {f"cifar-10-batches-py/{name}": content for name, content in files.items()}


def binary100() -> dict[str, bytes]:
    files = {"fine_label_names.txt": "\n".join((*CIFAR100, "")).encode(), "coarse_label_names.txt": b"fish\nfruit\n"}
    for seed, name in enumerate(("train.bin", "test.bin")):
        pixels, labels = batch(seed, len(CIFAR100))
        files[name] = b"".join(bytes([1, label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))
    return {f"cifar-100-binary/{name}": content for name, content in files.items()}


def python100() -> dict[str, bytes]:
    files = {"meta": pickled({b"fine_label_names": [name.encode() for name in CIFAR100],
                              b"coarse_label_names": [b"fish", b"fruit"]})}
    for seed, name in enumerate(("train", "test")):
        pixels, labels = batch(seed, len(CIFAR100))
        files[name] = pickled({b"fine_labels": labels, b"coarse_labels": [1] * PER_BATCH, b"data": pixels})
    return {f"cifar-100-python/{name}": content for name, content in files.items()}


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}


@pytest.mark.parametrize(("binary", "python", "classes", "batches"), [
    (binary10, python10, CIFAR10, 5), (binary100, python100, CIFAR100, 1)])
def test_both_versions_become_the_same_folder(tmp_path: Path, binary: Callable, python: Callable,
                                              classes: tuple[str, ...], batches: int) -> None:
    source = archive(tmp_path / "binary.tar.gz", binary())
    before = source.read_bytes()
    assert prepare_cifar(source, tmp_path / "b") == {"train": batches * PER_BATCH, "val": PER_BATCH}
    prepare_cifar(archive(tmp_path / "python.tar.gz", python()), tmp_path / "p")
    assert content(tmp_path / "b") == content(tmp_path / "p")
    assert source.read_bytes() == before

    found = {path.stem: (path.parent.name, path) for path in (tmp_path / "b/train").rglob("*.png")}
    for number in range(batches * PER_BATCH):
        pixels, labels = batch(number // PER_BATCH, len(classes))
        name, path = found[f"{number:05d}"]
        assert name == classes[labels[number % PER_BATCH]]
        with Image.open(path) as image:
            red, green, blue = pixels[number % PER_BATCH].reshape(3, 32, 32)
            np.testing.assert_array_equal(np.asarray(image), np.stack((red, green, blue), 2))


def test_classes_keep_their_order(tmp_path: Path) -> None:
    main(["--source", str(archive(tmp_path / "x.tar.gz", binary10())), "--output", str(tmp_path / "x")])
    assert set(ImageFolder.scan(tmp_path / "x/train").classes) <= set(CIFAR10)
    assert sorted(path.name for path in (tmp_path / "x/val").iterdir()) == list(CIFAR10)


# ---- pickles that ask for more than they need

class Evil:
    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def evil(kind: str, trap: Path) -> Any:
    if kind == "system":
        import os
        return Evil(os.system, f"touch {trap}")
    if kind == "eval":
        return Evil(eval, f"open({str(trap)!r}, 'w')")
    if kind == "loads":
        return Evil(pickle.loads, pickled(Evil(open, str(trap), "w")))
    return np.array([Evil(open, str(trap), "w")], object)  # in an array of objects


@pytest.mark.parametrize("kind", ["system", "eval", "loads", "array"])
@pytest.mark.parametrize("name", ["batches.meta", "test_batch"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, kind: str, name: str) -> None:
    trap = tmp_path / "trap"
    files = python10()
    files[f"cifar-10-batches-py/{name}"] = pickled({b"labels": [0], b"label_names": [b"a"], b"data": evil(kind, trap)})
    pickle.loads(files[f"cifar-10-batches-py/{name}"], encoding="bytes")  # it is a trap indeed
    assert trap.exists()
    trap.unlink()
    with pytest.raises(UserError, match=f"{name} in it (asks for|has numbers of type 'O8').*the binary version"):
        prepare_cifar(archive(tmp_path / "x.tar.gz", files), tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar.gz"]


# ---- archives that are damaged or of another kind

@pytest.mark.parametrize(("change", "message"), [
    ({"test_batch.bin": None}, "has no test_batch.bin in it"),
    ({"batches.meta.txt": None}, "is no archive of CIFAR-10 or CIFAR-100"),
    ({"batches.meta.txt": b"a\n../b\nc\n"}, "batches.meta.txt in it is damaged .*cannot be a folder's"),
    ({"batches.meta.txt": b"a\na\nc\n"}, "batches.meta.txt in it is damaged"),
    ({"batches.meta.txt": b"\xff"}, "batches.meta.txt in it is damaged"),
    ({"data_batch_2.bin": bytes(3073 * 2 - 1)}, "data_batch_2.bin in it is damaged"),
    ({"data_batch_2.bin": b""}, "data_batch_2.bin in it has labels of no class, or no images"),
    ({"data_batch_2.bin": b"\x03" + bytes(3072)}, "data_batch_2.bin in it has labels of no class"),
])
def test_binary_files_that_are_wrong(tmp_path: Path, change: dict[str, bytes | None], message: str) -> None:
    changed = {f"cifar-10-batches-bin/{name}": value for name, value in change.items()}
    files = {name: value for name, value in (binary10() | changed).items() if value is not None}
    with pytest.raises(UserError, match=message):
        prepare_cifar(archive(tmp_path / "x.tar.gz", files), tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar.gz"]


@pytest.mark.parametrize("value", [
    b"", b"hello", pickled([1]), pickled({b"data": 3, b"labels": [0]}), pickled({b"labels": [0]}),
    pickled({b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]}),
    pickled({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0, 1]}),
    pickled({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]})])
def test_pickles_that_are_wrong_are_refused(tmp_path: Path, value: bytes) -> None:
    files = {**python10(), "cifar-10-batches-py/data_batch_3": value}
    with pytest.raises(UserError, match="data_batch_3 in it is damaged") as caught:
        prepare_cifar(archive(tmp_path / "x.tar.gz", files), tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_archives_that_are_cut_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar.gz", binary10())
    whole = path.read_bytes()
    for share in (0, 0.01, 0.3, 0.9, 0.99999):
        path.write_bytes(whole[:int(share * len(whole))])
        with pytest.raises(UserError, match="not a whole tar file"):
            prepare_cifar(path, tmp_path / "x")
    path.write_bytes(whole[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match="not a whole tar file"):
        prepare_cifar(path, tmp_path / "x")


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as opened:
        info = tarfile.TarInfo("cifar-10-batches-bin/batches.meta.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        opened.addfile(info)
    with pytest.raises(UserError, match="is a link"):
        prepare_cifar(tmp_path / "x.tar.gz", tmp_path / "x")


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, save, saved = archive(tmp_path / "x.tar.gz", binary10()), Image.Image.save, list[Path]()

    def interrupted(image: Image.Image, path: Path) -> None:
        if len(saved) == 7:
            raise KeyboardInterrupt
        saved.append(path)
        save(image, path)

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_cifar(source, tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar.gz"]
    monkeypatch.undo()
    prepare_cifar(source, tmp_path / "x")
    with pytest.raises(UserError, match="already exists and is not an empty folder"):
        prepare_cifar(source, tmp_path / "x")


def test_the_command_ends_in_one_line(tmp_path: Path) -> None:
    run = run_script("tools/prepare_cifar.py", "--source", tmp_path / "none", "--output", tmp_path / "x")
    assert_one_clear_line(run, f"{tmp_path}/none: no such file")
