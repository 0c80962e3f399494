"""The 310 program, really built and run on a CPU against MindSpore Lite, and the script around it.

run_tests.sh fetches that MindSpore Lite and sets LITE_HOME. The model is the one that data/make_tiny_model.py makes.
"""
import ast
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Images, make_images, run_script
from PIL import Image

from src.data.framing import Framing
from src.deployment.exporter import ExportOptions, usage
from src.deployment.prediction import ImageStream, list_images
from src.normalisation import IMAGENET_PIXELS
from tests.support.odd_images import encoded, exif, not_images, odd_images, oriented, photo

TINY = ROOT / "tests" / "fixtures" / "tiny.mindir"
SIZE, BATCH_SIZE = 32, 4
REPORT = re.compile(r"^latency of a batch: mean [\d.]+ ms, p50 [\d.]+ ms, p99 [\d.]+ ms; [\d.]+ pictures/s$",
                    re.MULTILINE)


@pytest.fixture(scope="session")
def lite() -> Path:
    home = os.environ.get("LITE_HOME", "")
    if not home:
        pytest.skip("needs MindSpore Lite in LITE_HOME, which run_tests.sh fetches where there is a network")
    if not all(map(shutil.which, ("cmake", "make", "c++"))):
        pytest.skip("needs cmake, make and a C++ compiler")
    return Path(home)


@pytest.fixture(scope="session")
def build_folder(lite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("310") / "build"
    run = subprocess.run(["bash", ROOT / "ascend310_infer" / "build.sh", folder], capture_output=True, text=True,
                         check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == f"{folder}/infer310"
    assert "warning" not in (folder / "build.log").read_text()
    return folder


@pytest.fixture(scope="session")
def decodes(build_folder: Path) -> None:
    """The program prepares pictures itself."""
    if "preprocessing CPU: left out" in (build_folder / "build.log").read_text():
        pytest.skip("needs the headers of libjpeg-turbo (Debian: libjpeg62-turbo-dev)")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG of many shapes in three classes: larger and smaller than the network, of its size, grey, fully sampled."""
    root = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(4)
    shapes = [(500, 333), (333, 500), (37, 37), (32, 32), (20, 31), (64, 48), (99, 38), (37, 290), (641, 427), (5, 7),
              (3, 2), (74, 74), (50, 50)]
    for number, (width, height) in enumerate(shapes):
        coarse = Image.fromarray(generator.integers(0, 256, (7, 9, 3), np.uint8)).resize((width, height))
        noise = generator.integers(-30, 30, (height, width, 3))
        picture = Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))
        folder = root / ("blue", "green", "red")[number % 3]
        folder.mkdir(exist_ok=True)
        picture.convert("L" if number == 5 else "RGB").save(folder / f"photo.{number}.JPG", quality=90,
                                                            subsampling=0 if number % 2 else 2)
    return root


def infer310(lite: Path, build_folder: Path, *options: object) -> subprocess.CompletedProcess:
    libraries = next(folder for folder in (lite / "runtime" / "lib", lite / "lib", lite / "mindspore_lite" / "lib")
                     if folder.is_dir())
    return subprocess.run([build_folder / "infer310", "--device", "CPU", *map(str, options)], capture_output=True,
                          text=True, check=False, env={**os.environ, "LD_LIBRARY_PATH": str(libraries)})


def assert_fails(run: subprocess.CompletedProcess, *mentions: str) -> None:
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.returncode != 0
    assert len(errors) == 1, run.stderr
    for mention in mentions:
        assert mention in errors[0]


def read(folder: Path, paths: list[Path], root: Path) -> np.ndarray:
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [f"{path.relative_to(root).as_posix()}.bin" for path in paths]
    assert found == sorted(names)
    return np.stack([np.fromfile(folder / name, np.float32) for name in names])


@pytest.fixture(scope="module")
def results(lite: Path, build_folder: Path, decodes: None, photographs: Path,
            tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program made of the photographs: logits, and under inputs/ what entered the network."""
    folder = tmp_path_factory.mktemp("results")
    run = infer310(lite, build_folder, "--model", TINY, "--data", photographs, "--output", folder / "logits",
                   "--inputs", folder / "inputs")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("13 pictures in 4 batches of 4; warm-up ")
    assert REPORT.search(run.stdout)
    return folder


def test_pictures_enter_as_evaluation_shows_them(results: Path, photographs: Path) -> None:
    paths = list_images(str(photographs))
    entered = read(results / "inputs", paths, photographs).reshape(-1, 3, SIZE, SIZE)
    expected = np.concatenate([images for _, images in ImageStream(paths, SIZE, 3, 1)])
    np.testing.assert_allclose(entered, expected, atol=1e-5)  # a grey level is 0.017


@pytest.mark.parametrize(("preprocessing", "mean", "std"), [
    ({"mean": [127.5] * 3, "std": [127.5] * 3}, [127.5] * 3, [127.5] * 3),
    ({"std": [1, 2.5, 4e1], "mean": [0, -3, 1]}, [0, -3, 1], [1, 2.5, 40]),
    ({"normalise": "inside the graph", "mean": [9] * 3, "std": [9] * 3}, [0] * 3, [1] * 3),
    ({}, IMAGENET_PIXELS.pixel_mean, IMAGENET_PIXELS.pixel_std),
])
def test_pictures_are_normalised_as_the_json_says(preprocessing: dict, mean: list[float], std: list[float], lite: Path,
                                                  build_folder: Path, decodes: None, photographs: Path,
                                                  tmp_path: Path) -> None:
    model = shutil.copy(TINY, tmp_path / "m.mindir")
    description = {"preprocessing": preprocessing, "classes": ["mean", 'a "std": [7]', "std"]}
    (tmp_path / "m.mindir.json").write_text(json.dumps(description, indent=1))
    run = infer310(lite, build_folder, "--model", model, "--data", photographs, "--output", tmp_path / "logits",
                   "--inputs", tmp_path / "inputs")
    assert run.returncode == 0, run.stderr
    paths = list_images(str(photographs))
    entered = read(tmp_path / "inputs", paths, photographs).reshape(-1, 3, SIZE, SIZE)
    pixels = np.concatenate([images for _, images in ImageStream(paths, SIZE, 3, 1, normalisation=None)])
    expected = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(entered, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("std", [[1, 2], [1, 2, 0], [1, 2, "3"], 5, [1, 2, 3, 4]])
def test_a_json_without_three_numbers(std: object, lite: Path, build_folder: Path, photographs: Path,
                                      tmp_path: Path) -> None:
    model = shutil.copy(TINY, tmp_path / "m.mindir")
    (tmp_path / "m.mindir.json").write_text(json.dumps({"preprocessing": {"mean": [1, 2, 3], "std": std}}))
    assert_fails(infer310(lite, build_folder, "--model", model, "--data", photographs, "--output", tmp_path / "out"),
                 "m.mindir.json: has no three numbers as std; export the model anew")


def test_aipp_is_for_imagenets_numbers_alone(lite: Path, build_folder: Path, photographs: Path, tmp_path: Path) -> None:
    model = shutil.copy(TINY, tmp_path / "m.mindir")
    (tmp_path / "m.mindir.json").write_text(json.dumps({"preprocessing": {"mean": [127.5] * 3, "std": [127.5] * 3}}))
    assert_fails(infer310(lite, build_folder, "--model", model, "--data", photographs, "--output", tmp_path / "out",
                          "--preprocess", "DVPP"), "src/aipp.cfg normalises with the numbers of ImageNet", "take CPU")


# ---- framing

def framed(lite: Path, build_folder: Path, framing: Framing, photographs: Path, folder: Path) -> Path:
    """What the program makes of the photographs when the JSON beside the model has this framing."""
    model = shutil.copy(TINY, folder / "m.mindir")
    preprocessing = usage(ExportOptions(SIZE, framing=framing), None, 3)["preprocessing"]
    (folder / "m.mindir.json").write_text(json.dumps({"preprocessing": preprocessing}, indent=1))
    run = infer310(lite, build_folder, "--model", model, "--data", photographs, "--output", folder / "logits",
                   "--inputs", folder / "inputs")
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.parametrize("framing", [
    Framing("pad"), Framing("squash"), Framing(crop_pct=1.0), Framing(crop_pct=0.512), Framing(interpolation="bicubic"),
    Framing("pad", interpolation="bicubic"), Framing("squash", interpolation="bicubic"),
    Framing(crop_pct=0.3, interpolation="bicubic")], ids=str)
def test_pictures_are_framed_as_evaluation_frames_them(framing: Framing, lite: Path, build_folder: Path, decodes: None,
                                                       photographs: Path, tmp_path: Path) -> None:
    results = framed(lite, build_folder, framing, photographs, tmp_path)
    paths = list_images(str(photographs))
    entered = read(results / "inputs", paths, photographs).reshape(-1, 3, SIZE, SIZE)
    expected = np.concatenate([images for _, images in ImageStream(paths, SIZE, 3, 1, framing=framing)])
    difference = np.abs(entered - expected)
    if framing.interpolation == "bilinear":
        assert difference.max() < 1e-5
    assert difference.max() < 0.018  # a grey level is 0.017 or 0.018
    assert (difference > 1e-5).mean() < 1e-3


@pytest.mark.parametrize(("tta", "mode"), [("flip", "center"), ("flip", "pad"), ("five_crop", "center")])
def test_logits_are_the_mean_over_the_views(tta: str, mode: str, lite: Path, build_folder: Path, decodes: None,
                                            photographs: Path, tmp_path: Path) -> None:
    framing = Framing(mode, tta=tta)
    results = framed(lite, build_folder, framing, photographs, tmp_path)
    paths = list_images(str(photographs))
    numbers = ["", *(f".{view}" for view in range(1, framing.views))]
    entered = np.stack([[np.fromfile(results / "inputs" / f"{path.relative_to(photographs)}{number}.bin", np.float32)
                         for number in numbers] for path in paths]).reshape(-1, framing.views, 3, SIZE, SIZE)
    expected = np.concatenate([images for _, images in ImageStream(paths, SIZE, 3, 1, framing=framing)])
    np.testing.assert_allclose(entered, expected, atol=1e-5)

    # The network's logits for each view are those of the program for files of what enters it.
    run = infer310(lite, build_folder, "--model", results / "m.mindir", "--data", results / "inputs", "--output",
                   tmp_path / "single", "--preprocess", "RAW")
    assert run.returncode == 0, run.stderr
    single = np.stack([[np.fromfile(tmp_path / "single" / f"{path.relative_to(photographs)}{number}.bin.bin",
                                    np.float32) for number in numbers] for path in paths])
    assert np.abs(single[:, 0] - single[:, -1]).max() > 1e-3
    np.testing.assert_allclose(read(results / "logits", paths, photographs), single.mean(axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("framing", "beyond"), [
    (Framing("pad"), "crop_mode pad"), (Framing(interpolation="bicubic"), "interpolation bicubic"),
    (Framing(tta="flip"), "tta flip")])
def test_dvpp_refuses_what_it_does_not_do(framing: Framing, beyond: str, lite: Path, build_folder: Path,
                                          photographs: Path, tmp_path: Path) -> None:
    model = shutil.copy(TINY, tmp_path / "m.mindir")
    preprocessing = usage(ExportOptions(SIZE, framing=framing), None, 3)["preprocessing"]
    (tmp_path / "m.mindir.json").write_text(json.dumps({"preprocessing": preprocessing}))
    assert_fails(infer310(lite, build_folder, "--model", model, "--data", photographs, "--output", tmp_path / "out",
                          "--preprocess", "DVPP"), beyond, "which DVPP does not do; take CPU")


@pytest.mark.parametrize(("key", "value"), [("crop_mode", "border"), ("crop_pct", 0), ("crop_pct", "all"),
                                            ("interpolation", None), ("tta", "ten_crop")])
def test_a_framing_that_the_program_does_not_know(key: str, value: object, lite: Path, build_folder: Path,
                                                  photographs: Path, tmp_path: Path) -> None:
    model = shutil.copy(TINY, tmp_path / "m.mindir")
    (tmp_path / "m.mindir.json").write_text(json.dumps({"preprocessing": {key: value}}))
    assert_fails(infer310(lite, build_folder, "--model", model, "--data", photographs, "--output", tmp_path / "out"),
                 f"m.mindir.json: has a {key} that this program does not know")


def test_logits_are_those_of_the_network(lite: Path, build_folder: Path, results: Path, photographs: Path,
                                         tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")
    session = runtime.InferenceSession(TINY.with_suffix(".onnx"))
    paths = list_images(str(photographs))
    entered = read(results / "inputs", paths, photographs).reshape(-1, 3, SIZE, SIZE)
    padded = np.concatenate([entered, entered[:-len(entered) % BATCH_SIZE]])
    expected = np.concatenate([session.run(None, {"images": padded[i:i + BATCH_SIZE]})[0]
                               for i in range(0, len(padded), BATCH_SIZE)])[:len(entered)]
    logits = read(results / "logits", paths, photographs)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(logits, expected, atol=1e-3)

    run = infer310(lite, build_folder, "--model", TINY, "--data", results / "inputs", "--output", tmp_path / "again",
                   "--preprocess", "RAW")
    assert run.returncode == 0, run.stderr
    again = read(tmp_path / "again", sorted((results / "inputs").rglob("*.bin")), results / "inputs")
    np.testing.assert_array_equal(again, logits)


# ---- every kind of image

@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JPEG files among all kinds, by content, and one photo in the eight orientations of EXIF and of XMP."""
    root = tmp_path_factory.mktemp("kinds")
    for name, image in odd_images().items():
        if image.content.startswith(b"\xff\xd8"):
            (root / name).write_bytes(image.content)
    for n in range(1, 9):
        stored, big_endian = oriented(photo(), n), exif(n)
        big_endian.endian = ">"
        xmp = f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{n}"/>'
        ways: dict[str, dict[str, object]] = {"exif": {"exif": exif(n)}, "big_endian": {"exif": big_endian},
                                              "xmp": {"xmp": xmp.encode()}}
        for way, options in ways.items():
            (root / f"{way}_{n}.jpg").write_bytes(encoded(stored, "JPEG", quality=98, subsampling=0, **options))
    (root / "notes.txt").write_text("no image")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "exif_1.jpg").write_text("no image")
    (root / "again").symlink_to(root)
    return root


def test_every_kind_of_jpeg_is_upright_and_as_evaluation_shows_it(lite: Path, build_folder: Path, decodes: None,
                                                                  kinds: Path, tmp_path: Path) -> None:
    run = infer310(lite, build_folder, "--model", TINY, "--data", kinds, "--output", tmp_path / "logits", "--inputs",
                   tmp_path / "inputs")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("left out: 1 no image (notes.txt)\n")
    paths = list_images(str(kinds))
    assert len(paths) >= 45
    entered = read(tmp_path / "inputs", paths, kinds).reshape(-1, 3, SIZE, SIZE)
    stream = ImageStream(paths, SIZE, len(paths), 1)
    (_, expected), = stream
    assert not stream.faults
    # What is read from a copy has been through JPEG once more. A grey level is 0.017.
    for path, seen, wanted, finding in zip(paths, entered, expected, map(stream.findings.get, range(len(paths))),
                                           strict=True):
        np.testing.assert_allclose(seen, wanted, atol=0.15 if finding.copy else 1e-5, err_msg=str(path))

    logits = dict(zip([path.name for path in paths], read(tmp_path / "logits", paths, kinds), strict=True))
    inputs = dict(zip([path.name for path in paths], entered, strict=True))
    for n, way in itertools.product(range(1, 9), ("exif", "big_endian", "xmp")):
        name = f"{way}_{n}.jpg"
        np.testing.assert_allclose(inputs[name], inputs["exif_1.jpg"], atol=0.15, err_msg=name)
        np.testing.assert_allclose(logits[name], logits["exif_1.jpg"], atol=0.05, err_msg=name)


def test_images_that_the_program_does_not_read_are_named(lite: Path, build_folder: Path, decodes: None,
                                                         tmp_path: Path) -> None:
    others = {name: image.content for name, image in odd_images().items() if not image.content.startswith(b"\xff\xd8")}
    bad = {name: content for name, content in not_images().items() if not content.startswith(b"\xff\xd8")}
    for name, content in (others | bad).items():
        (tmp_path / "kinds").mkdir(exist_ok=True)
        (tmp_path / "kinds" / name).write_bytes(content)
    run = infer310(lite, build_folder, "--model", TINY, "--data", tmp_path / "kinds", "--output", tmp_path / "out")
    names = sorted({**others, **bad}, key=os.fsencode)
    assert_fails(run, f"{tmp_path}/kinds/{names[0]}: is ", f" and {len(names) - 5} more; this program reads JPEG")
    assert not (tmp_path / "out").exists()


def script(*arguments: object, folder: Path, build_folder: Path | None = None,
           **environment: str) -> subprocess.CompletedProcess:
    build = {"BUILD_FOLDER": str(build_folder)} if build_folder else {}
    return subprocess.run(["bash", ROOT / "scripts" / "run_infer_310.sh", *map(str, arguments)], cwd=folder,
                          env={**os.environ, "DEVICE_TYPE": "CPU", **build, **environment}, capture_output=True,
                          text=True, check=False)


@pytest.fixture
def labels(photographs: Path, tmp_path: Path) -> Path:
    path = tmp_path / "label.txt"
    run = run_script("tools/make_label_file.py", "--dataset_path", photographs, "--output", path)
    assert run.returncode == 0, run.stderr
    return path


def test_the_script_gives_the_accuracy_of_eval(build_folder: Path, decodes: None, photographs: Path, labels: Path,
                                               tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")
    for _ in range(2):  # the second run sets the first one's results aside
        run = script(TINY, photographs, labels, "CPU", folder=tmp_path, build_folder=build_folder)
        assert run.returncode == 0, run.stderr
    assert len(list(tmp_path.glob("result_Files*"))) == 2
    scored = run_script("eval.py", "--platform", "CPU", "--dataset_path", photographs, "--pretrain_ckpt",
                        TINY.with_suffix(".onnx"))
    assert scored.returncode == 0, scored.stderr
    top1 = ast.literal_eval(re.search(r"result: (\{.*\})", scored.stdout).group(1))["acc"]
    assert f"'Accuracy': {top1:.5f}\n" in (tmp_path / "acc.log").read_text()
    assert f"'Accuracy': {top1:.5f}\n" in run.stdout
    assert REPORT.search(run.stdout)


def test_the_script_ends_with_the_first_step_that_failed(build_folder: Path, decodes: None, photographs: Path,
                                                         labels: Path, tmp_path: Path) -> None:
    labels.write_text(labels.read_text() + "blue/none.jpg:0\n")
    run = script(TINY, photographs, labels, "CPU", folder=tmp_path, build_folder=build_folder)
    assert run.returncode == 2
    assert "1 have no result: blue/none.jpg" in run.stderr
    run = script(labels, photographs, labels, "CPU", folder=tmp_path, build_folder=build_folder)
    assert run.returncode == 1
    assert "cannot be loaded" in run.stdout
    run = script(TINY, photographs, labels, "CPU", folder=tmp_path, LITE_HOME=str(tmp_path),
                 build_folder=tmp_path / "other")
    assert run.returncode == 2
    assert "holds no MindSpore Lite" in run.stderr
    assert not (tmp_path / "acc.log").exists()


def test_names_alike_do_not_collide(lite: Path, build_folder: Path, decodes: None, images: Images,
                                    tmp_path: Path) -> None:
    root = images({"a": 1, "a.b": 1, "c/a": 1})
    (root / "a" / "000.x.jpg").write_bytes((root / "a" / "000.jpg").read_bytes())
    (root / "a" / "000.JPEG").write_bytes((root / "a" / "000.jpg").read_bytes())
    (root / "a" / ".hidden.jpg").write_text("no picture")
    run = infer310(lite, build_folder, "--model", TINY, "--data", root, "--output", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.bin")) == [
        "a.b/000.jpg.bin", "a/000.JPEG.bin", "a/000.jpg.bin", "a/000.x.jpg.bin", "c/a/000.jpg.bin"]


@pytest.mark.parametrize("bad", ["text", "empty", "cut", "large", "png", "unreadable"])
def test_a_bad_picture_ends_the_program_with_its_name(bad: str, lite: Path, build_folder: Path, decodes: None,
                                                      tmp_path: Path) -> None:
    root = make_images(tmp_path / "pictures", {"a": 6})
    culprit = root / "a" / "003.jpg"
    if bad == "text":
        culprit.write_text("no picture")
    elif bad == "empty":
        culprit.write_bytes(b"")
    elif bad == "cut":
        culprit.write_bytes(culprit.read_bytes()[:600])
    elif bad == "large":
        culprit.write_bytes(not_images()["too_large.jpg"])
    elif bad == "png":
        Image.new("RGB", (40, 40)).save(culprit, "PNG")
    else:
        culprit.unlink()
        culprit.symlink_to("nowhere")
    run = infer310(lite, build_folder, "--model", TINY, "--data", root, "--output", tmp_path / "out")
    assert_fails(run, f"{culprit}: ")
    assert not list((tmp_path / "out").rglob("*")) or not (tmp_path / "out" / "a" / "003.jpg.bin").exists()


def test_bad_models_folders_and_options(lite: Path, build_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.bin").write_bytes(bytes(100))
    cut = tmp_path / "cut.mindir"
    cut.write_bytes(TINY.read_bytes()[:9000])

    def run(model: Path = TINY, data: str = "raw", *options: object) -> subprocess.CompletedProcess:
        return infer310(lite, build_folder, "--model", model, "--data", tmp_path / data, "--output", tmp_path / "out",
                        *(options or ("--preprocess", "RAW")))

    assert_fails(run(tmp_path / "none.mindir"), "none.mindir: no such model")
    assert_fails(run(cut), "cut.mindir: cannot be loaded")
    assert_fails(run(data="hollow"), "hollow: no pictures here")
    assert_fails(run(data="none"), "none: no such folder")
    assert_fails(run(), "a.bin: has 100 bytes, the model takes 12288")
    assert_fails(run(TINY, "raw", "--preprocess", "DVPP"), "preprocessing DVPP: not built into this program")
    assert_fails(run(TINY, "raw", "--device", "NPU"), "--device must be Ascend, GPU or CPU, not NPU")
    assert_fails(run(TINY, "raw", "--device", "GPU"), "cannot be loaded on GPU")  # this Lite was built without it
    assert_fails(run(TINY, "raw", "--nonsense", "1"), "--nonsense: no such option")
    assert_fails(run(TINY, "raw", "--device_id"), "--device_id: needs a value")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.bin").touch()
    assert_fails(run(), "out: is not empty")


@pytest.mark.parametrize(("arguments", "says"), [
    ((), "are needed"), (("m", "d", "l"), "are needed"), (("m", "d", "l", "CPU", "0", "x"), "too many"),
    (("none", "d", "l", "CPU"), "none: no such MINDIR"), (("m", "none", "l", "CPU"), "none: no such folder"),
    (("m", "d", "none", "CPU"), "none: no such label"), (("m", "d", "l", "GPU"), "DVPP or CPU, not 'GPU'"),
    (("m", "d", "l", "CPU", "x"), "DEVICE_ID"), (("m", "d", "l", "dvpp"), "DVPP is a part of Ascend"),
])
def test_wrong_arguments_of_the_script(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    (tmp_path / "l").touch()
    (tmp_path / "d").mkdir()
    run = script(*arguments, folder=tmp_path)
    assert run.returncode == 2
    assert says in run.stderr.splitlines()[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "l", "m"]


@pytest.mark.parametrize(("home", "says"), [("", "set LITE_HOME"), ("/nowhere", "LITE_HOME=/nowhere: no such folder")])
def test_build_fails_loudly(home: str, says: str, tmp_path: Path) -> None:
    run = subprocess.run(["bash", ROOT / "ascend310_infer" / "build.sh", tmp_path / "build"], capture_output=True,
                         env={**os.environ, "LITE_HOME": home, "MS_LITE_HOME": ""}, text=True, check=False)
    assert run.returncode == 2
    assert says in run.stderr


def test_aipp_normalises_with_the_numbers_of_training() -> None:
    settings = dict(re.findall(r"^\s+(\w+): ([-\w.]+)$", (ROOT / "src" / "aipp.cfg").read_text(), re.MULTILINE))
    for channel, (mean, std) in enumerate(zip(IMAGENET_PIXELS.mean, IMAGENET_PIXELS.std, strict=True)):
        assert float(settings[f"min_chn_{channel}"]) == pytest.approx(255 * mean)
        assert float(settings[f"var_reci_chn_{channel}"]) == pytest.approx(1 / (255 * std), rel=1e-6)
        assert settings[f"mean_chn_{channel}"] == "0"
