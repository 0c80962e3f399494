"""Writes a MindSpore Lite file from an ONNX file: to_lite.py ONNX OUTPUT IMAGES SCORES NAME. For CPython 3.7."""
import sys

import mindspore_lite as lite
import numpy as np


def main(source: str, output: str, images: str, scores: str, _name: str) -> None:
    """Convert, and run the result on images."""
    converter = lite.Converter()
    converter.save_type = lite.ModelType.MINDIR_LITE
    converter.input_format = lite.Format.NCHW  # else the input is N x H x W x 3
    converter.convert(lite.FmkType.ONNX, source, output[:-len(".ms")])

    context = lite.Context()
    context.target = ["cpu"]
    model = lite.Model()
    model.build_from_file(output, lite.ModelType.MINDIR_LITE, context)
    batch = np.load(images)
    inputs = model.get_inputs()
    model.resize(inputs, [list(batch.shape)])
    inputs[0].set_data_from_numpy(batch)
    np.save(scores, model.predict(inputs)[0].get_data_to_numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
