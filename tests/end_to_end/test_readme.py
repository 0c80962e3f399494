"""The documents are true: commands run, options and links exist, messages are those of the code, and the two READMEs
have the same commands."""
import ast
import hashlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from src.cache_folder import cache_folder
from src.checkpoint.namings import TORCH, TORCHVISION
from src.checkpoint.published import PUBLISHED, Published
from src.mobilenetV2 import MobileNetV2
from src.model_utils.config import ALIASES, get_config
from tests.conftest import ROOT, make_images
from tests.support.foreign_weights import renamed
from tests.support.launcher_tools import Bench

README, README_CN = ROOT / "README.md", ROOT / "README_CN.md"
PAGES = sorted(path for folder in (".", "docs", "hub") for path in (ROOT / folder).glob("*.md"))
CONFIGURED = {"train.py", "eval.py", "export.py", "infer.py"}  # take every key of the configuration
KEYS = {*get_config([]).as_dict(), *ALIASES, "config_path", "help"}

# What is laid over the README's own options, so that a run takes seconds.
TINY = {"train.py": {"image_size": "32", "width_mult": "0.35", "epoch_size": "1", "batch_size": "4"},
        "eval.py": {}, "export.py": {}, "infer.py": {},
        "tools/make_label_file.py": {},
        "tools/split_pictures.py": {}, "tools/describe_data.py": {}}

MINUTES = "takes minutes and downloads"
GROCERY = "takes minutes, and photos that only the developers have; commands like it are run"
ENGINE = "needs a container engine; test_containers.py starts the entry point in a root folder of its own"
NOT_RUN = {  # why
    "docker build --tag mobilenetv2 .": ENGINE,
    'docker run --rm --volume "$PWD/photos:/data:ro" --volume "$PWD/out:/output" --user "$(id -u):$(id -g)" '
    "mobilenetv2 train": ENGINE,
    "bash scripts/quickstart.sh": MINUTES,
    "bash scripts/run_tests.sh": "runs this test",
    "source .venv/bin/activate": "the tests run in an environment of their own",
    "pip install -r requirements-serve.txt": "the tests run in an environment of their own",
    "python infer.py --platform CPU --model checkpoint/best.ckpt --serve True":
        "does not end by itself; tests/serving/ starts it and asks it",
    "bash scripts/run_infer_310.sh mobilenetv2.mindir photos/val label.txt DVPP 0":
        "needs an Ascend 310; test_ascend310.py builds and runs the program on a CPU",
    "python train.py --platform CPU --dataset_path photos --pretrain_ckpt imagenet --freeze_layer backbone --folds 5":
        f"{MINUTES}; tests/training/test_folds.py runs one like it",
    "python train.py --platform CPU --dataset_path grocery20 --pretrain_ckpt imagenet --freeze_layer backbone":
        GROCERY,
    "python train.py --platform CPU --dataset_path grocery20 --pretrain_ckpt imagenet --filter_head True "
    "--max_minutes 6 --seed 1": GROCERY,
    "python train.py --platform CPU --dataset_path grocery20 --pretrain_ckpt imagenet --filter_head True "
    "--image_size 96 --epoch_size 10 --recipe plain --seed 1": GROCERY,
}


# ---- reading the pages

def blocks(page: Path, language: str = "bash") -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of the ```bash blocks, in order."""
    return [line for block in blocks(page) for line in block.splitlines() if line.strip()]


def mentions(page: Path) -> list[str]:
    """Every command of a page: in blocks of any kind, in tables and in sentences."""
    starts = r"(?:[A-Z_]+=\S+ )*(?:python|bash|msrun) [\w./-]"
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^(?:\s*#\s+)?({starts}.*)$", text, re.MULTILINE) + re.findall(rf"`({starts}[^`]*)`", text)


def without_environment(words: Sequence[str]) -> list[str]:
    """A command's words after NAME=VALUE."""
    first = next(number for number, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
    return list(words[first:])


def known_options(script: Path) -> set[str]:
    """Names of a script's options."""
    text = script.read_text(encoding="utf-8")
    if script.suffix == ".sh":  # launchers hand options of the configuration on
        return KEYS | set(re.findall(r'" = --(\w+) \]', text))
    return KEYS if script.name in CONFIGURED else set(re.findall(r'add_argument\("--(\w+)"', text)) | {"help"}


def faults(command: str) -> Iterator[str]:
    """Scripts and options in a command that do not exist."""
    words = without_environment(re.sub(r"[\[\]{}]", " ", command).split())
    scripts = [ROOT / word for word in words if re.search(r"\.(py|sh)$", word) and not word.startswith("../")]
    yield from (f"no script {script.name}" for script in scripts if not script.is_file())
    if not scripts or not scripts[0].is_file():
        return
    after = words[words.index(str(scripts[0].relative_to(ROOT))):]
    known = known_options(scripts[0])
    # What follows a bare -- belongs to the command that this one starts.
    own, passed = (after[:after.index("--")], after[after.index("--"):]) if "--" in after else (after, [])
    named = [(word, known) for word in own] + [(word, KEYS) for word in passed]
    for word, names in named:
        option = re.match(r"--(\w+)", word)
        if option and option[1] not in names:
            yield f"no option {word}"


# ---- what is said of the code

@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_scripts_and_options_that_exist(page: Path) -> None:
    assert [(command, fault) for command in mentions(page) for fault in faults(command)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_sentences_exist(page: Path) -> None:
    programs = [*ROOT.glob("*.py"), *(ROOT / "tools").glob("*.py"), *(ROOT / "tests").rglob("*.py")]
    known = KEYS.union(*map(known_options, programs))
    text = page.read_text(encoding="utf-8").replace("`--key value`", "").replace("`--键 值`", "")
    assert [option for option in re.findall(r"`--([\w-]+)[^`]*`", text) if option not in known] == []


def test_a_wrong_command_is_found() -> None:
    assert list(faults("python train.py --platform CPU --datset_path x")) == ["no option --datset_path"]
    assert list(faults("WORKER_NUM=2 bash scripts/run_trian.sh CPU photos")) == ["no script run_trian.sh"]
    assert list(faults("python tools/benchmark.py [--image_size 96] [--bath_size 8]")) == ["no option --bath_size"]


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    words = re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        linked = (page.parent / name).resolve() if name else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert broken == []


def test_both_readmes_have_the_same_commands() -> None:
    assert commands(README_CN) == commands(README)
    assert [slug_count(README_CN, level) for level in (2, 3)] == [slug_count(README, level) for level in (2, 3)]


def slug_count(page: Path, level: int) -> int:
    return len(re.findall(rf"^{'#' * level} ", page.read_text(encoding="utf-8"), re.MULTILINE))


def texts_of_the_code() -> Iterator[str]:
    """Every string of the Python code, `...` in the place of what is filled in, and the shell scripts."""
    for path in [*ROOT.glob("*.py"), *(ROOT / "src").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for path in (ROOT / "scripts").glob("*.sh"):
        yield path.read_text(encoding="utf-8")


def troubles(page: Path) -> list[str]:
    """The messages in the table of the last but one chapter."""
    chapter = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[-2]
    return re.findall(r"^\| `([^`]+)` \|", chapter, re.MULTILINE)


def test_messages_are_those_of_the_code() -> None:
    told = troubles(README)
    assert len(told) >= 10
    assert troubles(README_CN) == told
    texts = list(texts_of_the_code())
    patterns = {message: re.compile(".*".join(map(re.escape, message.split("..."))), re.DOTALL) for message in told}
    assert [message for message, pattern in patterns.items() if not any(map(pattern.search, texts))] == []


# ---- the commands of the README, run

def torchvision_weights() -> dict[str, np.ndarray]:
    """A new narrow network as torchvision would save it."""
    ours = {name: value.asnumpy() for name, value in MobileNetV2(4, 0.35).parameters_dict().items()}
    return renamed(ours, TORCHVISION, TORCH)


def put_into_cache(weights: dict[str, np.ndarray]) -> Published:
    """Weights where they are after they have been fetched."""
    content = save(weights)
    published = Published(f"https://nowhere.invalid/net-{hashlib.sha256(content).hexdigest()[:8]}.pth")
    (cache_folder("weights") / published.file_name).write_bytes(content)
    return published


class Reader:
    """Somebody who types the README's commands, in a folder that looks like the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "repository"
        self.folder.mkdir()
        for entry in [*ROOT.glob("*.py"), *ROOT.glob("*.yaml"), *map(ROOT.joinpath, ("src", "tools", "scripts"))]:
            (self.folder / entry.name).symlink_to(entry)
        make_images(self.folder / "my_photos", {"apple": 10, "pear": 9})
        make_images(self.folder / "holiday", {"beach": 2})
        self.imagenet = put_into_cache(torchvision_weights())
        # What users of accelerators have; the programs there are stand-ins.
        self.bench = Bench(folder)
        (folder / "bin" / "dataset-cache").write_text("#!/bin/sh\necho 'Session created for server on port 1: 77'\n")
        (folder / "bin" / "dataset-cache").chmod(0o755)
        (self.folder / "imagenet").symlink_to("my_photos")
        (self.folder / "mobilenetv2.ckpt").touch()
        self.bench.rank_table(*range(8), name="hccl_8p.json").rename(self.folder / "hccl_8p.json")

    def type(self, command: str) -> None:
        """Run a command as far as this machine can; an assertion fails where it does not end well."""
        words = shlex.split(command, comments=True)
        program, *arguments = without_environment(words)
        if program == "python":
            self.python(arguments[0], arguments[1:])
        elif program == "bash" and re.match(r"scripts/run_(train|eval|train_nfs_cache)\.sh$", arguments[0]):
            self.launch(command, arguments[1])
        else:
            raise AssertionError(f"nothing here knows how to try this command of the README: {command}")

    def python(self, script: str, arguments: Sequence[str]) -> None:
        """Run a script in this process, small."""
        assert script in TINY, f"nothing here knows how to try {script}"
        small = {f"--{key}": value for key, value in TINY[script].items()}
        kept = list(arguments)
        for option in small:
            if option in kept:
                at = kept.index(option)
                del kept[at:at + 2]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setitem(PUBLISHED, "imagenet", self.imagenet)
            patch.setattr(sys, "argv", [script, *kept, *(word for pair in small.items() for word in pair)])
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(self.folder / script), run_name="__main__")
        assert end.value.code == 0
        # A run keeps its folder locked until its process ends, which here goes on.
        for descriptor in Path("/proc/self/fd").iterdir():
            if descriptor.is_symlink() and descriptor.readlink() == self.folder / "checkpoint":
                os.close(int(descriptor.name))

    def bash(self, command: str) -> subprocess.CompletedProcess:
        """A line of a shell, with the stand-ins on PATH."""
        return subprocess.run(["bash", "-c", command], cwd=self.folder, env=self.bench.env, capture_output=True,
                              text=True, timeout=120, check=False)

    def launch(self, command: str, platform: str) -> None:
        """Run a launcher with stand-ins for the programs that it starts; then, where there is one process on CPU, what
        it would have started."""
        self.bench.calls_file.write_text("")
        run = self.bash(command)
        assert run.returncode == 0, run.stderr
        calls = self.bench.calls
        assert calls
        for call in calls:
            script = next(word for word in call["argv"] if word.endswith(("train.py", "eval.py")))
            arguments = call["argv"][call["argv"].index(script) + 1:]
            assert arguments[:2] == ["--platform", platform]
            assert get_config(arguments).platform == platform
            if platform == "CPU" and not {"--distribute", "--enable_cache"} & set(arguments):
                self.python(os.path.relpath(script, self.folder), arguments)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_every_command_of_the_readme_runs(reader: Reader) -> None:
    typed = commands(README)
    assert set(NOT_RUN) <= set(typed), "NOT_RUN names a command that is not in the README"
    for command in typed:
        if command not in NOT_RUN:
            print("README:", command)
            reader.type(command)
    made = ("photos.png", "checkpoint/best.ckpt", "checkpoint/report.html", "confusion.png",
            "predictions/predictions.csv", "mobilenetv2.mindir", "mobilenetv2.onnx", "out/predictions.png", "label.txt")
    assert [name for name in made if not (reader.folder / name).is_file()] == []
    about = json.loads((reader.folder / "checkpoint/last.json").read_text(encoding="utf-8"))
    assert about["classes"] == ["apple", "pear"]


def test_launch_commands_of_the_documents(reader: Reader) -> None:
    make_images(reader.folder, {"pictures/train/apple": 1, "grocery20/train/apple": 1})
    (reader.folder / "net.ckpt").touch()
    launches = [command for command in mentions(ROOT / "docs/distributed.md")
                if "scripts/run_train" in command and "..." not in command]
    assert len(launches) > 5
    for command in launches:
        here = re.sub(r"/(?:data|nfs)/", "", command)
        assert (run := reader.bash(here)).returncode == 0, f"{command}: {run.stderr}"


def test_an_unknown_command_is_not_passed_over(reader: Reader) -> None:
    for command in ("python tools/benchmark.py", "make all", "bash scripts/rank.sh"):
        with pytest.raises(AssertionError, match="nothing here knows how to try"):
            reader.type(command)
