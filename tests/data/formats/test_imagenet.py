"""ImageNet's archives, in their structure but small, become an image folder: every image under its class, or one
line and nothing half-written."""
import fcntl
import io
import json
import os
import random
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_clear_line, run_script
from PIL import Image
from scipy.io import savemat

from src.data.formats import imagenet
from src.data.formats.imagenet import DEVKIT, RECORD, TRAIN, VAL, prepare_imagenet, read_devkit
from src.data.image_folder import ImageFolder
from src.errors import UserError
from tools.prepare_imagenet import main

# As in the real kit: the numbers do not follow the wnids, and the synsets with children come last.
CLASSES = {1: "n02119789", 2: "n01440764", 3: "n03000134", 4: "n01443537"}
COUNTS = {"n01440764": 5, "n01443537": 3, "n02119789": 4, "n03000134": 2}
LABELS = (3, 1, 2, 2, 4, 1, 3, 3)
SYNSET = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object), ("num_children", object),
          ("children", object), ("wordnet_height", object), ("num_train_images", object)]


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def tar(files: Mapping[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    """A tar file of these names and contents; a TarInfo is a member without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1339760000
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def link(name: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def write_devkit(folder: Path, classes: Mapping[int, str], labels: tuple[int, ...]) -> None:
    above = len(classes)
    rows = [(number, wnid, f"name of {wnid}, other", "gloss", 0, np.zeros(0), 0, 1300) for number, wnid in
            classes.items()]
    rows += [(above + 1, "n00001740", "entity", "all", 2, np.array([1, above + 2]), 2, 0),
             (above + 2, "n00002137", "abstraction", "some", 1, np.array([3]), 1, 0)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, SYNSET).reshape(-1, 1)}, do_compression=True)
    truth = "".join(f"{label}\n" for label in labels).encode()
    (folder / DEVKIT).write_bytes(tar({
        "ILSVRC2012_devkit_t12/readme.txt": b"read me", "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth}, "w:gz"))


def train_images(wnid: str) -> dict[str, bytes]:
    return {f"{wnid}_{number * 37}.JPEG": jpeg(number + int(wnid[1:])) for number in range(COUNTS[wnid])}


def val_images() -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{number:08d}.JPEG": jpeg(number) for number in range(1, len(LABELS) + 1)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "archives"
    folder.mkdir()
    write_devkit(folder, CLASSES, LABELS)
    (folder / VAL).write_bytes(tar(val_images()))
    (folder / TRAIN).write_bytes(tar({f"{wnid}.tar": tar(train_images(wnid)) for wnid in CLASSES.values()}))
    return folder


def expected() -> dict[str, bytes]:
    found = {f"train/{wnid}/{name}": content for wnid in CLASSES.values()
             for name, content in train_images(wnid).items()}
    names = val_images()
    return found | {f"val/{CLASSES[label]}/{name}": names[name] for label, name in zip(LABELS, names, strict=True)}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*")
            if path.is_file() and path.parent != root}


def prepare(source: Path, output: Path) -> dict[str, int]:
    return prepare_imagenet(source, output, ("train", "val"), workers=2)


def refused(source: Path, output: Path) -> str:
    """The one line that preparing ends with; no folder is half-written."""
    with pytest.raises(UserError) as caught:
        prepare(source, output)
    assert "\n" not in str(caught.value)
    assert files(output).items() <= expected().items()
    assert not list(output.rglob("*.unfinished"))
    return str(caught.value)


def test_every_image_lies_in_its_class(source: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in source.iterdir()}
    output = tmp_path / "imagenet"
    assert prepare(source, output) == {"train": 14, "val": 8}
    assert files(output) == expected()
    assert {path: path.read_bytes() for path in source.iterdir()} == before
    train, val = (ImageFolder.scan(output / part) for part in ("train", "val"))
    assert train.classes == val.classes == tuple(sorted(CLASSES.values()))
    lines = (output / "classes.txt").read_text().splitlines()
    assert lines == [f"{wnid} name of {wnid}, other" for wnid in train.classes]
    prepare(source, tmp_path / "again")
    assert ImageFolder.scan(tmp_path / "again/train").digest() == train.digest()


def test_numbers_of_the_kit_are_not_in_the_order_of_wnids(source: Path) -> None:
    """Image 1 is labelled 3, which is the last of the wnids."""
    kit = read_devkit(source / DEVKIT)
    assert kit.val_labels == ("n03000134", "n02119789", "n01440764", "n01440764", "n01443537", "n02119789",
                              "n03000134", "n03000134")
    assert list(kit.words) == ["n01440764", "n01443537", "n02119789", "n03000134"]
    assert "entity" not in kit.words.values()


def test_an_interrupted_run_goes_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, write = tmp_path / "imagenet", Path.write_bytes
    written: list[Path] = []

    def interrupted(path: Path, content: bytes) -> int:
        if len(written) == 9:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_imagenet(source, output, ("train", "val"), workers=1)
    left = files(output)
    finished = {path.name for path in (output / "train").iterdir()}
    assert finished == {"n01440764", "n01443537"}  # of 5 and 3 images; not the third class of 4
    assert left.items() <= expected().items()
    monkeypatch.undo()

    times = {path: path.stat().st_ctime_ns for path in (output / "train").rglob("*.JPEG")}
    (output / "train/.n02119789.unfinished").mkdir()  # as a run leaves that is killed
    (output / "train/.n02119789.unfinished/half.JPEG").write_bytes(b"half")
    assert prepare(source, output) == {"train": 14, "val": 8}
    assert files(output) == expected()
    assert {path: path.stat().st_ctime_ns for path in times} == times  # they were not written twice
    assert prepare(source, output) == {"train": 14, "val": 8}


def test_parts_one_after_the_other(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / TRAIN).rename(tmp_path / "later")
    output = tmp_path / "imagenet"
    main(["--source", str(source), "--output", str(output), "--part", "val"])
    assert capsys.readouterr() == (f"{output}/val: 8 images\n", "")  # no progress where no terminal is
    (tmp_path / "later").rename(source / TRAIN)
    main(["--source", str(source), "--output", str(output)])
    assert files(output) == expected()


def test_a_finished_class_that_was_changed_is_named(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "imagenet"
    prepare(source, output)
    gone = output / "train/n01443537/n01443537_37.JPEG"
    content = gone.read_bytes()
    gone.unlink()
    assert re.search("train/n01443537: holds 2 files of .* but 3 of .* remove this folder", refused(source, output))
    gone.write_bytes(b"")  # as a power cut leaves it
    with pytest.raises(UserError, match="n01443537: holds 3 files of .* bytes, but 3 of"):
        prepare(source, output)
    gone.write_bytes(content)
    prepare(source, output)
    (output / "train/n01443537").rename(tmp_path / "aside")
    prepare(source, output)
    assert files(output) == expected()


def test_what_is_there_is_left_alone(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    assert "already exists and was not made by this tool" in refused(source, output)
    other = tmp_path / "other"
    prepare(source, other)
    write_devkit(source, {**CLASSES, 5: "n09999999"}, LABELS)
    (source / TRAIN).write_bytes(tar({f"{wnid}.tar": tar({f"{wnid}_1.JPEG": bytes(20_000)}) for wnid in
                                      (*CLASSES.values(), "n09999999")}))
    assert "was made from another archive" in refused(source, other)


def test_two_at_once_are_refused(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "imagenet"
    prepare(source, output)
    with (output / RECORD).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another process is writing here" in refused(source, output)


def test_a_record_whose_last_line_was_cut(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "imagenet"
    prepare(source, output)
    record = output / RECORD
    last = json.loads(record.read_text().splitlines()[-1])
    os.truncate(record, record.stat().st_size - 5)
    (output / last["part"] / last["class"]).rename(tmp_path / "aside")  # it takes its name after it is noted
    prepare(source, output)
    prepare(source, output)
    assert files(output) == expected()


# ---- archives that are not whole or not what they should be

@pytest.mark.parametrize("name", [TRAIN, VAL, DEVKIT])
def test_missing_archives_are_refused(source: Path, tmp_path: Path, name: str) -> None:
    (source / name).unlink()
    assert refused(source, tmp_path / "imagenet") == f"{source / name}: no such file"


@pytest.mark.parametrize("name", [TRAIN, VAL, DEVKIT])
def test_archives_that_are_cut_anywhere(source: Path, tmp_path: Path, name: str) -> None:
    content = (source / name).read_bytes()
    last = len(content.rstrip(b"\0"))
    places = [0, 100, *(512 * n for n in range(1, 12)), *random.Random(0).sample(range(last), 8), last - 1]
    for place in places:
        (source / name).write_bytes(content[:min(place, last - 1)])
        assert str(source / name) in refused(source, tmp_path / "imagenet")
    assert not (tmp_path / "imagenet").exists()


def test_damage_within_a_class_is_told_and_the_others_are_finished(source: Path, tmp_path: Path) -> None:
    """The other classes are finished; with a whole archive the same command goes on."""
    content = (source / TRAIN).read_bytes()
    inner = tar(train_images("n01440764"))
    start = content.index(inner)
    header = [n for n in range(0, len(inner), 512) if inner[n:n + 9] == b"n01440764"][2]
    (source / TRAIN).write_bytes(content[:start + header] + b"\xff" * 512 + content[start + header + 512:])
    assert f"{source / TRAIN}: not a whole tar file (damaged at byte {start + header})" \
        in refused(source, tmp_path / "imagenet")
    (source / TRAIN).write_bytes(content)
    prepare(source, tmp_path / "imagenet")
    assert files(tmp_path / "imagenet") == expected()


@pytest.mark.parametrize("member", [
    {"../n01440764_1.JPEG": jpeg(1)}, {"/tmp/x.JPEG": jpeg(1)}, {"l": link("n01440764_1.JPEG")},
    {"l": link("n01440764_1.JPEG", tarfile.LNKTYPE)}, {"l": link("n01440764_1.JPEG", tarfile.FIFOTYPE)},
    {"n01440764_1.txt": b"text"}, {"a/n01440764_1.JPEG": jpeg(1), "b/n01440764_1.JPEG": jpeg(1)}, {}])
def test_members_that_no_class_has(source: Path, tmp_path: Path, member: dict) -> None:
    classes: dict[str, bytes | tarfile.TarInfo] = {f"{wnid}.tar": tar(train_images(wnid)) for wnid in COUNTS}
    (source / TRAIN).write_bytes(tar({**classes, "n01440764.tar": tar(member)}))
    assert str(source / TRAIN) in refused(source, tmp_path / "imagenet")
    assert not (tmp_path / "imagenet/train/n01440764").exists()
    assert not list(tmp_path.glob("*.JPEG"))


@pytest.mark.parametrize(("change", "message"), [
    ({"n00000001.tar": b""}, "'n00000001.tar' in it is not the tar file of one of the 4 classes"),
    ({"n01440764.tar": link("n01440764.tar")}, "'n01440764.tar' in it is a link"),
    ({"n01440764.tar": None}, "lacks 1 of 4 classes, among them n01440764"),
])
def test_classes_that_do_not_fit_the_kit(source: Path, tmp_path: Path, change: dict, message: str) -> None:
    classes = {**{f"{wnid}.tar": tar(train_images(wnid)) for wnid in COUNTS}, **change}
    (source / TRAIN).write_bytes(tar({name: content for name, content in classes.items() if content is not None}))
    assert message in refused(source, tmp_path / "imagenet")
    assert not (tmp_path / "imagenet").exists()


@pytest.mark.parametrize(("change", "message"), [
    ({"ILSVRC2012_val_00000009.JPEG": jpeg(1)}, "is not one of the 8 images that"),
    ({"notes.JPEG": jpeg(1)}, "'notes.JPEG' in it is not one of the 8 images"),
    ({"ILSVRC2012_val_00000008.JPEG": None}, "has 7 of 8 images in it"),
    ({"l": link("../x.JPEG")}, "would be written outside"),
])
def test_validation_images_that_do_not_fit_the_kit(source: Path, tmp_path: Path, change: dict, message: str) -> None:
    images = {name: content for name, content in {**val_images(), **change}.items() if content is not None}
    (source / VAL).write_bytes(tar(images))
    assert message in refused(source, tmp_path / "imagenet")
    assert not (tmp_path / "imagenet").exists()


@pytest.mark.parametrize(("kit", "message"), [
    ({"x/readme.txt": b"hello"}, "has no data/meta.mat in it"),
    ({"x/data/meta.mat": b"MATLAB 5.0 MAT-file" + bytes(200), f"x/data/{imagenet.GROUND_TRUTH}": b"1\n"},
     "cannot read data/meta.mat in it"),
    ({"m": link("x/data/meta.mat")}, "is a link"),
])
def test_kits_of_another_kind_are_refused(source: Path, tmp_path: Path, kit: dict, message: str) -> None:
    (source / DEVKIT).write_bytes(tar(kit, "w:gz"))
    assert message in refused(source, tmp_path / "imagenet")


@pytest.mark.parametrize(("classes", "labels", "message"), [
    (CLASSES, (*LABELS[:-1], 5), "a line that is no class: 5"),  # a synset with children is none
    ({**CLASSES, 4: "n02119789"}, LABELS, "not numbered from 1 with a wnid each"),
    ({**CLASSES, 4: "../../../x"}, LABELS, "not numbered from 1 with a wnid each"),
    ({1: "n02119789", 3: "n01440764"}, LABELS, "not numbered from 1"),
])
def test_kits_that_contradict_themselves_are_refused(source: Path, tmp_path: Path, classes: dict,
                                                     labels: tuple[int, ...], message: str) -> None:
    write_devkit(source, classes, labels)
    assert message in refused(source, tmp_path / "imagenet")


def test_a_thousand_classes_must_be_the_whole_data_set(source: Path, tmp_path: Path) -> None:
    classes = {number: f"n{number:08d}" for number in range(1, 1001)}
    write_devkit(source, classes, tuple(range(1, 1001)))
    image = jpeg(0)
    (source / VAL).write_bytes(tar({f"ILSVRC2012_val_{number:08d}.JPEG": image for number in classes}))
    with pytest.raises(UserError, match="has 1,000 images in it, and ILSVRC2012 has 50,000"):
        prepare_imagenet(source, tmp_path / "imagenet", ("val",), workers=2)


def test_a_disk_without_room_is_refused(source: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen before anything is written, and when the disk fills while it is written."""
    noise = np.random.default_rng(0).bytes(2 ** 20)
    big = {**val_images(), "ILSVRC2012_val_00000001.JPEG": noise}
    (source / VAL).write_bytes(tar(big))
    with pytest.raises(UserError, match="unpacking the images takes up to .* MB are free; choose a disk"):
        prepare_imagenet(source, small_disk / "imagenet", ("val",), workers=1)
    assert not list((small_disk / "imagenet").rglob("*.JPEG"))
    (small_disk / "other").write_bytes(noise[:900_000])
    (source / VAL).write_bytes(tar(dict.fromkeys(big, noise[:25_000])))
    with monkeypatch.context() as patch:
        patch.setattr(imagenet, "check_space", lambda *_: None)  # as if the other file came later
        with pytest.raises(UserError, match="No space left on device; the same command goes on"):
            prepare_imagenet(source, small_disk / "imagenet", ("val",), workers=1)
    (small_disk / "other").unlink()
    assert prepare_imagenet(source, small_disk / "imagenet", ("val",), workers=1) == {"val": 8}


def test_the_command_ends_in_one_line(source: Path, tmp_path: Path) -> None:
    (source / DEVKIT).unlink()
    assert_one_clear_line(run_script("tools/prepare_imagenet.py", "--source", source, "--output", tmp_path / "x"),
                          f"{source / DEVKIT}: no such file")
    assert not (tmp_path / "x").exists()
    with pytest.raises(UserError, match="--workers must be at least 1"):
        main(["--source", str(source), "--output", str(tmp_path / "x"), "--workers", "0"])
