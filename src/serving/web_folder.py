"""A folder that classifies in the browser: page, network, and ONNX Runtime Web. Any web server for files will do."""
import contextlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.cache_folder import cache_folder
from src.data.framing import Framing
from src.download import check_digest, fetch
from src.errors import UserError, first_line
from src.files import atomic_folder
from src.model_utils.config import Config
from src.serving.page_files import ALONE, FOLDER

VERSION = "1.23.2"  # that of onnxruntime in requirements.txt
PACKAGE = f"onnxruntime-web-{VERSION}.tgz"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/{PACKAGE}"
SHA256 = "0b8707d7efab9a2bea63564d66cad79e897cfd0bd627e5ae000488ffc1c45c7d"
# The script has another ending than in the package: many web servers do not know .mjs.
RUNTIME = {"package/dist/ort.wasm.bundle.min.mjs": "onnxruntime.js",
           "package/dist/ort-wasm-simd-threaded.wasm": "onnxruntime.wasm"}
MODEL, DESCRIPTION = "model.onnx", "model.json"


def runtime_package(config: Config) -> Path:
    """The npm package of ONNX Runtime Web: the file of `web_runtime`, else that of the cache folder, else fetched.

    Raises:
        UserError: it cannot be fetched, or is not the pinned one; or the page cannot do what the run asks for.
    """
    if config.export_batch_size != 1:
        raise UserError(f"WEB takes one image at a time: leave out --export_batch_size {config.export_batch_size}")
    if config.tta != Framing.tta:
        raise UserError(f"WEB takes one view of an image: leave out --tta {config.tta}")
    if config.web_runtime:
        path = Path(config.web_runtime)
    else:
        try:
            path = cache_folder("onnxruntime-web") / PACKAGE
        except OSError as error:
            raise UserError(f"onnxruntime-web: no cache folder to keep it in: {error}") from error
        fetch(URL, path, SHA256)
    check_digest(path, SHA256)
    return path


@contextlib.contextmanager
def web_folder(path: Path, package: Path) -> Iterator[Path]:
    """A temporary folder with the page and the runtime, to put `MODEL` and `DESCRIPTION` into. It is then renamed.

    Args:
        path: of the folder.
        package: of `runtime_package`.

    Raises:
        UserError: `path` exists and is not an empty folder, or cannot be made; the package cannot be read.
    """
    with atomic_folder(path) as folder:
        for name, source in ALONE.items():
            (folder / name).write_bytes((FOLDER / source).read_bytes())
        for name, content in _unpack(package).items():
            (folder / name).write_bytes(content)
        yield folder


def _unpack(package: Path) -> dict[str, bytes]:
    """The files of the runtime by their names in the folder."""
    try:
        with tarfile.open(package) as archive:
            return {name: _content(archive, member) for member, name in RUNTIME.items()}
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise UserError(f"{package}: not the package onnxruntime-web {VERSION} ({first_line(error)})") from error


def _content(archive: tarfile.TarFile, member: str) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise KeyError(member)
    with file:
        return file.read()


def describe_web(description: Mapping[str, Any]) -> str:
    """The text of `DESCRIPTION`: that of an exported file, and the runtime."""
    runtime = {"name": "onnxruntime-web", "version": VERSION, "package": URL, "sha256": SHA256, "licence": "MIT"}
    return json.dumps({**description, "runtime": runtime}, indent=1) + "\n"
