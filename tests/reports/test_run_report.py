"""The report of a run and of an evaluation, the event files for TensorBoard, and the profile: of one tiny run."""
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest
from conftest import config_for, few_blocks, make_images
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support
from tensorboardX.proto.event_pb2 import Event

import eval as evaluation
import train
from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.confidence import ALL_UNSURE, Confidence, ConfidenceCheck
from src.errors import UserError
from src.metrics import MISTAKE, MOST_MISTAKES, class_scores
from src.model_utils.config import get_config
from src.models import define_net
from src.reports.best_evaluation import BestEvaluation
from src.reports.confidence_section import advice
from src.reports.evaluation_report import report_path
from src.reports.event_file import EventFile
from src.reports.provenance import changed_settings, repeating_command
from src.reports.report import Evaluated, Report, confused_pairs, write_report
from src.training.resume import lock_folder
from src.utils import network_parameters

# Class names are names of folders, which anybody may choose.
CLASSES = ("<b>&amp;", "<script>alert(1)", "zebra \" onerror='alert(1)'")
EPOCHS, STEPS = 4, 3


KEPT: list[Any] = []  # MindSpore takes a new cell for an old one that was at the same address


def call(main: Any, *argv: object) -> None:
    """A command's main in this process, which lets go of the folder that it has locked as the end of a process does."""
    locks: list[int] = []

    def keep(make: Any) -> Any:
        return lambda *given: KEPT.append(make(*given)) or KEPT[-1]

    with pytest.MonkeyPatch.context() as patch:
        for name in "train.define_net", "train.TrainStep", "src.deployment.model_file.define_net":
            module, _, make = name.rpartition(".")
            patch.setattr(name, keep(getattr(sys.modules[module], make)))
        patch.setattr(sys, "argv", ["train.py", "--platform", "CPU", "--cpu_kernels", "off", *map(str, argv)])
        patch.setattr("src.training.checkpointer.lock_folder", lambda folder: locks.append(lock_folder(folder)))
        try:
            main()
        finally:
            for lock in locks:
                os.close(lock)


class Run:
    """A classifier on a frozen backbone: stopped by a signal after the second epoch, then gone on with to the end."""

    def __init__(self, folder: Path) -> None:
        self.images = make_images(folder / "images", {
            **{f"train/{name}": 5 for name in CLASSES}, **{f"val/{name}": 4 for name in CLASSES}})
        for name in CLASSES:  # one image in all classes: wrong in all but one
            shutil.copy(self.images / "val" / CLASSES[0] / "000.jpg", self.images / "val" / name / "the same.jpg")
        network = define_net(config_for("--width_mult", 0.35), len(CLASSES))
        self.backbone = folder / "backbone.ckpt"
        write_checkpoint(self.backbone, network_parameters(network), {},
                         CheckpointMetadata({"width_mult": 0.35, "image_size": 32}, CLASSES))
        self.folder = folder / "run"
        self.stopped_page = self.begin()
        self.train(*self.options())
        self.page = (self.folder / "report.html").read_text(encoding="utf-8")
        self.last = read_checkpoint(self.folder / "last.ckpt")
        assert self.last.training
        self.training = self.last.training

    def options(self) -> tuple[object, ...]:
        return ("--save_checkpoint_path", self.folder, "--tensorboard", "--enable_profiling", "--profiling_steps", 2)

    def train(self, *argv: object, epochs: int = EPOCHS) -> None:
        call(train.main, "--dataset_path", self.images, "--pretrain_ckpt", self.backbone, "--freeze_layer",
             "backbone", "--image_size", 32, "--batch_size", 5, "--epoch_size", epochs, "--log_steps", 2, *argv)

    def begin(self) -> str:
        """The report of the run when it was stopped."""
        scores = []

        def evaluate_and_stop(*argv: Any) -> Any:
            scores.append(train_evaluate(*argv))
            if len(scores) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return scores[-1]

        train_evaluate = train.evaluate
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "evaluate", evaluate_and_stop)
            with pytest.raises(SystemExit) as stopped:
                self.train(*self.options())
        assert stopped.value.code == 143
        return (self.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    with few_blocks():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("report"))


def text_of(page: str) -> str:
    """What a reader sees of a page; only valid HTML passes."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    tree = parser.parse(page)
    tree.find("head").remove(tree.find("head/style"))
    return " ".join(" ".join(tree.itertext()).split())


def elements(page: str, name: str) -> list[Any]:
    return list(html5lib.parse(page, namespaceHTMLElements=False).iter(name))


# ---- the report of a run

def test_it_tells_what_the_run_was(run: Run) -> None:
    text = text_of(run.page)
    best = max(run.training.history, key=lambda row: row["top1"])
    assert "MobileNetV2 on images" in text
    assert f"Finished after {EPOCHS * STEPS} steps" in text
    assert f"top-1, best epoch {best['top1']:.2%}" in text
    assert f"epochs {EPOCHS} of {EPOCHS}" in text
    assert "training images a second" in text
    for part in ("waiting for data", "first step, with compilation", "steps", "evaluation", "checkpoints"):
        assert re.search(rf"{part} \d+\.\d \d+\.\d%", text), part
    for name in ("MindSpore 2.", "Python 3.", "numpy 1.", "CPU kernels off", "Processor", "Operating system"):
        assert name in text


def test_a_stopped_run_has_a_report_and_a_resumed_one_the_whole_history(run: Run) -> None:
    stopped = text_of(run.stopped_page)
    assert f"Stopped after {2 * STEPS} of {EPOCHS * STEPS} steps; the same command goes on from there" in stopped
    assert f"epochs 2 of {EPOCHS}" in stopped
    assert [row["epoch"] for row in run.training.history] == [1, 2, 3, 4]
    rows = [[cell.text for cell in row.iter("td")] for row in elements(run.page, "tbody")[0]]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    for row, told in zip(run.training.history, rows, strict=True):
        assert [float(cell) for cell in told] == pytest.approx(list(row.values()), rel=1e-4)


def test_names_of_classes_are_text(run: Run) -> None:
    assert elements(run.page, "script") == []
    assert not any(name.startswith("on") for element in html5lib.parse(run.page, namespaceHTMLElements=False).iter()
                   for name in element.attrib)
    for name in CLASSES:
        assert " ".join(name.split()) in text_of(run.page)


def test_it_needs_nothing_but_itself_and_says_what_its_images_show(run: Run) -> None:
    images = elements(run.page, "img")
    assert len(images) >= 3 + 2  # the curves, and the mistakes that are sure to be made
    for image in images:
        assert image.attrib["src"].startswith("data:image/")
        assert len(image.attrib["alt"]) > 5
    assert not re.search(r"https?:|@import|url\(", run.page)
    assert "default-src 'none'" in run.page
    for table in elements(run.page, "table"):
        assert all("scope" in header.attrib for header in table.iter("th"))
    assert len(run.page) < 600_000


def test_the_matrix_and_the_classes_are_those_of_the_best_epoch(run: Run) -> None:
    best = BestEvaluation.load(run.folder / "best.npz", run.training.run_id, run.training.history, len(CLASSES), "top1")
    assert best
    assert np.trace(best.confusion) / best.confusion.sum() == run.training.best_top1
    assert best.confusion.sum() == 5 * len(CLASSES)
    matrix, = (table for table in elements(run.page, "table") if table.attrib.get("class") == "matrix")
    told = [[int(cell.text or 0) for cell in row.iter("td")] for row in matrix.find("tbody")]
    assert told == best.confusion.tolist()
    assert len(best.mistakes) == best.confusion.sum() - np.trace(best.confusion) > 1
    for mistake, file in zip(best.mistakes, best.files, strict=True):
        assert file.startswith(CLASSES[mistake["label"]] + "/")
        assert (run.images / "val" / file).is_file()


def test_temperature_and_threshold_are_kept_with_the_best_weights_and_in_the_report(run: Run) -> None:
    best = read_checkpoint(run.folder / "best.ckpt")
    kept = BestEvaluation.load(run.folder / "best.npz", run.training.run_id, run.training.history, len(CLASSES), "top1")
    assert kept
    assert kept.confidence
    assert best.confidence == kept.confidence.confidence
    assert len(kept.confidence.right) == 5 * len(CLASSES)
    assert kept.confidence.right.mean() == pytest.approx(kept.top1)
    text = text_of(run.page)
    assert "How sure it is" in text
    assert f"At temperature {best.confidence.temperature:.3g} they miss it by {kept.confidence.after.ece:.1%}" in text
    assert "These are 15 images, so the figures are rough" in text
    assert "fitted on the same images that chose the epoch" in text
    assert advice(kept.confidence) in text


def test_mistakes_have_a_picture_of_what_speaks_for_the_wrong_class(run: Run) -> None:
    best = BestEvaluation.load(run.folder / "best.npz", run.training.run_id, run.training.history, len(CLASSES), "top1")
    assert best
    explained = [image.attrib["alt"] for image in elements(run.page, "img")
                 if image.attrib["alt"].startswith("The parts of it that speak for")]
    assert best.confidence
    calibrated = best.confidence.calibrated_at(best.mistakes["position"])
    assert calibrated is not None
    order = np.argsort(-calibrated, kind="stable")
    assert explained == [f"The parts of it that speak for {CLASSES[best.mistakes['predicted'][i]]}" for i in order]
    told = [float(share) for share in re.findall(r"</span> ([\d.]+)%<br>", run.page)]
    assert told == [round(100 * float(calibrated[i]), 1) for i in order]


def test_a_file_of_an_earlier_version_has_no_confidence(run: Run, tmp_path: Path) -> None:
    with np.load(run.folder / "best.npz") as file:
        values = {name: file[name] for name in file.files}
    names = "temperature", "target", "unsure_below", "positions", "raw", "calibrated", "right"
    args = run.training.run_id, run.training.history, len(CLASSES), "top1"
    np.savez(tmp_path / "old.npz", **{name: value for name, value in values.items() if name not in names})
    old = BestEvaluation.load(tmp_path / "old.npz", *args)
    assert old
    assert old.confidence is None
    for name, value in (("temperature", -1.0), ("raw", values["raw"][1:]), ("right", values["raw"])):
        np.savez(tmp_path / "bad.npz", **{**values, name: np.array(value)})
        assert BestEvaluation.load(tmp_path / "bad.npz", *args) is None


def test_the_command_in_it_makes_the_same_configuration(run: Run) -> None:
    command = elements(run.page, "code")[0].text
    folder, line = command.splitlines()
    assert folder == f"cd {Path.cwd()}"
    again = get_config(shlex.split(line)[2:]).as_dict()
    assert again == run.last.config
    assert {"epoch_size", "freeze_layer", "image_size"} <= changed_settings(get_config(shlex.split(line)[2:])).keys()


def test_a_finished_run_tells_what_to_do_next(run: Run) -> None:
    assert "What next" not in text_of(run.stopped_page)
    best = run.folder / "best.ckpt"
    # The last block is the command of the section after it, "Do it again".
    configs = [get_config(shlex.split(str(block.text))[2:]) for block in elements(run.page, "pre")[:-1]]
    classify, score, serve, export, whole = configs
    assert {config.pretrain_ckpt for config in (classify, score, serve, export)} == {str(best)}
    assert serve.serve
    assert (whole.freeze_layer, whole.filter_head, whole.recipe) == ("none", True, "best")
    assert (whole.dataset_path, whole.pretrain_ckpt) == (str(run.images), str(run.backbone))
    assert whole.save_checkpoint_path != str(run.folder)


@pytest.mark.parametrize("options", [
    ("--dataset_path", "a folder's $(name) & more", "--flip", "0"),
    ("--recipe", "best", "--eval_dataset_path=-x", "--momentum", "0.1"),
])
def test_any_configuration_comes_back_from_its_command(options: tuple[str, ...]) -> None:
    config = config_for(*options)
    line = repeating_command(config, Path("train.py")).splitlines()[1]
    assert get_config(shlex.split(line)[2:]).as_dict() == config.as_dict()


def test_without_validation_it_leaves_those_parts_out_and_says_so(run: Run, tmp_path: Path) -> None:
    run.train("--run_eval", False, "--save_checkpoint_path", tmp_path, epochs=1)
    text = text_of((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "No image was scored" in text
    assert "Confusion matrix" not in text
    assert "Loss" in text
    assert len(elements((tmp_path / "report.html").read_text(encoding="utf-8"), "img")) == 2  # no accuracy
    assert not (tmp_path / "best.npz").exists()


def test_a_report_that_cannot_be_written_costs_no_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture) -> None:
    def full(report: Report, path: Path, mark: str) -> None:
        raise UserError(f"{path}: no space left")

    monkeypatch.setattr("src.training.reporter.write_report", full)
    run.train("--run_eval", False, "--save_checkpoint_path", tmp_path, epochs=1)
    assert "warning: the run is saved, but not its report" in capsys.readouterr().err
    assert (tmp_path / "last.ckpt").is_file()


def test_what_is_kept_of_the_best_epoch_must_be_this_runs(run: Run, tmp_path: Path) -> None:
    path, run_id, history = run.folder / "best.npz", run.training.run_id, run.training.history
    better = [*history, {**history[-1], "top1": 2.0}]
    for other in ("another", history), (run_id, []), (run_id, better):
        assert BestEvaluation.load(path, *other, len(CLASSES), "top1") is None
    assert BestEvaluation.load(path, run_id, history, len(CLASSES) + 1, "top1") is None
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:200])
    for damaged in "cut.npz", "missing.npz":
        assert BestEvaluation.load(tmp_path / damaged, run_id, history, len(CLASSES), "top1") is None


# ---- the report of an evaluation

def test_evaluation_writes_one_too(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "out" / "score.html"
    call(evaluation.main, "--dataset_path", run.images, "--pretrain_ckpt", run.folder / "best.ckpt", "--report", path)
    assert f"report: {path}" in capsys.readouterr().out
    page = path.read_text(encoding="utf-8")
    text = text_of(page)
    assert "best.ckpt on images" in text
    assert f"top-1 {run.training.best_top1:.2%}" in text
    assert f"images {5 * len(CLASSES)}" in text
    assert "Confusion matrix" in text
    assert "Curves" not in text
    assert "waiting for data" not in text
    assert elements(page, "script") == []
    assert "those that the model has from its training" in text
    assert any(image.attrib["alt"].startswith("The parts of it that speak for") for image in elements(page, "img"))


@pytest.mark.parametrize(("threshold", "says"), [
    (0.0, "infer.py calls no image unsure: of all answers here 60.0% are right; 80% are wanted"),
    (ALL_UNSURE, "Look at every answer yourself"),
    (0.7, "probability is 70.0% or more: 40.0% of the images reach that, and 100.0% of these answers are right"),
    (0.95, "probability is 95.0% or more: 0.0% of the images reach that, and 80% are wanted"),
])
def test_the_advice_is_what_to_do(threshold: float, says: str) -> None:
    calibrated, right = np.array([0.9, 0.8, 0.6, 0.5, 0.4], np.float32), np.array([True, True, False, True, False])
    check = ConfidenceCheck(Confidence(1.0, threshold), False, 0.8, np.arange(5), calibrated, calibrated, right)
    assert says in advice(check)


@pytest.mark.parametrize(("given", "path"), [
    ("", None), ("False", None), ("True", "report.html"), ("true", "report.html"), ("/a/True", "/a/report.html"),
    ("mine.html", "mine.html"), ("/a/mine.html", "/a/mine.html")])
def test_it_goes_where_the_option_says(given: str, path: str | None) -> None:
    assert report_path(config_for("--report", given)) == (Path(path) if path else None)


# ---- its figures

@settings(max_examples=30, deadline=None)  # the first one loads the library
@given(st.integers(1, 6).flatmap(lambda c: arrays(np.int64, (c, c), elements=st.integers(0, 5))).filter(np.any))
def test_scores_of_classes_are_scikit_learns(confusion: np.ndarray) -> None:
    labels, predicted = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices(confusion.shape))
    wanted = precision_recall_fscore_support(labels, predicted, labels=range(len(confusion)), zero_division=0)[:3]
    np.testing.assert_allclose(class_scores(confusion), np.stack(wanted, axis=1))


def test_the_most_confused_pairs() -> None:
    assert confused_pairs(np.array([[9, 2, 0], [3, 9, 0], [0, 2, 9]])) == [(1, 0, 3), (0, 1, 2), (2, 1, 2)]
    assert confused_pairs(np.eye(3, dtype=np.int64)) == []


def large_report(root: Path, classes: int) -> Report:
    """Of ImageNet's size, with as many large mistakes as are shown."""
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (900, 1200, 3)).astype(np.uint8)).save(root / "noise.png")
    confusion = np.eye(classes, dtype=np.int64) * 35
    np.add.at(confusion, (random.integers(0, classes, 15 * classes), random.integers(0, classes, 15 * classes)), 1)
    mistakes = np.zeros(MOST_MISTAKES, MISTAKE)
    mistakes["predicted"], mistakes["probability"] = 1, np.linspace(0.99, 0.5, MOST_MISTAKES)
    evaluated = Evaluated("a test", [f"n{i:08d} {'long ' * 8}" for i in range(classes)], confusion, mistakes, root,
                          ["noise.png"] * (MOST_MISTAKES - 1) + ["gone \udcff.png"])
    return Report(title="Large " + "x" * 200, state="", facts={"top-1": "70 %"}, settings={"a": 1, "b": "y" * 300},
                  changed={"b": "y" * 300}, command="python train.py " + "z" * 300, environment={"Python": "3"},
                  history=[{"epoch": i + 1, "loss": 1 / (i + 1), "lr": 0.1} for i in range(300)], evaluated=evaluated)


def test_many_classes_make_an_image_without_numbers_and_no_large_file(tmp_path: Path) -> None:
    write_report(large_report(tmp_path, 1000), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert not any(table.attrib.get("class") == "matrix" for table in elements(page, "table"))
    assert sum("heat" in image.attrib.get("class", "") for image in elements(page, "img")) == 1
    assert "Most confused classes" in text
    assert text.count("cannot be read any more") == 1
    assert "gone \\xff.png" in text
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    assert len(elements(page, "figure")) == MOST_MISTAKES + 2


def test_no_mistake_is_told_too(tmp_path: Path) -> None:
    report = large_report(tmp_path, 2)
    assert report.evaluated
    perfect = dataclasses.replace(report.evaluated, confusion=np.eye(2, dtype=np.int64), files=(),
                                  mistakes=np.empty(0, MISTAKE))
    write_report(dataclasses.replace(report, evaluated=perfect), tmp_path / "report.html")
    text = text_of((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "None: a test classified every image rightly" in text
    assert "Most confused" not in text


# ---- in a browser

def show(browser: Any, page: Path, width: int, scheme: str = "light") -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    browser.get(page.as_uri())


@pytest.mark.parametrize("which", ["of the run", "large"])
def test_a_browser_shows_all_of_it(browser: Any, run: Run, which: str, tmp_path: Path) -> None:
    page = run.folder / "report.html"
    if which == "large":
        page = tmp_path / "report.html"
        write_report(large_report(tmp_path, 200), page)
    browser.get_log("performance")  # what it did before
    show(browser, page, 1200)
    sizes = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])")
    assert len(sizes) >= 5
    assert all(complete and natural > 0 and shown > 20 for complete, natural, shown in sizes)
    assert browser.execute_script("return document.scripts.length") == 0
    for width in 400, 1200:
        show(browser, page, width)
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    requests = [message["params"]["request"]["url"] for entry in browser.get_log("performance")
                if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in requests
    outside = {url for url in requests if not url.startswith(("data:", "chrome:"))}  # chrome: is the browser itself
    assert outside == {page.as_uri()}
    assert browser.get_log("browser") == []  # no error, nothing that the page's own policy refused


def test_it_follows_the_readers_light_or_dark(browser: Any, run: Run) -> None:
    script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    brightness = {}
    for scheme in "light", "dark":
        show(browser, run.folder / "report.html", 1200, scheme)
        brightness[scheme] = [sum(map(int, re.findall(r"\d+", colour)[:3]))
                              for colour in browser.execute_script(script)]
    (light_page, light_ink), (dark_page, dark_ink) = brightness["light"], brightness["dark"]
    assert light_page > 600 > 200 > light_ink
    assert dark_page < 200 < 600 < dark_ink


# ---- event files

def events(folder: Path) -> dict[str, dict[int, float]]:
    """Curves by name as TensorBoard reads them: records of length, checksum, event, checksum; a later part of a run
    purges what the part before it wrote of the same steps.
    """
    curves: dict[str, dict[int, float]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while len(content) > 16:  # a full disk may have cut the last one
            length, = struct.unpack("<Q", content[:8])
            if len(content) < 16 + length:
                break
            event = Event.FromString(content[12:12 + length])
            content = content[16 + length:]
            if event.HasField("session_log"):
                curves = {name: {step: value for step, value in curve.items() if step < event.step}
                          for name, curve in curves.items()}
            for value in event.summary.value:
                curves.setdefault(value.tag, {})[event.step] = value.simple_value
    return curves


def test_event_files_hold_the_curves_of_both_parts_of_the_run(run: Run) -> None:
    curves = events(run.folder / "tensorboard")
    for name in "loss", "lr", "val_loss", "top1", "top5":
        wanted = {row["epoch"] * STEPS: row[name] for row in run.training.history}
        assert curves[f"epoch/{name}"] == pytest.approx(wanted, rel=1e-6), name
    assert sorted(curves["step/loss"]) == [2, 3, 5, 6, 8, 9, 11, 12]  # where the log has a line
    assert curves["step/lr"][12] == pytest.approx(run.training.history[-1]["lr"])


def test_a_full_disk_ends_the_event_file_and_not_the_run(small_disk: Path, capsys: pytest.CaptureFixture) -> None:
    file = EventFile(small_disk / "events", 0)
    file.write(1, {"loss": 1.0})
    (small_disk / "filler").write_bytes(bytes(2 ** 20 - 16 * 1024))
    for step in range(2, 1000):
        file.write(step, {"loss": 1.0})
    assert capsys.readouterr().err.count("no more event files, training goes on") == 1
    assert events(small_disk / "events")["loss"][1] == 1.0


def test_a_missing_library_is_told_in_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        run.train("--tensorboard", True, "--save_checkpoint_path", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- the profile

def test_the_profile_tells_where_the_time_of_some_steps_goes(run: Run) -> None:
    text = (run.folder / "profile" / "summary.txt").read_text()
    assert re.match(r"2 batches profiled, \d+\.\d ms each, of which \d+\.\d% waiting for data\n", text)
    rows = re.findall(r"^ +([\d.]+)% +([\d.]+) +([\d.]+)  (\S+)$", text, re.MULTILINE)
    kinds, operators = rows[:10], rows[10:]
    assert {"MatMul"} <= {name for *_, name in kinds} | {name.rpartition("/")[2][:6] for *_, name in operators}
    for part in kinds, operators:
        shares = [float(share) for share, *_ in part]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 100.5
    assert all(float(calls) >= 0.5 for _, _, calls, _ in kinds)  # of two batches
    assert list((run.folder / "profile").rglob("trace_view.json"))
