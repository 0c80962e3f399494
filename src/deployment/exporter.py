"""Exports a trained network for deployment: as MINDIR, ONNX or, on Ascend, AIR, with a JSON that says how to use it.

The exported graph has stock cells alone, whatever kernels the network was trained with. The JSON has the classes, the
preprocessing and the digest; see src/deployment/description.py.
"""
import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.checkpoint.file import Checkpoint
from src.confidence import Confidence
from src.data.framing import PAD_COLOUR, Framing
from src.data.transforms import CENTRE
from src.deployment.description import ANY_SIZE, content_digest, description_path, pack_metadata
from src.deployment.formats import ENDINGS, INPUT, input_layout, output_name
from src.deployment.onnx_graph import OnnxGraph
from src.errors import UserError, first_line
from src.files import atomic_write
from src.json_records import to_json
from src.model_utils.config import Config
from src.models import plain_network
from src.normalisation import IMAGENET_PIXELS, Normalisation
from src.utils import class_count, load_weights

DYNAMIC_TRIAL = 3  # batch size for the check of a file with dynamic batch size


@dataclass(frozen=True)
class ExportOptions:
    """Input and output of an exported graph."""

    image_size: int
    batch_size: int = 1  # 0: any
    normalise: bool = False  # True: the graph takes RGB pixels of 0 to 255 and normalises them
    softmax: bool = False  # True: the output is probabilities, not logits
    normalisation: Normalisation = IMAGENET_PIXELS  # in the graph, or before it
    framing: Framing = CENTRE  # before the graph
    confidence: Confidence | None = None  # for the JSON; the graph has softmax alone, without a temperature
    activation_map: bool = False  # True: ONNX has a second output, the class activation map


class Deployable(nn.Cell):
    """A network with optional normalisation and softmax: N x 3 x H x W images to N x C logits or probabilities."""

    def __init__(self, network: nn.Cell, options: ExportOptions) -> None:
        super().__init__()
        self.network = network
        self.normalise, self.softmax = options.normalise, options.softmax
        mean, std = options.normalisation.mean, options.normalisation.std
        self.mean = Tensor(255 * np.array(mean, np.float32).reshape(1, 3, 1, 1))
        self.scale = Tensor(1 / (255 * np.array(std, np.float32)).reshape(1, 3, 1, 1))

    def construct(self, images: Tensor) -> Tensor:
        if self.normalise:
            images = (images - self.mean) * self.scale
        scores = self.network(images)
        return ops.softmax(scores, -1) if self.softmax else scores


def deployable(checkpoint: Checkpoint, config: Config, options: ExportOptions) -> Deployable:
    """The network of a checkpoint, ready for export.

    Raises:
        UserError: the checkpoint does not fit the network of the configuration.
    """
    network = plain_network(config, class_count(checkpoint) or max(1, config.num_classes))
    load_weights(network, checkpoint)
    return Deployable(network, options).set_train(False)


def export(network: Deployable, options: ExportOptions, path: Path, classes: tuple[str, ...] | None = None) -> None:
    """Write a file in the format of `path`'s ending, whole or not at all.

    ONNX has the names of the `classes` and the preprocessing inside, too.

    Raises:
        UserError: MindSpore cannot write it; AIR needs Ascend.
    """
    with atomic_write(path) as temporary:
        if path.suffix == ENDINGS["ONNX"]:
            temporary.write_bytes(onnx_content(network, options, classes))
        else:
            with _plainly_named_folder(path.parent) as folder:
                written = folder / f"network{path.suffix}"
                _write_with_mindspore(network, options, written, path)
                written.replace(temporary)
        description_path(path).unlink(missing_ok=True)  # it describes the old file


def onnx_content(network: Deployable, options: ExportOptions, classes: tuple[str, ...] | None) -> bytes:
    """The content of an ONNX file."""
    graph = OnnxGraph(options.batch_size, options.image_size)
    x = graph.normalise(INPUT, network.mean, network.scale) if options.normalise else INPUT
    x = graph.cell(network.network, "", x)
    if options.softmax:
        graph.softmax(x)
    metadata = pack_metadata(usage(options, classes, graph.num_classes))
    return graph.model(output_name(options.softmax), metadata, options.activation_map).SerializeToString()


def _write_with_mindspore(network: Deployable, options: ExportOptions, written: Path, path: Path) -> None:
    """Write MINDIR or AIR to `written`; errors name `path`."""
    images = Tensor(shape=(options.batch_size or None, 3, options.image_size, options.image_size), dtype=ms.float32)
    try:
        ms.export(network, images, file_name=str(written), file_format=path.suffix[1:].upper())
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{path}: MindSpore cannot export this: {first_line(error)}") from error


@contextlib.contextmanager
def _plainly_named_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder in `parent`, by a path that MindSpore writes to: it refuses all but ASCII letters and digits.

    MindSpore makes the folder of its output readable for the owner only, so it is not `parent` itself.
    """
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


def describe(path: Path, options: ExportOptions, classes: tuple[str, ...] | None, num_classes: int,
             metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The description of an exported file: its input, output, preprocessing and classes, with further `metadata`."""
    used = usage(options, classes, num_classes)
    used["input"]["layout"] = input_layout(path)
    return {"file": path.name, "sha256": content_digest(path), **used, **metadata}


def usage(options: ExportOptions, classes: tuple[str, ...] | None, num_classes: int) -> dict[str, Any]:
    """How an exported network is used: input, output, preprocessing and classes. Sizes are in pixels."""
    output = output_name(options.softmax)
    return {
        "input": {"name": INPUT, "layout": "NCHW", "type": "float32", "batch_size": options.batch_size or ANY_SIZE},
        "output": {"name": output, "meaning": output, "num_classes": num_classes,
                   **({"confidence": to_json(options.confidence)} if options.confidence else {})},
        "preprocessing": {
            "colours": "RGB",
            **_framing(options.framing, options.image_size),
            "centre_crop": options.image_size,
            "pixels": [0, 255],
            "mean": options.normalisation.pixel_mean,
            "std": options.normalisation.pixel_std,
            "normalise": "inside the graph" if options.normalise else "before the graph",
        },
        "classes": list(classes) if classes else None,
    }


def _framing(framing: Framing, image_size: int) -> dict[str, Any]:
    """What is done with an image before `centre_crop`, which leaves all of a square that has its size already."""
    numbers: dict[str, Any] = {"resize_shorter_side": framing.shorter_side(image_size)}
    if framing.crop_mode == "pad":
        numbers = {"resize_longer_side": image_size, "pad_colour": list(PAD_COLOUR)}
    elif framing.crop_mode == "squash":
        numbers = {"resize": [image_size, image_size]}
    return {**dataclasses.asdict(framing), **numbers}


def write_description(description: Mapping[str, Any], path: Path) -> None:
    """Write the JSON beside an exported file."""
    with atomic_write(description_path(path)) as temporary:
        temporary.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def random_images(options: ExportOptions) -> np.ndarray:
    """A batch of noise as input for a graph with these options, float32."""
    shape = (options.batch_size or DYNAMIC_TRIAL, 3, options.image_size, options.image_size)
    generator = np.random.default_rng(0)
    if options.normalise:
        return generator.integers(0, 256, shape).astype(np.float32)
    return generator.standard_normal(shape).astype(np.float32)
