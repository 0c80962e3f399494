"""Opens trained weights that somebody names: a checkpoint of this project, a file of another one, or published weights.

The kind of a file is told from its content; its name and ending do not matter.
"""
import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from safetensors import deserialize

from src.checkpoint.file import Checkpoint, read_checkpoint
from src.checkpoint.foreign import Conversion, convert
from src.checkpoint.hugging_face import configured_convention
from src.checkpoint.keras_file import HDF5_SIGNATURE, is_keras_archive, read_keras_file
from src.checkpoint.namings import HUGGING_FACE, OURS, PYTORCH
from src.checkpoint.published import fetch_published, is_published
from src.checkpoint.record import CheckpointMetadata
from src.checkpoint.tensor_bundle import INDEX_ENDING, index_path, read_tensor_bundle
from src.checkpoint.tensorflow_names import slim_networks
from src.checkpoint.torch_file import read_torch_file
from src.errors import UserError, first_line
from src.file_kinds import BEGINNING, LITE, MINDIR, NCNN, ONNX, TFLITE, file_kind, is_text
from src.files import file_digest
from src.log import logger

SIGNATURES = {b"\x80": "torch", HDF5_SIGNATURE: "keras"}  # how files begin; the first one is a pickle
OTHER_FILES = {  # how they begin, and what is said of them
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; fetch it with git lfs pull",
    b"<!DOCTYPE": "a web page, not weights; fetch the file itself",
    b"<html": "a web page, not weights; fetch the file itself",
    b"PK\x03\x04": "a zip archive that was cut off; fetch it again",
}
SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
               "I8": "i1", "U8": "u1", "BOOL": "?"}
EXPORTED = {MINDIR, ONNX, TFLITE, NCNN, LITE}


def open_pretrained(name: str | Path, keep_background: bool = False) -> Checkpoint:
    """The weights that `name` is the path of, or published weights, under this project's names.

    A line on stdout says what a file of another project was found to hold. With `keep_background`, a class that it has
    before the 1000 of ImageNet stays.

    Raises:
        UserError: the file is missing, damaged, cannot be fetched, or holds no MobileNetV2 that this project can
            compute.
    """
    path = fetch_published(str(name)) if is_published(str(name)) else index_path(Path(name))
    values = read_weights(path)
    if isinstance(values, Checkpoint):
        return values
    conversion = convert(values, path, keep_background)
    logger.info(f"{path}: {conversion}")
    return converted_checkpoint(conversion, path)


def read_weights(path: Path) -> Checkpoint | dict[str, Any]:
    """The content of a file: a checkpoint of this project, or the named arrays of another one.

    Raises:
        UserError: the file is missing, damaged, or of a kind that is not read.
    """
    kind = _kind(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind == "torch":
        return read_torch_file(path)
    if kind == "keras":
        return read_keras_file(path)
    if kind == "tensorflow":
        return slim_networks(read_tensor_bundle(path))
    checkpoint = read_checkpoint(path)
    own = f"{OURS.layers[0].conv}.weight"
    if own in checkpoint.network or checkpoint.training or checkpoint.config:
        return checkpoint
    return {name: _array(value) for name, value in checkpoint.network.items()}


def converted_checkpoint(conversion: Conversion, path: Path) -> Checkpoint:
    """Converted weights as a checkpoint of this project would hold them. `path` is the file that they are from."""
    config: dict[str, Any] = {"width_mult": conversion.width_mult}
    if conversion.num_classes:
        config["num_classes"] = conversion.num_classes
    convention = conversion.naming.convention
    if conversion.naming is HUGGING_FACE:
        convention = configured_convention(path)
    if convention != PYTORCH:
        config |= dataclasses.asdict(convention)
    network = {name: Tensor(value) for name, value in conversion.weights.items()}
    return Checkpoint(path, network, {}, CheckpointMetadata(config=config, source=path.name), file_digest(path))


def _kind(path: Path) -> str:
    """`safetensors`, `torch`, `keras`, `tensorflow`, or else `checkpoint`.

    Raises:
        UserError: the file is of a known kind that is not read.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
            file.seek(0)
            if zipfile.is_zipfile(file):
                return "keras" if is_keras_archive(path) else "torch"
            size = file.seek(0, 2)
            file.seek(-min(size, len(INDEX_ENDING)), 2)
            ending = file.read()
    except OSError:
        return "checkpoint"  # whose reader says what is wrong
    for signature, kind in SIGNATURES.items():
        if beginning.startswith(signature):
            return kind
    if beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") < size:  # the length of this JSON
        return "safetensors"
    if ending == INDEX_ENDING:
        return "tensorflow"
    for signature, meaning in OTHER_FILES.items():
        if beginning.startswith(signature):
            raise UserError(f"{path}: {meaning}")
    if (kind := file_kind(path)) in EXPORTED:
        raise UserError(f"{path}: {kind}, not a checkpoint; eval.py and infer.py take exported networks by their "
                        "endings .mindir, .onnx, .tflite and .param")
    if beginning and is_text(beginning):
        raise UserError(f"{path}: a text, not a MindSpore checkpoint or another file of weights")
    return "checkpoint"


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of a safetensors file; bfloat16 ones become float32.

    Raises:
        UserError: the file is damaged, or has a type of numbers that no network here has.
    """
    try:
        return {name: _decode(value["data"], value["dtype"], value["shape"])
                for name, value in sorted(deserialize(path.read_bytes()))}  # which has no order of its own
    except Exception as error:  # the reader documents none of its exceptions
        raise UserError(f"{path}: not a safetensors file of numbers, or a damaged one ({first_line(error)})") from error


def _decode(content: bytes, kind: str, shape: list[int]) -> np.ndarray:
    values = np.frombuffer(content, SAFETENSORS[kind])
    if kind == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape)


def _array(value: Tensor) -> np.ndarray:
    return (value.astype(ms.float32) if value.dtype == ms.bfloat16 else value).asnumpy()
