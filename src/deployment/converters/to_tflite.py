"""Writes a TFLite file from an ONNX file: to_tflite.py ONNX OUTPUT IMAGES SCORES NAME [CALIBRATION].

With images to calibrate on, N x 3 x H x W, all weights, activations, the input and the output are int8.
"""
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx2tf
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter


def main(source: str, output: str, images: str, scores: str, name: str, calibration: str = "") -> None:
    """Convert; run a float file on the N x 3 x H x W images. TFLite takes N x H x W x 3."""
    # onnx2tf tries what it writes on photos that it would fetch from the network.
    vars(sys.modules["onnx2tf.onnx2tf"])["download_test_image_data"] = noise
    with tempfile.TemporaryDirectory() as folder:
        onnx2tf.convert(input_onnx_file_path=source, output_folder_path=folder, non_verbose=True, not_use_onnxsim=True,
                        copy_onnx_input_output_names_to_tflite=True, output_signaturedefs=True)
        if calibration:
            Path(output).write_bytes(quantized(folder, np.load(calibration).transpose(0, 2, 3, 1)))
            print("its numbers are int8")
            return
        (Path(folder) / f"{Path(source).stem}_float32.tflite").rename(output)

    interpreter = Interpreter(output)
    batch = np.ascontiguousarray(np.load(images).transpose(0, 2, 3, 1))
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], batch.shape, strict=True)
    run = interpreter.get_signature_runner()
    np.save(scores, run(images=batch)[name])


def quantized(saved_model: str, images: np.ndarray) -> bytes:
    """The int8 TFLite file of a TensorFlow model, calibrated on N x H x W x 3 images."""
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)

    def batches() -> Iterator[list[np.ndarray]]:
        signature = tf.saved_model.load(saved_model).signatures["serving_default"]
        size = next(iter(signature.structured_input_signature[1].values())).shape[0] or 1
        for first in range(0, len(images) - size + 1, size):
            yield [np.ascontiguousarray(images[first:first + size])]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = batches
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def noise() -> np.ndarray:
    """Images as onnx2tf's own: 20 of 128 x 128 pixels, RGB, 0 to 1."""
    return np.random.default_rng(0).random((20, 128, 128, 3), np.float32)


if __name__ == "__main__":
    main(*sys.argv[1:])
