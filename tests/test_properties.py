"""Whatever a file holds, reading it ends in an answer or in one line for people, never in a traceback."""
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mindspore import Parameter, Tensor

from postprocess import read_labels
from src.checkpoint import file_digest, read_checkpoint, write_checkpoint
from src.checkpoint_metadata import CheckpointMetadata
from src.errors import UserError
from src.model_utils.config import BASE_FILE, get_config
from src.model_utils.rank_table import RankTableError, check_rank_table
from src.torch_file import read_torch_file

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                    lambda inner: (st.lists(inner, max_size=4)
                                   | st.dictionaries(st.text(max_size=12), inner, max_size=4)),
                    max_leaves=12)
QUICK = settings(max_examples=150, deadline=None, derandomize=True,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])
KEYS = [line.partition(":")[0] for line in BASE_FILE.read_text().split("\n---")[0].splitlines()
        if line and line[0].isalpha()]
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
       | st.sampled_from([b"a: 2001-99-99", b"a: !!int x", b"a: !!python/object:os.system x", b"a: *b", b"? [a]\n: 1"]))
def test_any_configuration_file(content: bytes) -> None:
    with file_of(content, ".yaml") as path:
        one_line(lambda: get_config(["--config_path", str(path)]))


@QUICK
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_any_value_of_any_key(values: dict[str, object]) -> None:
    with file_of(json.dumps(values).encode(), ".yaml") as path:
        if one_line(lambda: get_config(["--config_path", str(path)])):
            config = get_config(["--config_path", str(path)])
            defaults = get_config([])
            assert all(type(getattr(config, key)) is type(getattr(defaults, key)) for key in values)


@QUICK
@given(st.lists(st.text(max_size=12) | st.sampled_from([f"--{key}" for key in KEYS]), max_size=4))
def test_any_command_line(arguments: list[str]) -> None:
    if not {"-h", "--help"} & set(arguments):
        one_line(lambda: get_config(arguments))


@QUICK
@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=100)
       | st.sampled_from([20, 5000]).map(lambda depth: b"[" * depth))
def test_any_rank_table(content: bytes) -> None:
    with file_of(content, ".json") as path:
        one_line(lambda: check_rank_table(path, [0, 1]), RankTableError)


@QUICK
@given(st.sampled_from(["version", "server_count", "server_list", "status"]), JSON,
       st.sampled_from(["device_id", "device_ip", "rank_id"]), JSON)
def test_any_part_of_a_rank_table(outer: str, outer_value: object, inner: str, inner_value: object) -> None:
    for changed in ({**RANK_TABLE, outer: outer_value}, json.loads(json.dumps(RANK_TABLE))):
        if changed.keys() and changed.get(outer) == RANK_TABLE[outer]:
            changed["server_list"][0]["device"][0][inner] = inner_value
        with file_of(json.dumps(changed).encode(), ".json") as path:
            one_line(lambda: check_rank_table(path, [0, 1]), RankTableError)


@QUICK
@given(st.binary(max_size=200) | st.text(alphabet="a/:. 019-\n\\", max_size=60).map(str.encode))
def test_any_label_file(content: bytes) -> None:
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
@given(JSON)
def test_any_json_beside_a_checkpoint(checkpoint: Path, about: object) -> None:
    with file_of(checkpoint.read_bytes(), ".ckpt") as path:
        path.with_suffix(".json").write_text(json.dumps(about))
        one_line(lambda: read_checkpoint(path).classes)
        path.with_suffix(".json").write_text(json.dumps({"classes": about, "config": about, "sha256":
                                                         file_digest(path)}))
        one_line(lambda: (read_checkpoint(path).classes, read_checkpoint(path).config))


@QUICK
@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"\x80\x02" + tail + b"."))
def test_any_file_as_a_torch_file(content: bytes) -> None:
    with file_of(content, ".pth") as path:
        one_line(lambda: read_torch_file(path))


def test_nothing_here_writes_beside_the_checkpoint(checkpoint: Path) -> None:
    assert {path.name for path in checkpoint.parent.iterdir()} == {"k.ckpt", "k.json"}
