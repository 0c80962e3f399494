"""Stand-ins on PATH for what launchers call, so that tests see what Ascend and GPU runs would be asked to do."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
ROOT = SCRIPTS.parent
PORTS = iter(range(20000 + os.getpid() % 5000, 32000))
PATIENCE = 120  # seconds that a condition may take to come true

# Records its call; checks of a rank table are the real thing. $BEHAVIOUR is Python to run afterwards.
STUB = f"""#!{sys.executable}
import json, os, sys
if sys.argv[1:] and sys.argv[1].endswith("rank_table.py"):
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
call = {{"name": os.path.basename(sys.argv[0]), "argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(call) + "\\n")
print("stub", os.environ.get("RANK_ID"), flush=True)
exec(os.environ.get("BEHAVIOUR", ""))
"""


class Bench:
    """A folder to launch from, with stubs of python, msrun and mpirun before everything else on PATH."""

    def __init__(self, folder: Path, stubs: tuple[str, ...] = ("python", "msrun", "mpirun")) -> None:
        self.folder = folder / "here"
        self.folder.mkdir()
        self.data, self.ckpt = folder / "data set", folder / "net.ckpt"
        (self.data / "train" / "cat").mkdir(parents=True)
        self.ckpt.touch()
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name in stubs:
            (bin_folder / name).write_text(STUB)
            (bin_folder / name).chmod(0o755)
        inherited = {key: value for key, value in os.environ.items() if key not in {
            "WORKER_NUM", "NODE_NUM", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "RANK_ID", "RANK_SIZE", "DEVICE_ID",
            "ATLAS", "OMP_NUM_THREADS", "HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT"}}
        path = f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = {**inherited, "PATH": path, "CALLS": str(self.calls_file)}

    def run(self, script: str, *arguments: object, **env: str) -> subprocess.CompletedProcess:
        """Run a launcher to its end."""
        return subprocess.run(["bash", SCRIPTS / script, *map(str, arguments)], cwd=self.folder, check=False,
                              env={**self.env, **env}, capture_output=True, text=True, timeout=300)

    def start(self, script: str, *arguments: object, **env: str) -> subprocess.Popen:
        """Start a launcher."""
        return subprocess.Popen(["bash", SCRIPTS / script, *map(str, arguments)], cwd=self.folder, text=True,
                                env={**self.env, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @property
    def calls(self) -> list[Mapping[str, Any]]:
        """What the stubs were called with, by rank."""
        calls = [json.loads(line) for line in self.calls_file.read_text().splitlines()]
        return sorted(calls, key=lambda call: call["env"].get("RANK_ID", ""))

    def rank_table(self, *devices: int, name: str = "table.json", **changes: object) -> Path:
        """A rank table of one server."""
        table = {"version": "1.0", "server_count": "1", "status": "completed", "server_list": [{
            "server_id": "10.0.0.1", "host_nic_ip": "reserve",
            "device": [{"device_id": str(device), "device_ip": f"192.1.{device}.6", "rank_id": str(rank)}
                       for rank, device in enumerate(devices)]}], **changes}
        path = self.folder / name
        path.write_text(json.dumps(table))
        return path


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll until a condition is true; its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)
    return value


def free_port() -> int:
    """A port that nobody listens on, below those of outgoing connections; another one each time.

    So a server that is still ending is in nobody's way.
    """
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("all ports are taken")


def processes_with(variable: str, value: str) -> dict[int, dict[str, str]]:
    """Environments of the living processes that have a variable of this value."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        environment = dict(line.split("=", 1) for line in lines if "=" in line)
        if environment.get(variable) == value:
            found[int(folder.name)] = environment
    return found


def end_leftovers(variable: str, value: str) -> list[int]:
    """Kill processes that a failed test would leave behind; their numbers."""
    left = list(processes_with(variable, value))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left
