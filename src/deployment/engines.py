"""Runs exported networks: one class for each format, which imports the runtime when it is made."""
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.deployment.description import Description, unpack_metadata
from src.deployment.formats import ENDINGS, INPUT, PRODUCER
from src.errors import UserError, first_line
from src.file_kinds import MINDIR, NCNN, NCNN_BEGINNING, ONNX, TFLITE, file_kind

ONNX_BATCH_SIZE = 8  # activations of larger batches do not fit into the cache of a CPU
RUNTIMES = "pip install -r requirements-runtimes.txt"


class Engine(Protocol):
    """Runs a file on one batch of a size that the file takes."""

    image_size: int | None  # None if unknown
    batch_size: int  # 0 for any size, or if unknown
    best_batch_size: int  # the fastest one; 0 if unknown
    description: Description  # what the file says of itself

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """N x 3 x H x W float32 to N x C float32."""


class MindirEngine:
    """MindSpore runs a MINDIR."""

    image_size: int | None = None
    batch_size = best_batch_size = 0
    description = Description()

    def __init__(self, path: Path, _threads: int) -> None:
        try:
            self._cell = nn.GraphCell(ms.load(str(path)))
        except Exception as error:  # MindSpore raises what its parsers raise
            raise _unreadable(path, MINDIR, error) from error

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._cell(Tensor(images)).asnumpy()


class OnnxEngine:
    """ONNX Runtime runs an ONNX file."""

    image_size: int | None

    def __init__(self, path: Path, threads: int) -> None:
        onnxruntime = _runtime("onnxruntime", "ONNX Runtime", "pip install onnxruntime", path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # its faults are raised too
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class of its own for each fault
            raise _unreadable(path, ONNX, error) from error
        if len(inputs := self._session.get_inputs()) != 1:
            raise UserError(f"{path}: is no classifier of images: it has {len(inputs)} inputs, not one")
        images = inputs[0]
        self._input = images.name
        self.batch_size = _number(images.shape, 0) or 0
        self.best_batch_size = self.batch_size or ONNX_BATCH_SIZE
        self.image_size = _number(images.shape, 2)
        metadata = self._session.get_modelmeta()
        ours = metadata.producer_name == PRODUCER
        self.description = unpack_metadata(metadata.custom_metadata_map, path) if ours else Description()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.outputs(images)[0]

    def outputs(self, images: np.ndarray) -> list[np.ndarray]:
        """All outputs of the graph, in its order, for N x 3 x H x W float32."""
        return self._session.run(None, {self._input: images})


class TfliteEngine:
    """LiteRT runs a TFLite file, whose input is N x H x W x 3. Whole numbers of a quantised one are converted."""

    description = Description()

    def __init__(self, path: Path, threads: int) -> None:
        litert = _runtime("ai_edge_litert.interpreter", "LiteRT", RUNTIMES, path)
        try:
            self._interpreter = litert.Interpreter(model_content=path.read_bytes(), num_threads=threads or None)
            self._interpreter.allocate_tensors()
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise _unreadable(path, TFLITE, error) from error
        shape: tuple[int, ...] = tuple(map(int, inputs[0]["shape_signature"])) if len(inputs) == 1 else ()
        if len(outputs) != 1 or len(shape) != 4 or shape[3] != 3:
            raise UserError(f"{path}: is no classifier of images: its input is not N x H x W x 3, or not the only one")
        self._input, self._output = inputs[0], outputs[0]
        self.batch_size = max(0, shape[0])
        self.best_batch_size = self.batch_size or 1
        self.image_size = shape[1] if shape[1] > 0 else None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        batch = _quantised(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), self._input)
        if batch.shape != tuple(self._input["shape"]):
            self._interpreter.resize_tensor_input(self._input["index"], batch.shape, strict=True)
            self._interpreter.allocate_tensors()
            self._input = self._interpreter.get_input_details()[0]
        self._interpreter.set_tensor(self._input["index"], batch)
        self._interpreter.invoke()
        return _floats(self._interpreter.get_tensor(self._output["index"]), self._output)


class NcnnEngine:
    """ncnn runs its own files, one image at a time. The weights are in the file of ending .bin."""

    image_size: int | None = None
    batch_size = best_batch_size = 1
    description = Description()

    def __init__(self, path: Path, threads: int) -> None:
        ncnn = _runtime("ncnn", "ncnn", RUNTIMES, path)
        self._ncnn, self._net = ncnn, ncnn.Net()
        if threads:
            self._net.opt.num_threads = threads
        # By default ncnn computes in float16 where the processor can.
        self._net.opt.use_fp16_packed = self._net.opt.use_fp16_storage = self._net.opt.use_fp16_arithmetic = False
        with path.open("rb") as file:
            known = file.read(len(NCNN_BEGINNING)) == NCNN_BEGINNING  # else ncnn would print a line of its own
        if not known or self._net.load_param(str(path)) or self._net.load_model(str(path.with_suffix(".bin"))):
            raise _unreadable(path, NCNN)
        if len(outputs := self._net.output_names()) != 1 or self._net.input_names() != [INPUT]:
            raise UserError(f"{path}: is no network that this project exported: its only input would be {INPUT!r}")
        self._output = outputs[0]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.stack([self._run(image) for image in images])

    def _run(self, image: np.ndarray) -> np.ndarray:
        extractor = self._net.create_extractor()
        extractor.input(INPUT, self._ncnn.Mat(np.ascontiguousarray(image)))
        status, output = extractor.extract(self._output)
        if status:
            raise RuntimeError(f"ncnn ended with status {status}")
        return np.array(output)


ENGINES: dict[str, Callable[[Path, int], Engine]] = {
    ENDINGS["MINDIR"]: MindirEngine, ENDINGS["ONNX"]: OnnxEngine, ENDINGS["TFLITE"]: TfliteEngine,
    ENDINGS["NCNN"]: NcnnEngine,
}


def is_installed(module: str) -> bool:
    """Whether a runtime can be imported, as far as can be told without doing so."""
    return importlib.util.find_spec(module) is not None


def _runtime(module: str, title: str, advice: str, path: Path) -> ModuleType:
    """A runtime, by the name of its module."""
    if not is_installed(module.partition(".")[0]):
        raise UserError(f"{path}: needs {title}, which is not installed: {advice}")
    return importlib.import_module(module)


def _unreadable(path: Path, wanted: str, error: Exception | None = None) -> UserError:
    """The error for a file that its runtime cannot read, with what it is instead, if that is known."""
    kind = file_kind(path)
    if kind and kind != wanted:
        return UserError(f"{path}: not {wanted}, but {kind}")
    reason = f" ({first_line(error)})" if error else ""
    return UserError(f"{path}: not {wanted}, or a damaged one{reason}")


def _number(shape: Sequence[int | str | None], axis: int) -> int | None:
    """One side of an ONNX shape; None if it is open."""
    side = shape[axis] if axis < len(shape) else None
    return side if isinstance(side, int) else None


def _quantised(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Floats as an input of TFLite takes them: value = scale x (whole number - zero point)."""
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def _floats(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """The reverse, for an output."""
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return ((values.astype(np.float32) - zero) * scale).astype(np.float32)
