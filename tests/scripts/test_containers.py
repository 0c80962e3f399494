"""The containers without an engine: what the Dockerfile copies, in a root folder of its own, started as it says."""
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT, make_images

TINY = ("--image_size", "32", "--width_mult", "0.35", "--epoch_size", "1", "--batch_size", "4", "--cpu_kernels", "off")
SYSTEM = ("bin", "etc", "lib", "lib64", "usr", "dev", "proc")  # of the base image; here of this machine
VENV = "/opt/venv"


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, what follows) of each line of a Dockerfile."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def last(name: str, instruction: str) -> str:
    return [rest for word, rest in instructions(name) if word == instruction][-1]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in last("Dockerfile", "ENV").split())


def copied() -> list[str]:
    """The files of the repository that .dockerignore lets through: the last line that fits a file or a folder above."""
    rules = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
             if line and not line.startswith("#")]
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             capture_output=True, text=True, check=True)
    chosen = []
    for name in filter(None, tracked.stdout.split("\0")):
        above = [name, *map(str, Path(name).parents)][:-1]
        kept = True
        for rule in rules:
            pattern = rule.lstrip("!")
            fits = any(fnmatch.fnmatch(path.rpartition("/")[2], pattern[3:]) for path in above) \
                if pattern.startswith("**/") else \
                any("/" not in path and fnmatch.fnmatch(path, pattern) for path in above)
            kept = rule.startswith("!") if fits else kept
        if kept and (ROOT / name).is_file():
            chosen.append(name)
    return chosen


def test_only_what_the_commands_need_is_copied() -> None:
    files = set(copied())
    assert {"train.py", "eval.py", "export.py", "infer.py", "default_config.yaml", "src/reports/report.html.jinja",
            "src/cpu_kernels/native/gemm.h", "scripts/container.sh", "requirements.txt"} <= files
    assert not [name for name in files if name.startswith(("tests/", ".", "ascend310_infer/"))]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.ascend"])
def test_a_container_is_not_roots_and_starts_what_is_there(name: str) -> None:
    assert last(name, "USER") == "1000"
    entry = json.loads(last(name, "ENTRYPOINT"))
    assert (ROOT / entry[-1].removeprefix("/opt/mobilenetv2/")).is_file()
    for word, rest in instructions(name):
        if word == "COPY" and not rest.startswith(("--from", ". ")):
            for source in rest.split()[:-1]:
                assert source in copied(), source
    order = [word for word, _ in instructions(name)]
    assert order[-1] == "ENTRYPOINT"
    assert order.index("USER") > max(position for position, word in enumerate(order) if word in {"RUN", "COPY"})


# ---- the entry point in a root folder of its own

@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root folder of the container, without the mounts."""
    if os.getuid() != 0 or not shutil.which("unshare") or subprocess.run(
            ["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root, and unshare with the right to mount")
    root = tmp_path_factory.mktemp("container")
    root.chmod(0o755)
    for name in copied():
        target = root / "opt/mobilenetv2" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    for name in (*SYSTEM, "tmp", VENV[1:], sys.prefix[1:], sys.base_prefix[1:]):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("data", "output", "cache", "tmp"):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(0o1777)
    make_images(root / "data", {f"{part}/{name}": 4 for part in ("train", "val") for name in ("apple", "pear")})
    return root


def run(root: Path, *words: str, user: int = 1000) -> subprocess.CompletedProcess:
    """`docker run` without an engine: mounts that end with the process, another root, another user."""
    binds = [(f"/{name}", name) for name in SYSTEM] + [
        (sys.prefix, VENV[1:]), (sys.prefix, sys.prefix[1:]), (sys.base_prefix, sys.base_prefix[1:])]
    script = ["set -e", *(f"mount --rbind '{source}' '{root / target}'" for source, target in binds),
              f"cd / && exec chroot --userspec={user}:{user} '{root}' /usr/bin/env -i \"$@\""]
    given = [f"{name}={value}" for name, value in environment().items()]
    inside = ["/bin/sh", "-c", f"cd {last('Dockerfile', 'WORKDIR')} && exec \"$@\"", "sh",
              *json.loads(last("Dockerfile", "ENTRYPOINT"))]
    return subprocess.run(["unshare", "--mount", "--propagation", "private", "bash", "-c", "\n".join(script), "bash",
                           *given, *inside, *words], capture_output=True, text=True, check=False)


def assert_done(done: subprocess.CompletedProcess, *mentions: str) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    for mention in mentions:
        assert mention in done.stdout


def test_train_evaluate_and_classify_in_it(container: Path) -> None:
    assert_done(run(container, "train", *TINY), "in /data/train", "result:")
    best = container / "output/checkpoint/best.ckpt"
    assert best.stat().st_uid == 1000
    assert_done(run(container, "eval", "--pretrain_ckpt", "checkpoint/best.ckpt", "--cpu_kernels", "off"), "result:")
    # Another user, as with `docker run --user`: without a name or a home.
    assert_done(run(container, "infer", "--images", "/data/val", "--model", "checkpoint/best.ckpt", "--predictions",
                    "/tmp/predictions", "--platform=CPU", "--cpu_kernels", "off", user=4321),
                "8 of 8 images classified")
    assert (container / "tmp/predictions/predictions.csv").stat().st_uid == 4321


def entry(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(ROOT / "scripts/container.sh"), *words], cwd=folder, capture_output=True,
                          text=True, check=False, env={**os.environ, "PLATFORM": "CPU"})


def test_other_programs_run_as_they_are(tmp_path: Path) -> None:
    assert entry(["echo", "a  b"], tmp_path).stdout == "a  b\n"


def test_without_a_command_it_says_what_there_is(tmp_path: Path) -> None:
    done = entry([], tmp_path)
    assert done.returncode == 2
    assert "container.sh train [OPTIONS]" in done.stdout
    assert "set -euo" not in done.stdout
