"""Jobs on a ModelArts that is made of a folder and a stand-in for MoXing."""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from conftest import ROOT

PLATFORM_VARIABLES = ("DEVICE_ID", "ASCEND_DEVICE_ID", "RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE", "MA_NUM_HOSTS",
                      "VC_WORKER_NUM", "MA_VJ_NAME", "JOB_ID", "MS_ROLE", "data_url", "train_url", "checkpoint_url")

# An entry script without a network, so that what is around it can be tried often: --seed says what it does.
PROGRAM = """
import os, time
from pathlib import Path
from src.errors import UserError, run_command
from src.modelarts.job import local_or_modelarts

RAISE, REFUSE, WAIT = range(11, 14)

@local_or_modelarts(resumes=True)
def main(config):
    rank = os.environ.get("RANK_ID", "0")
    folder = Path(config.save_checkpoint_path)
    folder.mkdir(parents=True, exist_ok=True)
    print("dataset_path", config.dataset_path, "pretrain_ckpt", config.pretrain_ckpt)
    print("kd_teacher", config.kd_teacher)
    if Path(config.dataset_path).is_dir():
        print("images", *sorted(str(path.relative_to(config.dataset_path)) for path in
                                Path(config.dataset_path).rglob("*.jpg")))
    print("earlier", *sorted(path.name for path in folder.iterdir()))
    (folder / f"made-by-{rank}.ckpt").write_text("whole")
    if config.seed == RAISE:
        raise ValueError("the network fell over")
    if config.seed == REFUSE:
        raise UserError("the images are bad")
    if config.seed == WAIT:
        (folder / f"waiting-{rank}").touch()
        time.sleep(60)

run_command(main)
"""
RAISE, REFUSE, WAIT = range(11, 14)


@dataclass
class Platform:
    """A machine, and the storage behind obs://."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.storage, self.machine = self.folder / "storage", self.folder / "machine"
        for made in (self.storage, self.machine / "tmp"):
            made.mkdir(parents=True)
        self.program = self.machine / "program.py"
        self.program.write_text(PROGRAM, encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if name not in PLATFORM_VARIABLES}
        self.environment = {
            **environment, "PYTHONPATH": f"{ROOT / 'tests/support/stand_ins'}:{ROOT}",
            "MOXING_STORAGE": str(self.storage), "TMPDIR": str(self.machine / "tmp"), "PYTHONUNBUFFERED": "1",
            "MA_VJ_NAME": "job-1", **self.environment}

    def options(self, **values: object) -> list[str]:
        """Of a job, with folders on this machine in the place of /cache."""
        chosen = {"enable_modelarts": True, "data_path": self.machine / "data", "output_path": self.machine / "train",
                  "load_path": self.machine / "load", "copy_retry_seconds": 0, "copy_wait_seconds": 60, **values}
        return [f"--{key}={value}" for key, value in chosen.items()]

    def start(self, script: object, *argv: str, **environment: object) -> subprocess.Popen:
        """Start a boot file as the platform does."""
        return subprocess.Popen([sys.executable, str(script), *argv], cwd=self.machine, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={**self.environment, **{key: str(value) for key, value in environment.items()}})

    def run(self, script: object, *argv: str, **environment: object) -> subprocess.CompletedProcess:
        return ended(self.start(script, *argv, **environment))

    def fail(self, match: str, times: int = -1, **fault: object) -> None:
        """Let copies go wrong."""
        (self.storage / ".faults.json").write_text(json.dumps([{"match": match, "times": times, **fault}]))

    def calls(self, name: str = "copy_parallel") -> list[dict]:
        """What the storage was asked for."""
        file = self.storage / ".calls"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [call for call in map(json.loads, lines) if call["call"] == name]

    def uploads(self) -> list[dict]:
        return [call for call in self.calls() if call["urls"][1].startswith("obs://")]

    def stored(self, folder: str) -> list[str]:
        """The files in a folder of the storage."""
        root = self.storage / folder
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def ended(process: subprocess.Popen, timeout: float = 300) -> subprocess.CompletedProcess:
    """Wait for a process, and give what it said."""
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 60) -> None:
    """Wait until a process has made a file."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.05)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
