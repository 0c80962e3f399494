"""infer.py and eval.py on checkpoints, MINDIR and ONNX files: the same answers, and bad images told by name."""
import ast
import csv
import json
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import Images, assert_one_clear_line, config_for, make_images, run_script
from mindspore import Tensor
from PIL import Image
from safetensors.numpy import save_file

import eval as evaluation
import export as export_command
import infer
from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.names import metadata_path
from src.checkpoint.namings import TIMM, TORCH
from src.checkpoint.pretrained import open_pretrained
from src.checkpoint.record import CheckpointMetadata
from src.confidence import Confidence
from src.data.framing import Framing
from src.data.image_folder import ImageFolder
from src.dataset import ImageData
from src.deployment.description import description_path
from src.deployment.exporter import ExportOptions, deployable, describe, export, write_description
from src.deployment.model_file import open_model
from src.deployment.prediction import ImageStream, decoding_workers, list_images, prepare_image
from src.errors import UserError
from src.mobilenetV2 import MobileNetV2
from src.normalisation import IMAGENET_PIXELS
from tests.support.foreign_weights import random_weights, renamed
from tools.benchmark import measure_inference

SIZE = 32
CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network as a checkpoint, as MINDIR of batch 4, and as ONNX of any batch with all inside."""
    folder = tmp_path_factory.mktemp("models")
    network = MobileNetV2(3, 0.35)
    weight = network.head.classifier.weight
    weight.set_data(Tensor(np.random.default_rng(5).standard_normal(weight.shape).astype(np.float32)))
    checkpoint = folder / "k.ckpt"
    write_checkpoint(checkpoint, {parameter.name: parameter for parameter in network.get_parameters()}, {},
                     CheckpointMetadata({"width_mult": 0.35, "image_size": SIZE}, CLASSES))
    found = {"checkpoint": checkpoint, "MINDIR": folder / "m.mindir", "ONNX": folder / "m.onnx"}
    model = open_model(config_for("--pretrain_ckpt", checkpoint))
    options = ExportOptions(SIZE, batch_size=4)
    export(deployable(read_checkpoint(checkpoint), model.config, options), options, found["MINDIR"])
    write_description(describe(found["MINDIR"], options, CLASSES, 3, {}), found["MINDIR"])
    options = ExportOptions(SIZE, batch_size=0, normalise=True, softmax=True)
    export(deployable(read_checkpoint(checkpoint), model.config, options), options, found["ONNX"], CLASSES)
    write_description(describe(found["ONNX"], options, CLASSES, 3, {}), found["ONNX"])
    return found


@pytest.fixture(scope="module")
def holiday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine good images of three colours and formats in folders of folders; not to be changed."""
    root = tmp_path_factory.mktemp("holiday")
    make_images(root, {"a/deep/blue": 3, "b/red": 2})
    make_images(root, {"b/green": 2}, ending=".PNG", size=(30, 70))
    make_images(root, {"c/green": 2}, ending=".bmp", seed=1)
    (root / ".hidden").mkdir()
    Image.new("RGB", (9, 9)).save(root / ".hidden" / "x.png")
    (root / "notes.md").write_text("not an image")
    return root


def needs_onnx_runtime(kind: str) -> None:
    if kind == "ONNX":
        pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, which requirements.txt names")


def call(module: object, *argv: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["x", "--platform", "CPU", *map(str, argv)])
        module.main()  # type: ignore[attr-defined]


def refusal(module: object, *argv: object) -> str:
    with pytest.raises(UserError) as error:
        call(module, *argv)
    assert "\n" not in str(error.value)
    return str(error.value)


def result(out: str) -> dict[str, float]:
    return ast.literal_eval(re.search(r"^result: (\{.*?\})", out, re.MULTILINE).group(1))


@pytest.mark.parametrize("kind", ["MINDIR", "ONNX"])
def test_eval_counts_the_same_on_an_exported_file(kind: str, models: dict[str, Path], photos: Path,
                                                  capsys: pytest.CaptureFixture) -> None:
    needs_onnx_runtime(kind)
    scores = {}
    for name in ("checkpoint", kind):
        call(evaluation, "--dataset_path", photos / "train", "--pretrain_ckpt", models[name], "--batch_size", 6)
        scores[name] = result(capsys.readouterr().out)
    assert scores[kind] == scores["checkpoint"]
    assert scores[kind]["images"] == 21


@pytest.mark.parametrize("kind", ["checkpoint", "MINDIR", "ONNX"])
def test_every_image_gets_the_answer_of_the_network(kind: str, models: dict[str, Path], holiday: Path,
                                                      tmp_path: Path) -> None:
    needs_onnx_runtime(kind)
    call(infer, "--model", models[kind], "--images", holiday, "--predictions", tmp_path / "out", "--batch_size", 2,
         "--top_k", 2)
    paths = list_images(str(holiday))
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open(encoding="utf-8")))
    assert [row["file"] for row in rows] == list(map(str, paths))
    assert len(rows) == 9

    network = open_model(config_for("--pretrain_ckpt", models["checkpoint"])).network()
    for row, path in zip(rows, paths, strict=True):
        (_, batch), = ImageStream([path], SIZE, 1, 1)
        logits = network(Tensor(batch)).asnumpy()[0].astype(np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum()
        assert row["class"] == CLASSES[logits.argmax()]
        assert float(row["probability"]) == pytest.approx(probabilities.max(), abs=2e-5)
        assert float(row["probability_2"]) == pytest.approx(np.sort(probabilities)[-2], abs=2e-5)
        assert row["error"] == ""
    told = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["classes"][0]["class"] for image in told["pictures"]] == [row["class"] for row in rows]
    with Image.open(tmp_path / "out" / "predictions.png") as sheet:
        assert sheet.width > 8 * 140


@pytest.fixture
def calibrated(models: dict[str, Path], holiday: Path, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """The checkpoint with a temperature of 3 and a threshold between the images, and the calibrated probabilities."""
    found = read_checkpoint(models["checkpoint"])
    network = open_model(config_for("--pretrain_ckpt", models["checkpoint"], "--cpu_kernels", "off")).network()
    (_, batch), = ImageStream(list_images(str(holiday)), SIZE, 9, 1)
    probabilities = Confidence(3.0).probabilities(network(Tensor(batch)).asnumpy())
    threshold = float(np.sort(probabilities.max(axis=1))[3:5].mean())
    path = tmp_path / "calibrated.ckpt"
    write_checkpoint(path, found.network, {}, CheckpointMetadata(found.config, CLASSES,
                                                                 confidence=Confidence(3.0, threshold)))
    return path, probabilities


def predicted(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_unsure_images_are_told_sorted_apart_and_explained(calibrated: tuple[Path, np.ndarray], holiday: Path,
                                                           tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model, probabilities = calibrated
    out, copies = tmp_path / "out", tmp_path / "sorted"
    call(infer, "--model", model, "--images", holiday, "--predictions", out, "--sort_into", copies, "--explain", True)
    said, rows = capsys.readouterr().out, predicted(out)
    assert list(rows[0])[-2:] == ["error", "unsure"]
    assert [row["unsure"] for row in rows].count("1") == 4
    surest = probabilities.max(axis=1)
    np.testing.assert_allclose([float(row["probability"]) for row in rows], surest, atol=2e-5)
    assert {row["unsure"] for row, value in zip(rows, surest, strict=True) if value < np.sort(surest)[4]} == {"1"}
    told = json.loads((out / "predictions.json").read_text())["pictures"]
    assert [image["unsure"] for image in told] == [row["unsure"] == "1" for row in rows]
    assert "sorted into" in said
    assert len(list((copies / "unsure").iterdir())) == 4
    for row in rows:
        folder = copies / ("unsure" if row["unsure"] == "1" else row["class"])
        assert Path(row["file"]).read_bytes() in {path.read_bytes() for path in folder.iterdir()}
    assert f"9 pictures of what speaks for the class: {out}/explained" in said
    pictures = sorted((out / "explained").iterdir())
    assert [path.name for path in pictures] == [f"{number:05d}-{path.stem}.jpg" for number, path in
                                                enumerate(list_images(str(holiday)), 1)]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (SIZE, SIZE)


@pytest.mark.parametrize("options", [("--tta", "flip"), ("--tta", "five_crop"), ("--crop_mode", "pad")], ids=str)
def test_explaining_follows_the_framing(options: tuple, calibrated: tuple[Path, np.ndarray], holiday: Path,
                                        tmp_path: Path) -> None:
    call(infer, "--model", calibrated[0], "--images", holiday, "--predictions", tmp_path, "--explain", True, *options)
    pictures = sorted((tmp_path / "explained").iterdir())
    assert len(pictures) == 9
    with Image.open(pictures[0]) as picture:
        assert picture.size == (SIZE, SIZE)


def test_exported_files_know_temperature_and_threshold(calibrated: tuple[Path, np.ndarray], holiday: Path,
                                                       tmp_path: Path) -> None:
    """In the JSON, and an ONNX file within itself. Softmax in the graph changes nothing."""
    needs_onnx_runtime("ONNX")
    model, probabilities = calibrated
    for softmax in False, True:
        exported = tmp_path / f"{softmax}.onnx"
        call(export_command, "--ckpt_file", model, "--file_format", "ONNX", "--file_name", exported,
             "--export_batch_size", 0, "--export_softmax", softmax)
        for has_json in True, False:
            if not has_json:
                description_path(exported).unlink()
            out = tmp_path / f"{softmax}-{has_json}"
            call(infer, "--model", exported, "--images", holiday, "--predictions", out)
            rows = predicted(out)
            np.testing.assert_allclose([float(row["probability"]) for row in rows], probabilities.max(axis=1),
                                       atol=1e-4)
            assert [row["unsure"] for row in rows].count("1") == 4


def test_a_model_without_a_threshold_calls_nothing_unsure(models: dict[str, Path], holiday: Path,
                                                          tmp_path: Path) -> None:
    call(infer, "--model", models["checkpoint"], "--images", holiday / "b", "--predictions", tmp_path)
    assert {row["unsure"] for row in predicted(tmp_path)} == {""}
    told = json.loads((tmp_path / "predictions.json").read_text())["pictures"]
    assert {image["unsure"] for image in told} == {None}


def test_what_cannot_be_done_is_refused_before_the_work(models: dict[str, Path], holiday: Path, tmp_path: Path) -> None:
    out = ("--predictions", tmp_path / "out", "--images", holiday)
    text = refusal(infer, "--model", models["MINDIR"], *out, "--explain", True)
    assert f"{models['MINDIR']}: --explain True needs the feature maps" in text
    text = refusal(infer, "--model", models["checkpoint"], *out, "--sort_into", holiday / "sorted")
    assert "a second run would take the copies for images" in text
    assert not (tmp_path / "out").exists()


def test_images_come_as_evaluation_shows_them(photos: Path) -> None:
    folder = ImageFolder.scan(photos / "val")
    shown = np.concatenate([images.asnumpy() for images, _ in ImageData(folder, SIZE, 4, training=False).epoch()])
    stream = ImageStream([folder.root / name for name in folder.files], SIZE, 4, 2)
    streamed = np.concatenate([images for _, images in stream])
    np.testing.assert_array_equal(streamed, shown[:len(folder)])


@pytest.mark.parametrize("framing", [Framing(), Framing("pad"), Framing("squash", interpolation="bicubic")], ids=str)
def test_one_image_alone_comes_as_in_a_stream(framing: Framing, holiday: Path, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 8
    Image.effect_noise((90, 60), 90).convert("RGB").save(tmp_path / "turned.jpg", exif=turned)
    Image.effect_noise((90, 60), 90).save(tmp_path / "x.webp")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    paths = [*list_images(str(holiday)), tmp_path / "turned.jpg", tmp_path / "x.webp"]
    for positions, images in ImageStream(paths, SIZE, 4, 2, framing=framing):
        for position, image in zip(positions, images, strict=True):
            alone = prepare_image(paths[position], SIZE, IMAGENET_PIXELS, tmp_path / "copies", framing)
            np.testing.assert_array_equal(alone, image)
    with pytest.raises(UserError, match="not an image"):
        prepare_image(tmp_path / "bad.jpg", SIZE, None, tmp_path / "copies")


def test_images_are_decoded_while_the_network_computes(photos: Path) -> None:
    asked = threading.Event()

    class Paths(list):
        def __getitem__(self, position: int) -> Path:
            if position == 5:
                asked.set()
            return super().__getitem__(position)

    stream = iter(ImageStream(Paths(list_images(str(photos / "train"))), SIZE, 1, 1))
    next(stream)
    assert asked.wait(60)  # the sixth is read though nobody asked for the second
    assert len(list(stream)) == 20


def test_broken_images_are_named_and_stop_nothing(models: dict[str, Path], images: Images, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture) -> None:
    root = images({"x": 3})
    (root / "x" / "0.jpg").write_text("no image")
    (root / "x" / "empty.png").touch()
    cut = (root / "x" / "000.jpg").read_bytes()
    (root / "x" / "cut.jpg").write_bytes(cut[:len(cut) // 3])
    (root / "x" / "cat.jpg").symlink_to("nowhere")
    listed = root / "list.txt"
    listed.write_text("".join(f"x/{name}\n" for name in ("0.jpg", "000.jpg", "empty.png", "001.jpg", "cut.jpg",
                                                         "cat.jpg", "002.jpg")) + "\n")
    before = sorted(Path.cwd().iterdir())
    with pytest.raises(SystemExit) as end:
        call(infer, "--model", models["checkpoint"], "--images", listed, "--predictions", tmp_path / "out")
    assert end.value.code == 1
    assert sorted(Path.cwd().iterdir()) == before  # MindSpore's decoder left nothing behind
    said = capsys.readouterr()
    assert "3 of 7 images classified" in said.out
    for name in ("0.jpg: not an image", "empty.png: empty", "cut.jpg: ", "cat.jpg: "):
        assert f"{root}/x/{name}" in said.err
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open(encoding="utf-8")))
    assert [bool(row["error"]) for row in rows] == [True, False, True, False, True, True, False]
    assert [bool(row["class"]) for row in rows] == [False, True, False, True, False, False, True]


def test_what_is_wrong_is_one_clear_line(models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    out = ("--predictions", tmp_path / "out")
    model = ("--model", models["checkpoint"])
    (tmp_path / "hollow").mkdir()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "list.txt").write_text("\n\n")
    (tmp_path / "data.bin").write_bytes(b"\xff\xfe\x00")
    assert "--images" in refusal(infer, *model, *out)
    assert "--pretrain_ckpt" in refusal(infer, "--images", photos, *out)
    assert "hollow: no images here" in refusal(infer, *model, "--images", tmp_path / "hollow", *out)
    assert "no such image" in refusal(infer, *model, "--images", tmp_path / "none", *out)
    assert "names no image" in refusal(infer, *model, "--images", tmp_path / "list.txt", *out)
    assert "neither an image nor" in refusal(infer, *model, "--images", tmp_path / "data.bin", *out)
    assert "text.jpg: not an image" in refusal(infer, *model, "--images", tmp_path / "text.jpg", *out)
    assert "no such checkpoint" in refusal(infer, "--model", tmp_path / "none", "--images", photos, *out)
    assert not (tmp_path / "out").exists()


def test_an_exported_file_of_other_classes_or_size_is_refused(models: dict[str, Path], photos: Path,
                                                              images: Images, tmp_path: Path) -> None:
    other = images({"blue": 1, "green": 1, "rad": 1, "red": 1})
    assert "the model does not know rad" in refusal(evaluation, "--dataset_path", other, "--pretrain_ckpt",
                                                    models["MINDIR"])
    bare = tmp_path / "bare.mindir"  # without its JSON
    bare.write_bytes(models["MINDIR"].read_bytes())
    text = refusal(evaluation, "--dataset_path", other, "--pretrain_ckpt", bare, "--image_size", SIZE, "--batch_size",
                   4)
    assert text == f"{bare}: knows 3 classes, but the images are of 4"
    text = refusal(evaluation, "--dataset_path", photos, "--pretrain_ckpt", models["MINDIR"], "--image_size", 64)
    assert "takes images of 32x32 pixels, not of 64x64" in text


@pytest.mark.parametrize(("kind", "values", "says"), [
    ("checkpoint", {"config": {"width_mult": "wide"}}, "its configuration: width_mult must be a number, not 'wide'"),
    ("checkpoint", {"config": {"image_size": 33}}, "its configuration: image_size must be a multiple of 32, not 33"),
    ("checkpoint", {"classes": ["blue", "red"]}, "has 3 classes, but the JSON beside it names 2"),
    ("MINDIR", {"classes": ["blue", "red"]}, "has 3 classes, but the JSON beside it names 2"),
    ("MINDIR", {"input": {"batch_size": -4}}, "input: batch_size must be 1 to 65536, or 'any'"),
])
def test_a_json_that_contradicts_its_file_is_one_line(kind: str, values: dict[str, object], says: str,
                                                      models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    model = tmp_path / models[kind].name
    model.write_bytes(models[kind].read_bytes())
    about, copy = (metadata_path(path) if kind == "checkpoint" else description_path(path)
                   for path in (models[kind], model))
    copy.write_text(json.dumps({**json.loads(about.read_text()), **values}))
    assert says in refusal(infer, "--model", model, "--images", photos / "val", "--predictions", tmp_path / "out")


def test_a_truncated_model_ends_the_command(models: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mindir"
    cut.write_bytes(models["MINDIR"].read_bytes()[:5000])
    (tmp_path / "cut.mindir.json").write_text((models["MINDIR"].parent / "m.mindir.json").read_text())
    run = run_script("infer.py", "--platform", "CPU", "--model", cut, "--images", photos, "--predictions",
                     tmp_path / "out")
    assert_one_clear_line(run, str(cut), "damaged")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("cores", "wanted", "computing", "workers"),
                         [(2, 2, 1, 1), (2, 2, 0, 2), (8, 32, 2, 6), (8, 3, 2, 3), (1, 2, 1, 1), (2, 2, 8, 1)])
def test_decoding_leaves_the_computing_threads_their_cores(cores: int, wanted: int, computing: int, workers: int,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert decoding_workers(wanted, computing) == workers


def test_the_benchmark_compares_with_onnx_runtime_alone(models: dict[str, Path]) -> None:
    needs_onnx_runtime("ONNX")
    found = measure_inference(str(models["ONNX"]), steps=1)
    assert found.keys() == {"batch_size", "image_size", "threads", "onnx_images_per_s", "infer_images_per_s"}
    assert min(found.values()) > 0


def test_weights_of_another_project_are_a_model(tmp_path: Path) -> None:
    """In a file as timm publishes it: the width is that of the weights, the classes are their numbers."""
    save_file(renamed(random_weights(), TIMM, TORCH), tmp_path / "model.safetensors")
    model = open_model(config_for("--model", tmp_path / "model.safetensors", "--cpu_kernels", "off"))
    assert (model.config.width_mult, model.class_names(4)) == (0.35, ("0", "1", "2", "3"))
    assert model.predictor(2)(np.ones((1, 3, 32, 32), np.float32)).shape == (1, 4)
    network = deployable(open_pretrained(tmp_path / "model.safetensors"), model.config, ExportOptions(32))
    assert network(Tensor(np.ones((1, 3, 32, 32), np.float32))).shape == (1, 4)
