"""Makes an eight-bit ONNX file of a float one: static, per channel, calibrated on images, with corrected biases.

docs/deployment.md says what each of these steps gains, and what was tried and left out.
"""
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.files import atomic_write
from src.quantization.calibration import calibrate
from src.quantization.onnx_graph import activations, equalisable, load_folded, quantize_graph

FEWEST_IMAGES = 20  # ranges of fewer images are left to chance


def quantize_file(source: Path, images: np.ndarray, path: Path) -> None:
    """Write the eight-bit form of an ONNX file.

    Args:
        source: a file of `export`.
        images: N x 3 x H x W float32, prepared as the file wants its input.
        path: the file to write.

    Raises:
        UserError: there are too few images.
    """
    check_enough(images)
    model = load_folded(source)
    quantize_graph(model, calibrate(model, activations(model), equalisable(model), images))
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def check_enough(images: np.ndarray) -> None:
    """Raise UserError if there are too few images to calibrate on."""
    if len(images) < FEWEST_IMAGES:
        raise UserError(f"{len(images)} calibration image{'s' if len(images) != 1 else ''} that can be read: too few "
                        f"to measure the ranges of activations; give at least {FEWEST_IMAGES}, better 200")
