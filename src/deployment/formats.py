"""The formats of exported networks: endings, files, and the names of the input and the output."""
from pathlib import Path

ENDINGS = {"MINDIR": ".mindir", "ONNX": ".onnx", "AIR": ".air", "TFLITE": ".tflite", "NCNN": ".param",
           "COREML": ".mlpackage", "LITE": ".ms", "MODELARTS": ".onnx", "WEB": ""}  # the last two are folders
INPUT = "images"
ACTIVATION_MAP = "activation_map"  # the second output, where there is one
PRODUCER = "mobilenetv2-mindspore"  # who wrote an ONNX file


def output_name(softmax: bool) -> str:
    """The name of the output, which says what it is."""
    return "probabilities" if softmax else "logits"


def input_layout(path: Path) -> str:
    """The order of the input's dimensions."""
    return "NHWC" if path.suffix == ENDINGS["TFLITE"] else "NCHW"


def files_of(path: Path) -> list[Path]:
    """All files of an exported network: ncnn's weights are in a second one, and Core ML's package is a folder."""
    if path.suffix == ENDINGS["NCNN"]:
        return [path, path.with_suffix(".bin")]
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
