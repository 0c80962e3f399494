"""Reads weights that Keras saved, without Keras: `.h5` and `.weights.h5`, and the latter in the zip archive `.keras`.

There are two layouts. The older one, in which the weights of keras.applications are published, has the names of layers:
`Conv1/Conv1/kernel:0`, in a whole model below `model_weights`. Keras 3 has `layers/conv2d_1/vars/0`: the kind of the
layer, counted, and its variables in the order in which they were made. The configuration of a model, which may have
code, is not read.
"""
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from src.checkpoint.tensorflow_names import channels_first
from src.errors import UserError, first_line

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
INNER_FILE = "model.weights.h5"  # in a .keras archive
H5PY = "h5py==3.14.0"  # as tested, in requirements-dev.txt, too
LARGEST_ARRAY, LARGEST_FILE = 2 ** 28, 2 ** 30  # bytes, unpacked; a classifier of 21841 classes has 2^27
TRAINING_STATE = ("optimizer", "optimizer_weights")
NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")
KERNEL_VARIABLES = ("kernel", "bias")


def is_keras_archive(path: Path) -> bool:
    """Whether a zip archive is one of Keras; a damaged one is not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return INNER_FILE in archive.namelist()
    except Exception:  # zipfile raises many types of error; whoever reads the archive says what is wrong
        return False


def read_keras_file(path: Path) -> dict[str, np.ndarray]:
    """The weights of a file, in PyTorch's form, by the names of the layers; without the state of an optimizer.

    Raises:
        UserError: h5py is not installed; the file is damaged, or refers to other files.
    """
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path}: a file of Keras needs h5py, which is not installed: pip install {H5PY}") from None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive, archive.open(INNER_FILE) as content, h5py.File(content) as file:
                return _weights(h5py, file)
        with h5py.File(path) as file:
            return _weights(h5py, file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # h5py and zipfile raise many types of error for a damaged file
        raise UserError(f"{path}: not a file of Keras, or a damaged one ({first_line(error)})") from error


def _weights(h5py: ModuleType, file: Any) -> dict[str, np.ndarray]:  # noqa: ANN401 - h5py has no types
    arrays: dict[str, np.ndarray] = {}
    for place, value in _arrays(h5py, file):
        arrays |= [channels_first(_name(place), value)]
        if sum(array.nbytes for array in arrays.values()) > LARGEST_FILE:
            raise UserError(f"has more than {LARGEST_FILE} bytes of weights, more than any MobileNetV2")
    dense = [name for name in arrays if re.fullmatch(r"dense(_\d+)?\.weight", name)]
    if len(dense) == 1:  # Keras counts the layers that a process has made
        own = dense[0].rpartition(".")[0]
        arrays = {re.sub(rf"^{own}\.", "dense.", name): value for name, value in arrays.items()}
    return arrays


def _arrays(h5py: ModuleType, group: Any, *path: str) -> Iterator[tuple[list[str], np.ndarray]]:  # noqa: ANN401
    """The arrays of real numbers below a group, with the parts of their names."""
    for name in group:
        link, place = group.get(name, getlink=True), [*path, name]
        if not isinstance(link, h5py.HardLink):
            raise UserError(f"{'/'.join(place)} is a link, which is not followed")
        if place[0] in TRAINING_STATE:
            continue
        member = group[name]
        if isinstance(member, h5py.Group):
            yield from _arrays(h5py, member, *place)
        elif member.dtype.kind == "f":
            if member.external or member.is_virtual:
                raise UserError(f"{'/'.join(place)} is in another file, which is not read")
            if member.nbytes > LARGEST_ARRAY:
                raise UserError(f"{'/'.join(place)} has {member.nbytes} bytes, more than any part of a MobileNetV2")
            yield place, member[()]


def _name(place: list[str]) -> str:
    """The name of an array by its place: the layer, with the networks around it, and the variable."""
    parts = [part.replace(".", "_") for part in place if part not in {"layers", "model_weights"}]
    *layer, last = parts
    if len(layer) > 1 and layer[-1] == "vars":
        layer.pop()
        variables = NORM_VARIABLES if layer[-1].startswith("batch_normalization") else KERNEL_VARIABLES
        last = variables[int(last)] if last.isdigit() and int(last) < len(variables) else last
    elif layer and layer[0] in layer[1:]:  # the layer's name, and below it that of the variable, which begins so, too
        layer = layer[len(layer) - 1 - layer[::-1].index(layer[0]):]
    return "/".join([*layer, last.partition(":")[0]])
