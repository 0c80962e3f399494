"""Writes weights as Keras and TensorFlow save them, with h5py and numpy alone."""
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.checkpoint.crc32c import masked_crc32c
from src.checkpoint.namings import MINDSPORE, NAMINGS, Naming

Arrays = Mapping[str, np.ndarray]
SLIM, KERAS, KERAS_3 = ({naming.name: naming for naming in NAMINGS}[name] for name in ("TF-slim", "Keras", "Keras 3"))
NORM_VARIABLES = tuple(MINDSPORE)


def layers_of(weights: Arrays, naming: Naming) -> dict[str, dict[str, np.ndarray]]:
    """The variables of each layer, in the order in which Keras makes them, with its name and TensorFlow's axes.

    A kernel is called `weight`, whatever layer it is of.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for ours, conv, norm in naming.layers:
        kernel = weights[f"{ours}.conv.weight"]
        found[conv] = {"weight": kernel.transpose((2, 3, 0, 1) if "depthwise" in ours else (2, 3, 1, 0))}
        found[norm] = {name: weights[f"{ours}.bn.{name}"] for name in NORM_VARIABLES}
    if "head.classifier.weight" in weights:
        found[naming.classifiers[0]] = {"weight": weights["head.classifier.weight"].T,
                                        "bias": weights["head.classifier.bias"]}
    return found


def write_keras_h5(path: Path, weights: Arrays, parent: str = "", suffix: str = ":0") -> Path:
    """As Keras 2 and the published files have it; `parent` for a whole model, `suffix` "" for Keras 3."""
    import h5py
    layers = layers_of(weights, KERAS)
    with h5py.File(path, "w") as file:
        root = file.create_group(parent) if parent else file
        root.attrs["layer_names"] = [name.encode() for name in layers]
        root.attrs["backend"], root.attrs["keras_version"] = b"tensorflow", b"2.2.4"
        for layer, variables in layers.items():
            kernel = "depthwise_kernel" if layer.endswith("depthwise") and suffix else "kernel"
            names = {f"{layer}/{kernel if name == 'weight' else name}{suffix}": value
                     for name, value in variables.items()}
            group = root.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in names.items():
                group[name] = value
    return path


def write_keras_weights(path: Path, weights: Arrays, network: str = "") -> Path:
    """As Keras 3 has it, with an optimizer's state; `network` for one within another."""
    import h5py
    with h5py.File(path, "w") as file:
        for layer, variables in layers_of(weights, KERAS_3).items():
            inner = f"layers/{network}/layers" if network and not layer.startswith("dense") else "layers"
            for i, value in enumerate(variables.values()):
                file[f"{inner}/{layer}/vars/{i}"] = value
                file[f"optimizer/vars/{len(file['optimizer/vars']) if 'optimizer' in file else 0}"] = value + 1
    return path


def write_keras_archive(path: Path, weights: Arrays) -> Path:
    """A `.keras` file."""
    inner = write_keras_weights(path.with_suffix(".weights.h5"), weights)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", "{}")
        archive.write(inner, "model.weights.h5")
    inner.unlink()
    return path


def slim_variables(weights: Arrays) -> dict[str, np.ndarray]:
    """The variables of a network of TF-slim."""
    found = {}
    for layer, variables in layers_of(weights, SLIM).items():
        own_names = {"weight": "depthwise_weights" if layer.endswith("depthwise") else "weights", "bias": "biases"}
        for name, value in variables.items():
            is_matrix = layer.startswith("Logits") and value.ndim > 1  # there it is a 1x1 convolution
            found[f"MobilenetV2/{layer.replace('.', '/')}/{own_names.get(name, name)}"] = \
                value[None, None] if is_matrix else value
    return found


def write_bundle(prefix: Path, tensors: Arrays, **faults: Any) -> Path:  # noqa: ANN401 - of fields
    """A checkpoint of TensorFlow with float32 and int64 tensors; returns the path of its index.

    `faults` are other values for the header's `shards` and for the `offset` and `slices` of the first tensor.
    """
    rows, content = [(b"", _field(1, faults.get("shards", 1)))], b""
    for number, (name, value) in enumerate(sorted(tensors.items(), key=lambda item: item[0].encode())):
        own = faults if number == 0 else {}
        data = np.ascontiguousarray(value).tobytes()
        shape = b"".join(_field(2, _field(1, side)) for side in value.shape)
        entry = _field(1, 9 if value.dtype == np.int64 else 1) + _field(2, shape)
        entry += _field(4, own.get("offset", len(content))) + _field(5, len(data))
        entry += bytes([6 << 3 | 5]) + masked_crc32c(data).to_bytes(4, "little")
        rows.append((name.encode(), entry + (_field(7, b"") if own.get("slices") else b"")))
        content += data
    blocks = [_block(rows[i:i + 50]) for i in range(0, len(rows), 50)]
    handles, at = [], 0
    for i, block in enumerate(blocks):
        handles.append((rows[min(50 * i + 49, len(rows) - 1)][0], _varint(at) + _varint(len(block) - 5)))
        at += len(block)
    meta, index = _block([]), _block(handles)
    footer = _varint(at) + _varint(len(meta) - 5) + _varint(at + len(meta)) + _varint(len(index) - 5)
    path = prefix.with_name(f"{prefix.name}.index")
    path.write_bytes(b"".join(blocks) + meta + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db"))
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(content)
    return path


def _block(rows: list[tuple[bytes, bytes]]) -> bytes:
    """Each key shares what it can with the one before it; one restart."""
    content, before = b"", b""
    for key, value in rows:
        shared = next((i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b),
                      min(len(key), len(before)))
        content += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        before = key
    content += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    return content + b"\0" + masked_crc32c(content + b"\0").to_bytes(4, "little")


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
