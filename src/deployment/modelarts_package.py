"""Writes an inference package of ModelArts: a folder model/ with an ONNX file, config.json and customize_service.py.

The form is that of "Model Package Specifications" in Huawei's documents:
https://support.huaweicloud.com/intl/en-us/inference-modelarts/inference-modelarts-0056.html
"""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.checkpoint.file import Checkpoint
from src.data import images
from src.data.blank_image import LONGEST_JPEG_SIDE
from src.data.image_cache import JPEG_QUALITY, longest_shorter_side
from src.deployment.description import description_path
from src.deployment.exporter import write_description
from src.errors import UserError
from src.files import atomic_write
from src.json_records import read_json
from src.model_utils.config import Config

FORMAT = "MODELARTS"
SERVICE = Path(__file__).parent / "modelarts_service" / "customize_service.py"
MODEL = "mobilenetv2.onnx"
CONFIG = "config.json"
# The newest engine of that name among ModelArts' inference images, and what there is for its Python 3.7.
ENGINE, RUNTIME = "MindSpore", "mindspore_1.7.0-cpu-py_3.7-ubuntu_18.04-x86_64"
PACKAGES = {"numpy": "1.21.6", "Pillow": "9.5.0", "onnxruntime": "1.14.1"}
METRICS = {"accuracy": "top1", "f1": "macro_f1", "recall": "balanced_accuracy"}  # their names for ours


def model_in_package(config: Config) -> Path:
    """The path of the ONNX file in the package that `file_name` names.

    Raises:
        UserError: the folder has something in it already; or images would not come one at a time.
    """
    package = Path(config.file_name)
    if package.exists() and (not package.is_dir() or any(package.iterdir())):
        raise UserError(f"{package}: already exists and is not an empty folder; name another one with --file_name")
    if config.export_batch_size > 1:
        raise UserError("a service takes one image at a time: leave out --export_batch_size "
                        f"{config.export_batch_size}")
    return package / "model" / MODEL


def complete_package(model: Path, checkpoint: Checkpoint, image_size: int) -> None:
    """Write the files beside the ONNX file and its description.

    config.json is the last: without it the platform takes no package.

    Args:
        model: of `model_in_package`.
        checkpoint: that it was made from.
        image_size: of the network's input, pixels.

    Raises:
        UserError: a file cannot be written.
    """
    odd = {"shorter_side": longest_shorter_side(image_size), "jpeg_quality": JPEG_QUALITY,
           "longest_jpeg_side": LONGEST_JPEG_SIDE}
    write_description({**read_json(description_path(model)), "odd_images": odd}, model)
    _write(model.with_name("images.py"), Path(images.__file__).read_text(encoding="utf-8"))
    _write(model.with_name(SERVICE.name), SERVICE.read_text(encoding="utf-8"))
    metrics = checkpoint.training.metrics if checkpoint.training else {}
    _write(model.with_name(CONFIG), json.dumps(configuration(metrics), indent=1) + "\n")


def configuration(metrics: Mapping[str, float]) -> dict[str, Any]:
    """The content of config.json; `metrics` are those of a checkpoint, which has none if nothing was scored."""
    label, score = {"type": "string"}, {"type": "number"}
    found: dict[str, Any] = {
        "model_algorithm": "image_classification",
        "model_type": ENGINE,
        "runtime": RUNTIME,
        "apis": [{
            "protocol": "http",
            "url": "/",
            "method": "post",
            "request": {"Content-type": "multipart/form-data",
                        "data": {"type": "object", "properties": {"images": {"type": "file"}}}},
            "response": {"Content-type": "application/json", "data": {"type": "object", "properties": {
                "predicted_label": label,
                "scores": {"type": "array", "items": [
                    {"type": "array", "minItems": 2, "maxItems": 2, "items": [label, score]}]}}}},
        }],
        "dependencies": [{"installer": "pip", "packages": [
            {"package_name": name, "package_version": version, "restraint": "EXACT"}
            for name, version in PACKAGES.items()]}],
    }
    if scored := {name: metrics[ours] for name, ours in METRICS.items() if ours in metrics}:
        found["metrics"] = scored
    return found


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
