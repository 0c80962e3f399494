"""Writes formats of other projects, each from an ONNX file by its own converter, in an environment of its own.

src/deployment/converters/ has the scripts and the packages that they need. tools/install_converter.py makes the
environments.
"""
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.cache_folder import cache_folder
from src.deployment.description import description_path
from src.deployment.formats import ENDINGS, files_of, output_name
from src.environments import Environment, run_child
from src.errors import UserError
from src.files import atomic_folder, atomic_write

FOLDER = Path(__file__).with_name("converters")


@dataclass(frozen=True)
class Converter:
    """Who writes a format."""

    title: str
    script: Path
    environment: Environment
    size: str  # of the environment
    one_image: bool = False  # whether the format has no batches

    def python(self) -> Path:
        """The Python of its environment, which need not exist yet."""
        return self.environment.python_in(cache_folder("converters"))


CONVERTERS = {
    "TFLITE": Converter("onnx2tf", FOLDER / "to_tflite.py", Environment(FOLDER / "tflite.txt", "3.11"), "2.6 GB"),
    "NCNN": Converter("pnnx", FOLDER / "to_ncnn.py", Environment(FOLDER / "ncnn.txt", dependencies=False), "200 MB",
                      one_image=True),
    "COREML": Converter("coremltools", FOLDER / "to_coreml.py", Environment(FOLDER / "coreml.txt"), "300 MB"),
    "LITE": Converter("MindSpore Lite", FOLDER / "to_lite.py", Environment(FOLDER / "lite.txt", "3.7"), "600 MB"),
}


@dataclass(frozen=True)
class Converted:
    """What a converter wrote, in a temporary folder.

    Args:
        path: the file or folder.
        scores: what it computed for the images, N x C; None if it cannot be run here.
        remark: the reason then.
    """

    path: Path
    scores: np.ndarray | None
    remark: str

    def move_to(self, path: Path) -> None:
        """Move it to its place. A package, which is a folder, replaces none that is there.

        Raises:
            UserError: it cannot be written there.
        """
        if self.path.is_dir():
            with atomic_folder(path) as temporary:
                shutil.copytree(self.path, temporary, dirs_exist_ok=True)
        else:
            for source, target in zip(files_of(self.path), files_of(path), strict=True):
                with atomic_write(target) as temporary:
                    shutil.copyfile(source, temporary)
        description_path(path).unlink(missing_ok=True)  # it describes the old file


def require_converter(file_format: str, batch_size: int, path: Path) -> None:
    """Check that a format can be written to a path, for batches of this size (0: any).

    Raises:
        UserError: its converter is not installed, it has no batches, or `path` is a package that exists.
    """
    converter = CONVERTERS[file_format]
    if path.is_dir():
        raise UserError(f"{path}: already exists; name another --file_name, or remove it")
    if converter.one_image and batch_size != 1:
        raise UserError(f"{file_format} takes one image at a time: leave out --export_batch_size {batch_size}")
    if not converter.python().exists():
        raise UserError(f"{file_format} is written by {converter.title}, which is not installed; this fetches "
                        f"{converter.size}: python tools/install_converter.py {file_format}")


@contextlib.contextmanager
def convert(file_format: str, onnx: bytes, images: np.ndarray, softmax: bool,
            calibration: np.ndarray | None = None) -> Iterator[Converted]:
    """What the format's converter makes of an ONNX file, and what its runtime computes for the images.

    The files are deleted at the end of the block.

    Args:
        file_format: one of `CONVERTERS`.
        onnx: the content of the file.
        images: N x 3 x H x W float32, to compute the scores of.
        softmax: whether the scores are probabilities.
        calibration: for TFLITE, images of the same kind; the file is then of int8, and computes no scores here.

    Raises:
        UserError: the converter failed.
    """
    converter = CONVERTERS[file_format]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, output = folder / "network.onnx", folder / f"exported{ENDINGS[file_format]}"
        batch, scores = folder / "images.npy", folder / "scores.npy"
        source.write_bytes(onnx)
        np.save(batch, images)
        try:
            arguments = [source, output, batch, scores, output_name(softmax)]
            if calibration is not None:
                np.save(folder / "calibration.npy", calibration)
                arguments.append(folder / "calibration.npy")
            told = run_child([converter.python(), converter.script, *arguments])
        except UserError as error:
            raise UserError(f"{file_format}: {converter.title} cannot write this network: {error}") from error
        if scores.exists():
            yield Converted(output, np.load(scores), "")
        else:
            yield Converted(output, None, told.strip().splitlines()[-1])
