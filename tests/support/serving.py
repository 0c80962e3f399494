"""What the tests of the page share: a small model, and requests as a client sends them."""
import http.client
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from mindspore import Tensor

from src.checkpoint.file import write_checkpoint
from src.checkpoint.record import CheckpointMetadata
from src.confidence import Confidence
from src.mobilenetV2 import MobileNetV2
from tools.load_test import Server

SIZE = 64  # pixels: the last feature map has 2 x 2 places
CLASSES = ("blue", "<b>green</b>", "red")
BIAS = np.array([-10.4, -4.2, 0.5], np.float32)  # else all images were of one class
Body = bytes | Iterable[bytes] | None  # of unknown length, if it is not bytes

JPEG = {"Content-Type": "image/jpeg"}


def write_model(path: Path, confidence: Confidence | None = None, **framing: object) -> Path:
    """A narrow network of random weights, whose logits are some units and differ between images."""
    network = MobileNetV2(len(CLASSES), 0.35)
    generator = np.random.default_rng(3)
    for parameter in network.get_parameters():
        if parameter.name.endswith("moving_variance"):
            parameter.set_data(Tensor(generator.uniform(0.5, 0.8, parameter.shape).astype(np.float32)))
        elif parameter.name.endswith("conv.weight"):
            deviation = np.sqrt(1.5 / np.prod(parameter.shape[1:]))
            parameter.set_data(Tensor((deviation * generator.standard_normal(parameter.shape)).astype(np.float32)))
        elif parameter.name.endswith("classifier.weight"):
            parameter.set_data(Tensor(0.1 * generator.standard_normal(parameter.shape).astype(np.float32)))
        elif parameter.name.endswith("classifier.bias"):
            parameter.set_data(Tensor(BIAS))
    write_checkpoint(path, {parameter.name: parameter for parameter in network.get_parameters()}, {},
                     CheckpointMetadata({"width_mult": 0.35, "image_size": SIZE, **framing}, CLASSES,
                                        confidence=confidence))
    return path


class Connection:
    """A client's connection to a server."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection(*server.address, timeout=60)

    def ask(self, method: str, path: str, body: Body = None,
            headers: Mapping[str, str] | None = None) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Status, body and headers of an answer."""
        self._connection.request(method, path, body, dict(headers or {}), encode_chunked=not isinstance(body, bytes))
        return self.answer()

    def answer(self) -> tuple[int, bytes, http.client.HTTPMessage]:
        """The answer to what has been sent."""
        found = self._connection.getresponse()
        return found.status, found.read(), found.headers

    def begin(self, image: bytes, headers: Mapping[str, str] = JPEG) -> None:
        """Send a request for an image, but for the second half of the image."""
        self._connection.putrequest("POST", "/predict")
        for name, value in {**headers, "Content-Length": str(len(image))}.items():
            self._connection.putheader(name, value)
        self._connection.endheaders(image[:len(image) // 2])

    def go_on(self, image: bytes) -> None:
        """Send the second half."""
        self._connection.send(image[len(image) // 2:])

    def close(self) -> None:
        self._connection.close()


def predict(server: Server, body: Body, headers: Mapping[str, str] = JPEG) -> tuple[int, dict, http.client.HTTPMessage]:
    """POST /predict on a connection of its own: status, JSON and headers."""
    connection = Connection(server)
    try:
        status, content, found = connection.ask("POST", "/predict", body, headers)
    finally:
        connection.close()
    return status, json.loads(content), found


def form(image: bytes, name: str = "file", file_name: str | None = "photo.jpg") -> tuple[bytes, dict[str, str]]:
    """A form with one field, and its headers."""
    where = f'; filename="{file_name}"' if file_name else ""
    body = b"".join([b"--limit\r\nContent-Disposition: form-data; ", f'name="{name}"{where}'.encode(), b"\r\n\r\n",
                     image, b"\r\n--limit--\r\n"])
    return body, {"Content-Type": "multipart/form-data; boundary=limit"}
