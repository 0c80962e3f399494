"""The service of a ModelArts inference package: images in, their likeliest classes out.

The platform imports this file and calls `inference` of the parent class, which calls the three methods below. It runs
on the Python 3.7 of ModelArts' images, with what config.json asks for, and without the rest of the project: images.py
beside it is src/data/images.py. The network gets the same pixels as in eval.py.
"""
from __future__ import annotations

import base64
import binascii
import io
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from images import LOSSY_FORMATS, open_image, rewrite_reason, to_rgb
from model_service.model_service import SingleNodeService
from PIL import Image

MODEL, DESCRIPTION = "mobilenetv2.onnx", "mobilenetv2.onnx.json"
SHOWN = 5  # classes of an answer
BITS = 11  # of OpenCV's fixed-point numbers, in which MindSpore resizes
ONE = 1 << BITS
SLOPE = np.float32(-0.75)  # of OpenCV's cubic
TINY = np.finfo(np.float32).tiny
if TYPE_CHECKING:
    Images = list[tuple[str, np.ndarray | str]]  # name of each image, and its views or logits, or what is wrong with it


class MobileNetV2Service(SingleNodeService):
    """Classifies images.

    Args:
        model_name: the platform's name for the model.
        model_path: the folder of this package's files, or one of the files.
    """

    def __init__(self, model_name: str, model_path: str) -> None:
        self.model_name, self.model_path = model_name, model_path
        path = os.path.realpath(model_path)
        folder = path if os.path.isdir(path) else os.path.dirname(path)  # noqa: PTH112, PTH120 - the platform's words
        with open(os.path.join(folder, DESCRIPTION), encoding="utf-8") as file:  # noqa: PTH118, PTH123
            self._description = json.load(file)
        self._session = onnxruntime.InferenceSession(os.path.join(folder, MODEL),  # noqa: PTH118
                                                     providers=["CPUExecutionProvider"])

    def _preprocess(self, data: Any) -> Images:  # noqa: ANN401 - what the platform made of a request
        """The images of a request: a form with files, or JSON whose values are images in base64, or lists of them."""
        prepared: Images = []
        for name, content in _contents(data):
            try:
                pixels = read_pixels(content, self._description["odd_images"])
                prepared.append((name, views(pixels, self._description["preprocessing"])))
            except Exception as error:  # Pillow raises many types of error, and the other images are to be classified
                prepared.append((name, f"cannot be read as an image ({type(error).__name__})"))
        return prepared

    def _inference(self, data: Images) -> Images:
        """The logits of each image, C, the mean over its views."""
        return [(name, found if isinstance(found, str) else np.mean([self._logits(view) for view in found], axis=0))
                for name, found in data]

    def _logits(self, view: np.ndarray) -> np.ndarray:
        scores = self._session.run(None, {self._description["input"]["name"]: view[None]})[0][0]
        return np.log(np.maximum(scores, TINY)) if self._description["output"]["meaning"] == "probabilities" else scores

    def _postprocess(self, data: Images) -> dict[str, Any]:
        """The answer: of one image itself, else a list of answers with the names of the images."""
        answers = [{"error": found} if isinstance(found, str) else self._answer(found) for _, found in data]
        if len(answers) == 1:
            return answers[0]
        return {"images": [{"file": name, **answer} for (name, _), answer in zip(data, answers)]}  # noqa: B905 - 3.7

    def _answer(self, logits: np.ndarray) -> dict[str, Any]:
        confidence = self._description["output"].get("confidence") or {}
        scaled = logits.astype(np.float64) / confidence.get("temperature", 1.0)
        exponentials = np.exp(scaled - scaled.max())
        probabilities = exponentials / exponentials.sum()
        order = np.argsort(-probabilities, kind="stable")[:SHOWN].tolist()
        names = self._description["classes"] or list(map(str, range(len(logits))))
        answer: dict[str, Any] = {"predicted_label": names[order[0]],
                                  "scores": [[names[index], round(float(probabilities[index]), 6)] for index in order]}
        if confidence.get("unsure_below") is not None:
            answer["unsure"] = not probabilities[order[0]] >= confidence["unsure_below"]  # NaN is unsure
        return answer


def _contents(data: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 - see `_preprocess`
    """(name, file or base64) of each image of a request. The platform gives several form fields as a list, too."""
    found = []
    for part in data if isinstance(data, list) else [data]:
        for key, value in part.items():
            if isinstance(value, dict):
                found += list(value.items())
            elif isinstance(value, list):
                found += [(f"{key}[{index}]", one) for index, one in enumerate(value)]
            else:
                found.append((key, value))
    return found


def read_pixels(content: Any, odd: dict[str, int]) -> np.ndarray:  # noqa: ANN401 - a file, or a text in base64
    """The pixels of an image, H x W x 3 uint8.

    Args:
        content: a binary file, or base64, with or without the beginning of a data URL.
        odd: how images are rewritten before MindSpore's decoder gets them, from the description.

    Raises:
        Exception: it is no image, or a damaged one.
    """
    if isinstance(content, str):
        try:
            content = io.BytesIO(base64.b64decode(content.rpartition(",")[2], validate=True))
        except binascii.Error as error:
            raise ValueError("no base64") from error
    file = io.BytesIO(content.read())
    with open_image(file) as image:
        if not rewrite_reason(image):
            return np.asarray(image.convert("RGB"))
    file.seek(0)
    with open_image(file) as image:
        is_jpeg = image.format in LOSSY_FORMATS
        rgb = to_rgb(image, odd["shorter_side"])
    if not is_jpeg or max(rgb.size) > odd["longest_jpeg_side"]:
        return np.asarray(rgb)
    copy = io.BytesIO()
    rgb.save(copy, "JPEG", quality=odd["jpeg_quality"], subsampling=0)
    return np.asarray(Image.open(copy))


def views(pixels: np.ndarray, steps: dict[str, Any]) -> np.ndarray:
    """The views of an image that count, V x 3 x size x size float32 of 0 to 255.

    Args:
        pixels: H x W x 3 uint8.
        steps: `preprocessing` of the description.
    """
    size, mode, method = steps["centre_crop"], steps["crop_mode"], steps["interpolation"]
    height, width = pixels.shape[:2]
    if mode == "pad":
        longer = max(height, width)
        inner_height, inner_width = (max(1, int(side * size / longer + 0.5)) for side in (height, width))
        top, left = (size - inner_height) // 2, (size - inner_width) // 2
        framed = np.full((size, size, 3), steps["pad_colour"], np.uint8)
        framed[top:top + inner_height, left:left + inner_width] = resize(pixels, inner_height, inner_width, method)
    elif mode == "squash":
        framed = resize(pixels, size, size, method)
    else:
        shorter, w, h = steps["resize_shorter_side"], np.float32(width), np.float32(height)
        # The longer side as MindSpore has it: in float32, rounded down.
        framed = resize(pixels, shorter, int(w / h * np.float32(shorter)), method) if height < width else \
            resize(pixels, int(h / w * np.float32(shorter)), shorter, method)
    bottom, right = framed.shape[0] - size, framed.shape[1] - size
    corners = [(bottom // 2, right // 2)]
    if steps["tta"] == "five_crop":
        corners += [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    crops = [framed[top:top + size, left:left + size] for top, left in corners]
    if steps["tta"] == "flip":
        crops.append(crops[0][:, ::-1])
    return np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2), np.float32)


def resize(pixels: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
    """An image, H x W x 3 uint8, in another size, with the same bits as MindSpore's Resize, which is OpenCV's.

    `method` is bilinear or bicubic.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    taps = _bilinear_taps if method == "bilinear" else _cubic_taps
    columns, rows = taps(pixels.shape[1], width, True), taps(pixels.shape[0], height, False)
    lines = [sum(pixels[row][:, column].astype(np.int32) * weight[None, :, None]
                 for column, weight in zip(*columns)) for row in rows[0]]  # noqa: B905 - Python 3.7 has no strict
    weighted = [(line, weight[:, None, None]) for line, weight in zip(lines, rows[1])]  # noqa: B905
    if method == "bilinear":
        summed = (sum((weight * (line >> 4)) >> 16 for line, weight in weighted) + 2) >> 2
    else:  # in float32, and from the last row to the first
        scale = np.float32(1 / ONE ** 2)
        summed = np.rint(sum(line.astype(np.float32) * (weight * scale).astype(np.float32)
                             for line, weight in reversed(weighted)))
    return np.clip(summed, 0, 255).astype(np.uint8)


def _positions(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the centre of each target pixel lies: the pixel before it, and the distance from that one, float32."""
    position = ((np.arange(target) + 0.5) * (1.0 / (target / source)) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    return first, position - first.astype(np.float32)


def _bilinear_taps(source: int, target: int, pin: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The two pixels of each target pixel, and their weights. `pin` is for a row: its border has the weight 1."""
    first, share = _positions(source, target)
    if pin:
        share = np.where((first < 0) | (first >= source - 1), np.float32(0), share)
    places = [np.clip(first + step, 0, source - 1) for step in (0, 1)]
    return places, [_fixed(weight) for weight in (np.float32(1) - share, share)]


def _cubic_taps(source: int, target: int, _pin: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The four pixels of each target pixel, and their weights."""
    first, x = _positions(source, target)
    y, a = np.float32(1) - x, SLOPE
    weights = [((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a, ((a + 2) * x - (a + 3)) * x * x + 1,
               ((a + 2) * y - (a + 3)) * y * y + 1]
    weights.append(np.float32(1) - weights[0] - weights[1] - weights[2])
    return [np.clip(first + step, 0, source - 1) for step in (-1, 0, 1, 2)], list(map(_fixed, weights))


def _fixed(weights: np.ndarray) -> np.ndarray:
    return np.rint(weights * np.float32(ONE)).astype(np.int32)
