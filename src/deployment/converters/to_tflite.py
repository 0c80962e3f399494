"""Writes a TFLite file from an ONNX file: to_tflite.py ONNX OUTPUT IMAGES SCORES NAME."""
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx2tf
from ai_edge_litert.interpreter import Interpreter


def main(source: str, output: str, images: str, scores: str, name: str) -> None:
    """Convert, and run the result on N x 3 x H x W images. TFLite takes N x H x W x 3."""
    # onnx2tf tries what it writes on photos that it would fetch from the network.
    vars(sys.modules["onnx2tf.onnx2tf"])["download_test_image_data"] = noise
    with tempfile.TemporaryDirectory() as folder:
        onnx2tf.convert(input_onnx_file_path=source, output_folder_path=folder, non_verbose=True, not_use_onnxsim=True,
                        copy_onnx_input_output_names_to_tflite=True, output_signaturedefs=True)
        (Path(folder) / f"{Path(source).stem}_float32.tflite").rename(output)

    interpreter = Interpreter(output)
    batch = np.ascontiguousarray(np.load(images).transpose(0, 2, 3, 1))
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], batch.shape, strict=True)
    run = interpreter.get_signature_runner()
    np.save(scores, run(images=batch)[name])


def noise() -> np.ndarray:
    """Images as onnx2tf's own: 20 of 128 x 128 pixels, RGB, 0 to 1."""
    return np.random.default_rng(0).random((20, 128, 128, 3), np.float32)


if __name__ == "__main__":
    main(*sys.argv[1:])
