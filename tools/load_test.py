"""Lets many clients at a time ask the server of infer.py --serve True, on this machine, and counts what goes wrong.

    python tools/load_test.py --model checkpoint/best.ckpt --images photos/val --clients 200 --seconds 30

The tool starts the server, asks for each image alone once, and then lets the clients ask for images in turn, each as
fast as it is answered. At the end it stops the server by SIGTERM while requests are at work. It prints answers a
second, times, refused requests (503), lost ones (no answer), wrong ones (another answer than that of the image alone),
and the server's memory. Exit status 1 if a request is lost or answered wrong. Options after -- go to infer.py.
"""
import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.deployment.prediction import list_images
from src.errors import UserError, run_command

ROOT = Path(__file__).resolve().parents[1]
MOST_CLIENTS, LONGEST, MOST_IMAGES = 1000, 600.0, 64  # the machine must bear it
NEAR = 1e-3  # difference of probabilities that is rounding: batches of other sizes are summed in another order
URL = re.compile(r"http://\S+")
OK, BUSY = 200, 503


@dataclass(frozen=True)
class Server:
    """A server that this process has started."""

    process: subprocess.Popen
    url: str
    token: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, on this machine."""
        return "127.0.0.1", urlsplit(self.url).port or 0

    def memory_mb(self, what: str) -> float:
        """Its memory in MB of 2**20 bytes: VmRSS for now, VmHWM for the most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.findall(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)[0]) / 1024


@contextlib.contextmanager
def started_server(model: Path, *options: object) -> Iterator[Server]:
    """Start infer.py --serve True on a free port; it is killed at the end of the block if it still runs.

    Args:
        model: a checkpoint or an ONNX file.
        options: for infer.py.

    Raises:
        UserError: it does not start. What it prints to stderr is not caught.
    """
    command = [sys.executable, ROOT / "infer.py", "--platform", "CPU", "--model", model, "--serve", "True", "--port", 0,
               *options]
    process = subprocess.Popen([str(word) for word in command],  # noqa: S603 - a command of this project
                               stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None:
            raise AssertionError("a pipe was asked for")
        found = next((url for line in process.stdout for url in URL.findall(line)), None)
        if found is None:
            raise UserError(f"infer.py --serve True did not start: it ended with status {process.wait()}")
        yield Server(process, found, found.partition("#token=")[2])
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@dataclass
class Load:
    """What the clients found."""

    clients: int
    seconds: float = 0.0
    times: list[float] = field(default_factory=list)  # of answers, in seconds
    refused: int = 0
    lost: int = 0
    wrong: int = 0
    memory_mb: float = 0.0  # of the server, before the clients
    peak_memory_mb: float = 0.0
    exit_status: int = -1  # of the server

    def describe(self) -> str:
        """The figures as lines."""
        middle, late = (1000 * np.percentile(self.times or [0.0], share) for share in (50, 99))
        return (f"{self.clients} clients, {self.seconds:.1f} s: {len(self.times)} answers, "
                f"{len(self.times) / self.seconds:.1f} a second\n"
                f"time of an answer: median {middle:.0f} ms, 99 % within {late:.0f} ms\n"
                f"refused {self.refused}, lost {self.lost}, wrong {self.wrong}\n"
                f"memory of the server: {self.memory_mb:.0f} MB before, at most {self.peak_memory_mb:.0f} MB\n"
                f"stopped by SIGTERM with requests at work: exit status {self.exit_status}")


class Client:
    """One connection, which is kept."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __aenter__(self) -> "Client":
        self._reader, self._writer = await asyncio.open_connection(*self._server.address)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._writer.close()

    async def ask(self, image: bytes) -> tuple[int, dict]:
        """Status and JSON of POST /predict.

        Raises:
            OSError: the connection broke.
            asyncio.IncompleteReadError: the same, within the answer.
        """
        head = [f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
                f"Content-Length: {len(image)}\r\n"]
        if self._server.token:
            head.append(f"Authorization: Bearer {self._server.token}\r\n")
        self._writer.write("".join([*head, "\r\n"]).encode() + image)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = int(re.findall(r"^content-length: (\d+)", answer, re.MULTILINE | re.IGNORECASE)[0])
        return int(answer.split()[1]), json.loads(await self._reader.readexactly(length))


async def load(server: Server, images: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let clients ask for some time, then stop the server while they wait for answers."""
    async with Client(server) as alone:
        expected = [await alone.ask(image) for image in images]
    if faults := [answer["error"] for status, answer in expected if status != OK]:
        raise UserError(f"the server refuses an image: {faults[0]}")
    found = Load(clients, memory_mb=server.memory_mb("VmRSS"))
    is_over = asyncio.Event()

    async def ask_on(first: int) -> None:
        async with Client(server) as client:
            number = first
            while not is_over.is_set():
                number = (number + 1) % len(images)
                begin = time.perf_counter()
                try:
                    status, answer = await client.ask(images[number])
                except (OSError, asyncio.IncompleteReadError):
                    found.lost += 1
                    return
                if status == BUSY:
                    found.refused += 1
                    await asyncio.sleep(1)  # what Retry-After says
                    continue
                found.times.append(time.perf_counter() - begin)
                found.wrong += status != OK or not _agree(answer, expected[number][1])

    begin = time.perf_counter()
    asking = [asyncio.create_task(ask_on(number)) for number in range(clients)]
    await asyncio.sleep(seconds)
    found.seconds = time.perf_counter() - begin
    found.peak_memory_mb = server.memory_mb("VmHWM")
    is_over.set()
    os.kill(server.process.pid, signal.SIGTERM)
    await asyncio.gather(*asking)
    found.exit_status = await asyncio.to_thread(server.process.wait)
    return found


def _agree(answer: dict, expected: dict) -> bool:
    """Whether an image's classes have the same probabilities, but for rounding."""
    shares, wanted = ({item["class"]: item["probability"] for item in found["classes"]} for found in (answer, expected))
    common = shares.keys() & wanted.keys()  # the last of the likeliest may differ where they are alike
    return len(common) >= len(wanted) - 1 and all(abs(shares[name] - wanted[name]) < NEAR for name in common)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, passed = (words[:words.index("--")], words[words.index("--") + 1:]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint or ONNX file")
    parser.add_argument("--images", required=True, help=f"image, folder or list; at most {MOST_IMAGES} are used")
    parser.add_argument("--clients", type=int, default=200, help=f"clients at a time, at most {MOST_CLIENTS} [200]")
    parser.add_argument("--seconds", type=float, default=30.0, help=f"how long, at most {LONGEST:g} [30]")
    options = parser.parse_args(own)
    if not (1 <= options.clients <= MOST_CLIENTS and 0 < options.seconds <= LONGEST):
        raise UserError(f"--clients must be 1 to {MOST_CLIENTS}, and --seconds more than 0 and at most {LONGEST:g}")
    images = [path.read_bytes() for path in list_images(options.images)[:MOST_IMAGES]]

    with started_server(options.model, *passed) as server:
        found = asyncio.run(load(server, images, options.clients, options.seconds))
    print(found.describe())
    if found.lost or found.wrong:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
