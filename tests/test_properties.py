"""Whatever a file holds, reading it ends in an answer or in one line for people, never in a traceback."""
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, config_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mindspore import Parameter, Tensor

from postprocess import read_labels
from src.checkpoint.file import read_checkpoint, write_checkpoint
from src.checkpoint.names import metadata_path
from src.checkpoint.record import CheckpointMetadata, write_metadata
from src.checkpoint.retention import CheckpointFolder, Retention
from src.checkpoint.torch_file import read_torch_file
from src.deployment.description import Description, description_path, read_description, unpack_metadata
from src.deployment.model_file import ModelFile
from src.deployment.runtime import ExportedNetwork
from src.distributed.rank_table import RankTableError, check_rank_table
from src.errors import UserError
from src.model_utils.config import BASE_FILE, get_config
from src.modelarts.lock import JobLock
from src.reports.figures import curve_svgs, draw_curves
from src.training.resume import Run, find_checkpoint
from src.training.state import TrainingState
from tools import make_label_file

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
                    | st.just("\ud800"),
                    lambda inner: (st.lists(inner, max_size=4)
                                   | st.dictionaries(st.text(max_size=12), inner, max_size=4)),
                    max_leaves=12)
QUICK = settings(max_examples=150, deadline=None, derandomize=True,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])
KEYS = [line.partition(":")[0] for line in BASE_FILE.read_text().split("\n---")[0].splitlines()
        if line and line[0].isalpha()]
TINY = ROOT / "tests" / "fixtures" / "tiny.onnx"
RANK_TABLE = {"version": "1.0", "server_count": "1", "status": "completed", "server_list": [{
    "server_id": "10.0.0.1", "host_nic_ip": "reserve",
    "device": [{"device_id": str(n), "device_ip": f"192.1.1.{n}", "rank_id": str(n)} for n in range(2)]}]}


@contextmanager
def file_of(content: bytes, suffix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        yield path


def one_line(read: Callable[[], object], error: type[Exception] = UserError) -> bool:
    """Whether reading succeeded; if not, it must say so in one line."""
    try:
        read()
    except error as fault:
        assert str(fault)
        assert "\n" not in str(fault)
        return False
    return True


@QUICK
@given(st.binary(max_size=200) | st.text(alphabet="a:- \n[]{}&*!|>'\"#%@,?1", max_size=80).map(str.encode)
       | st.sampled_from([20, 2000]).map(lambda depth: b"a: " + b"[" * depth)
       | st.sampled_from([b"a: 2001-99-99", b"a: !!int x", b"a: !!python/object:os.system x", b"a: *b", b"? [a]\n: 1",
                          b"seed: !!bool perhaps", b"seed: !!timestamp x", b"seed: !!int ''", b"report: \"a\\0b\"",
                          b"report: \"\\ud800\"", b"seed: 1e400", b"seed: " + b"9" * 5000]))
def test_any_configuration_file_is_read_or_refused_in_one_line(content: bytes) -> None:
    with file_of(content, ".yaml") as path:
        one_line(lambda: get_config(["--config_path", str(path)]))


@QUICK
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(values: dict[str, object]) -> None:
    with file_of(json.dumps(values).encode(), ".yaml") as path:
        if one_line(lambda: get_config(["--config_path", str(path)])):
            config = get_config(["--config_path", str(path)])
            defaults = get_config([])
            assert all(type(getattr(config, key)) is type(getattr(defaults, key)) for key in values)


@QUICK
@given(st.lists(st.text(max_size=12) | st.sampled_from([f"--{key}" for key in KEYS]), max_size=4))
def test_any_command_line_is_read_or_refused_in_one_line(arguments: list[str]) -> None:
    if not {"-h", "--help"} & set(arguments):
        one_line(lambda: get_config(arguments))


@QUICK
@given(st.dictionaries(st.sampled_from(("classes", "centre_crop", "normalise", "output")),
                       st.text() | JSON.map(json.dumps)))
def test_any_metadata_of_an_onnx_file(texts: dict[str, str]) -> None:
    one_line(lambda: unpack_metadata(texts, "m.onnx"))


@QUICK
@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=100)
       | st.sampled_from([20, 5000]).map(lambda depth: b"[" * depth))
def test_any_rank_table_is_read_or_refused_in_one_line(content: bytes) -> None:
    with file_of(content, ".json") as path:
        one_line(lambda: check_rank_table(path, [0, 1]), RankTableError)


@QUICK
@given(st.sampled_from(["version", "server_count", "server_list", "status"]), JSON,
       st.sampled_from(["device_id", "device_ip", "rank_id"]), JSON | st.just("9" * 5000))
def test_any_part_of_a_rank_table(outer: str, outer_value: object, inner: str, inner_value: object) -> None:
    for table in ({**RANK_TABLE, outer: outer_value}, json.loads(json.dumps(RANK_TABLE))):
        if table.get(outer) == RANK_TABLE[outer]:
            table["server_list"][0]["device"][0][inner] = inner_value
        with file_of(json.dumps(table).encode(), ".json") as path:
            one_line(lambda: check_rank_table(path, [0, 1]), RankTableError)


@QUICK
@given(st.binary(max_size=200) | st.text(alphabet="a/:. 019-\n\\", max_size=60).map(str.encode)
       | st.just(b"a.jpg:" + b"9" * 5000))
def test_any_label_file_is_read_or_refused_in_one_line(content: bytes) -> None:
    with file_of(content, ".txt") as path:
        one_line(lambda: read_labels(path))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "k.ckpt"
    values = {f"backbone.{n}": Parameter(Tensor(np.full((n + 1, 3), n, np.float32))) for n in range(6)}
    write_checkpoint(path, values, {}, CheckpointMetadata())
    return path


def test_a_checkpoint_cut_at_every_byte(checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    for length in range(len(whole)):
        with file_of(whole[:length], ".ckpt") as path:
            path.with_suffix(".json").write_bytes(checkpoint.with_suffix(".json").read_bytes())
            assert not one_line(lambda path=path: read_checkpoint(path)), length


@QUICK
@given(st.data())
def test_any_flipped_bit_of_a_checkpoint(checkpoint: Path, data: st.DataObject) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with file_of(bytes(content), ".ckpt") as path:
        path.with_suffix(".json").write_bytes(checkpoint.with_suffix(".json").read_bytes())
        assert not one_line(lambda: read_checkpoint(path))


@QUICK
@given(st.binary(max_size=300))
def test_any_file_as_a_checkpoint(content: bytes) -> None:
    with file_of(content, ".ckpt") as path:
        one_line(lambda: read_checkpoint(path))


@QUICK
@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"\x80\x02" + tail + b"."))
def test_any_file_as_a_torch_file(content: bytes) -> None:
    with file_of(content, ".pth") as path:
        one_line(lambda: read_torch_file(path))


# ---- JSON

def ways_in(value: object, way: tuple = ()) -> Iterator[tuple]:
    """The keys and positions that lead to each part of a JSON value."""
    yield way
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from ways_in(part, (*way, key))


@st.composite
def changed(draw: st.DrawFn, valid: object) -> object:
    """A JSON value with one part replaced or taken out."""
    *way, last = draw(st.sampled_from([way for way in ways_in(valid) if way]))
    value = owner = json.loads(json.dumps(valid))
    for key in way:
        owner = owner[key]
    if draw(st.booleans()) and isinstance(owner, dict):
        del owner[last]
    else:
        owner[last] = draw(JSON | st.sampled_from([-1, 0, 1.5, 10 ** 30, math.nan, math.inf, "", True, None, [], {}]))
    return value


CONFIG = config_for("--epoch_size", 3, "--width_mult", 0.35)
RUN = Run(CONFIG, ("a", "b"), "digest", 1, 5)
ROW = {"epoch": 1, "loss": 1.0, "lr": 0.1, "val_loss": 2.0, "top1": 0.5, "top5": 1.0}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The JSON of a checkpoint of a run, after its first epoch."""
    path = tmp_path_factory.mktemp("described") / "k.ckpt"
    write_metadata(RUN.metadata(TrainingState(5, [], [ROW])), path)
    return {**json.loads(metadata_path(path).read_text()), "sha256": ""}


@contextmanager
def checkpoint_with(checkpoint: Path, values: object) -> Iterator[Path]:
    """A folder with a checkpoint as a run writes it, and these values as its JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mobilenetv2-1_5.ckpt"
        path.write_bytes(checkpoint.read_bytes())
        metadata_path(path).write_text(json.dumps(values))
        yield path


def test_the_unchanged_json_is_resumed_from(checkpoint: Path, described: dict[str, object]) -> None:
    with checkpoint_with(checkpoint, described) as path:
        assert find_checkpoint(RUN, path.parent).training.history == [ROW]


@QUICK
@given(st.data())
def test_any_json_beside_a_checkpoint(checkpoint: Path, described: dict[str, object], data: st.DataObject) -> None:
    """It is read, adopted from and resumed from, as commands do it, or refused in one line."""
    with checkpoint_with(checkpoint, data.draw(changed(described) | JSON)) as path:
        if not one_line(lambda: read_checkpoint(path)):
            return
        found = read_checkpoint(path)
        one_line(lambda: CONFIG.adopt(found.config, "image_size", "width_mult", where=path))
        assert found.classes is None or all(isinstance(name, str) for name in found.classes)
        if found.training and RUN.difference(found.metadata) is None:
            RUN.remarks(found.metadata)
            CheckpointFolder(path.parent, Retention(1, 1, 1)).attach(found)
            assert 0 <= TrainingState.of(found.training).step <= RUN.total_steps


@QUICK
@given(st.data())
def test_a_run_begins_whatever_its_folder_holds(checkpoint: Path, described: dict[str, object],
                                                data: st.DataObject) -> None:
    with checkpoint_with(checkpoint, data.draw(changed(described) | JSON)) as path:
        found = find_checkpoint(RUN, path.parent)
        assert found is None or RUN.difference(found.metadata) is None


def test_a_json_that_lacks_the_step_costs_only_that_checkpoint(checkpoint: Path, described: dict[str, object],
                                                               capsys: pytest.CaptureFixture) -> None:
    with checkpoint_with(checkpoint, described) as path:
        newer = path.with_name("mobilenetv2-2_5.ckpt")
        newer.write_bytes(path.read_bytes())
        metadata_path(newer).write_text(json.dumps({"run": "x", "config": {}, "classes": ["a", "b"]}))
        with pytest.raises(UserError, match="not the description of a checkpoint: training: step is missing"):
            read_checkpoint(newer)
        assert find_checkpoint(RUN, path.parent).path == path
        assert "set aside as mobilenetv2-2_5.ckpt.damaged" in capsys.readouterr().out


@settings(QUICK, max_examples=20)
@given(st.lists(st.floats(), min_size=10, max_size=10))
def test_any_history_has_curves(numbers: list[float]) -> None:
    history = [dict(zip(ROW, [epoch, *numbers[5 * epoch - 5:5 * epoch]], strict=True)) for epoch in (1, 2)]
    with file_of(b"", ".png") as path:
        draw_curves(history, path)
    curve_svgs(history)


class ThreeZeros:
    """Computes nothing."""

    image_size: int | None = 32
    batch_size, best_batch_size = 0, 4
    description = Description()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 3), np.float32)


@QUICK
@given(st.data())
def test_any_description_of_an_exported_network(data: st.DataObject) -> None:
    with file_of(b"", ".onnx") as path:
        valid = json.loads(description_path(TINY).read_text())
        description_path(path).write_text(json.dumps(data.draw(changed(valid) | JSON)))
        one_line(lambda: make_label_file.model_classes(path))
        if one_line(lambda: read_description(path)):
            network = ExportedNetwork(ThreeZeros(), read_description(path) or Description(), path, 32)
            one_line(lambda: network.logits(np.zeros((3, 3, network.image_size, 32), np.float32)))
            one_line(lambda: ModelFile(path, network, CONFIG).class_names(3))


@QUICK
@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=100) | st.just(b"[" * 5000))
def test_any_notes_of_another_process(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        lock = JobLock("job", 1)
        lock.join()
        notes, = Path(folder).glob("*.notes")
        notes.write_bytes(content)
        assert isinstance(lock.noted("data"), str | None)
        lock.note("data", "told")
        assert lock.noted("data") == "told"
        lock.leave()


def test_nothing_here_writes_beside_the_checkpoint(checkpoint: Path) -> None:
    assert {path.name for path in checkpoint.parent.iterdir()} == {"k.ckpt", "k.json"}
