"""A file from the network is there whole or not at all, whatever the server does. The server is a real one."""
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import src.download
import src.turns
from src.checkpoint import published as published_module
from src.checkpoint.namings import TIMM, TORCH
from src.checkpoint.pretrained import open_pretrained
from src.checkpoint.published import PUBLISHED, Published, is_published
from src.download import CHUNK, TRIES, fetch
from src.errors import UserError
from tests.support.foreign_weights import random_weights, renamed

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What a server sends; `asked` are the ranges that it was asked for, "" for the whole file."""

    content: bytes = CONTENT
    breaks_after: list[int] = field(default_factory=list)  # bytes of the first answers, one by one
    has_ranges: bool = True
    length: int | None = None  # what it says of the whole file
    states: list[int] = field(default_factory=list)  # of the first answers
    asked: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            told.asked.append(wanted)
            start = int(wanted[len("bytes="):-1]) if wanted and told.has_ranges else 0
            if told.states:
                self.send_error(told.states.pop(0))
                return
            if start and start >= len(told.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(told.content)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(told.content) - 1}/{len(told.content)}")
            self.send_header("Content-Length", str((told.length or len(told.content)) - start))
            self.end_headers()
            rest = told.content[start:]
            self.wfile.write(rest[:told.breaks_after.pop(0)] if told.breaks_after else rest)

        def log_message(self, *_arguments: object) -> None:
            pass

    monkeypatch.setattr(src.download, "PAUSE", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        told.url = f"http://127.0.0.1:{running.server_port}/net-{DIGEST[:8]}.pth"
        yield told
        running.shutdown()


def refusal(server: Server, path: Path) -> str:
    with pytest.raises(UserError) as error:
        fetch(server.url, path, DIGEST)
    assert str(error.value).startswith(f"{server.url}: ")
    assert not path.exists()
    return str(error.value)


def test_fetched_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        fetch(server.url, tmp_path / "net", DIGEST[:8])
    assert (tmp_path / "net").read_bytes() == CONTENT
    assert server.asked == [""]
    assert list(tmp_path.iterdir()) == [tmp_path / "net"]


def test_what_arrives_is_progress(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes wait as long as there is some: `tests/test_turns.py`."""
    calls: list[int] = []
    monkeypatch.setattr(src.turns, "_progress_mark", lambda _: lambda: calls.append(1))
    fetch(server.url, tmp_path / "net", DIGEST)
    assert len(calls) >= len(CONTENT) / CHUNK


def test_a_connection_that_breaks_is_resumed(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [100_000, 50_000]
    fetch(server.url, tmp_path / "net", DIGEST)
    assert (tmp_path / "net").read_bytes() == CONTENT
    assert server.asked == ["", "bytes=100000-", "bytes=150000-"]


def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.breaks_after, server.has_ranges = [100_000], False
    fetch(server.url, tmp_path / "net", DIGEST)
    assert (tmp_path / "net").read_bytes() == CONTENT


def test_the_next_command_goes_on(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [1000] * TRIES
    text = refusal(server, tmp_path / "net")
    assert f"broke off {TRIES} times, at last after {1000 * TRIES} of {len(CONTENT)} bytes" in text
    assert f"put it into {tmp_path} as net" in text
    server.asked.clear()
    fetch(server.url, tmp_path / "net", DIGEST)
    assert server.asked == [f"bytes={1000 * TRIES}-"]
    assert (tmp_path / "net").read_bytes() == CONTENT


def test_a_length_that_is_too_large(server: Server, tmp_path: Path) -> None:
    """The second answer says that nothing follows; the digest says that this is true."""
    server.length = len(CONTENT) + 1000
    fetch(server.url, tmp_path / "net", DIGEST)
    assert server.asked == ["", f"bytes={len(CONTENT)}-"]


def test_a_length_that_is_too_small(server: Server, tmp_path: Path) -> None:
    server.length = 1000
    assert "sent another file" in refusal(server, tmp_path / "net")


def test_another_file(server: Server, tmp_path: Path) -> None:
    server.content = b"other"
    found = hashlib.sha256(b"other").hexdigest()
    assert f"sent another file than its publisher's: the SHA-256 begins with {found}, not {DIGEST}" in refusal(
        server, tmp_path / "net")
    server.content = CONTENT
    fetch(server.url, tmp_path / "net", DIGEST)
    assert server.asked == ["", ""]  # nothing of the other file was kept


@pytest.mark.parametrize("left", [b"the beginning of another file", CONTENT + b"and more"])
def test_what_was_left_of_another_file_is_dropped(left: bytes, server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.part").write_bytes(left)
    fetch(server.url, tmp_path / "net", DIGEST)
    assert (tmp_path / "net").read_bytes() == CONTENT


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.states = [503, 429]
    fetch(server.url, tmp_path / "net", DIGEST)
    assert len(server.asked) == 3


def test_a_file_that_is_not_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.states = [404]
    assert "the server answers 404" in refusal(server, tmp_path / "net")
    assert len(server.asked) == 1


def test_no_end(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(src.download, "LARGEST", 100_000)
    assert "sends more than 100000 bytes" in refusal(server, tmp_path / "net")


def test_no_network(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        server = Server(url=f"http://127.0.0.1:{closed.server_port}/net.pth")
    text = refusal(server, tmp_path / "net")
    assert "cannot be fetched, no network? (" in text
    assert text.endswith(f"fetch the file in another way, and put it into {tmp_path} as net")


def test_of_several_one_fetches(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(fetch, server.url, tmp_path / "net", DIGEST) for _ in range(4)]:
            done.result()
    assert server.asked == [""]


# ---- weights with a name

@pytest.fixture
def imagenet(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A file of `imagenet` at the server; returns its place in the cache."""
    server.content = save(renamed(random_weights(), TIMM, TORCH))
    name = f"net-{hashlib.sha256(server.content).hexdigest()[:8]}.pth"
    url = f"{server.url.rpartition('/')[0]}/{name}"
    monkeypatch.setitem(published_module.PUBLISHED, "imagenet", Published(url))
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "weights" / name


def test_published_weights_are_fetched_once(imagenet: Path, server: Server) -> None:
    first, second = open_pretrained("imagenet"), open_pretrained("imagenet")
    assert first.path == second.path == imagenet
    assert first.config == {"width_mult": 0.35, "num_classes": 4}
    assert len(server.asked) == 1


def test_a_file_put_there_by_hand_is_checked(imagenet: Path, server: Server) -> None:
    imagenet.parent.mkdir()
    imagenet.write_bytes(server.content)
    assert open_pretrained("imagenet").path == imagenet
    assert server.asked == []
    imagenet.write_bytes(b"another")
    with pytest.raises(UserError, match=r"is not the published file: .* remove it, and it is fetched again"):
        open_pretrained("imagenet")


def test_a_folder_of_that_name_does_no_harm_and_a_file_comes_first(imagenet: Path, tmp_path: Path) -> None:
    (tmp_path / "imagenet").mkdir()
    assert is_published("imagenet")
    (tmp_path / "imagenet").rmdir()
    (tmp_path / "imagenet").write_bytes(b"")
    assert not is_published("imagenet")
    with pytest.raises(UserError, match=r"imagenet: this checkpoint is empty"):
        open_pretrained("imagenet")


def test_a_name_that_nobody_published() -> None:
    with pytest.raises(UserError, match="timm/mobilenetv3: no weights of this name are known; there are imagenet, "):
        open_pretrained("timm/mobilenetv3")


@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_names_of_files_end_with_their_digest(published: Published) -> None:
    assert len(published.sha256) == 8
    assert int(published.sha256, 16)
    assert published.url.startswith("https://")
