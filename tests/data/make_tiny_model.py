"""Make tiny.onnx and tiny.mindir: a small network of this project's blocks for the tests of the 310 program.

    python tests/data/make_tiny_model.py                  writes tiny.onnx; with requirements.txt installed
    python3.7 tests/data/make_tiny_model.py tiny.mindir   makes tiny.mindir of it; with mindspore-lite==2.0.0 and numpy

The program is tested with mindspore-lite 2.0.0, the one that PyPI has for x86 with its C++ library. It reads MINDIR of
format version 1, while MindSpore 2.10 writes version 3; its own converter writes what it reads.
"""
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BATCH_SIZE, IMAGE_SIZE, CLASSES = 4, 32, ("blue", "green", "red")


def write_onnx() -> None:
    """With MindSpore."""
    sys.path.insert(0, str(FOLDER.parents[1]))
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, nn

    from src.deployment.exporter import Deployable, ExportOptions, describe, export, write_description
    from src.mobilenetV2 import ConvBN, InvertedResidual, MobileNetV2Head

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.set_seed(1)
    network = nn.SequentialCell(ConvBN(3, 8, 3, 2), InvertedResidual(8, 8, 1, 1), InvertedResidual(8, 16, 2, 6),
                                InvertedResidual(16, 16, 1, 6), ConvBN(16, 64), MobileNetV2Head(64, len(CLASSES)))
    weight = network[-1].classifier.weight
    weight.set_data(Tensor(np.random.default_rng(1).standard_normal(weight.shape).astype(np.float32)))
    options = ExportOptions(IMAGE_SIZE, BATCH_SIZE)
    path = FOLDER / "tiny.onnx"
    export(Deployable(network, options).set_train(False), options, path)
    write_description(describe(path, options, CLASSES, len(CLASSES), {}), path)


def convert() -> None:
    """With MindSpore Lite 2.0.0, under CPython 3.7."""
    import mindspore_lite
    converter = mindspore_lite.Converter()
    converter.save_type = mindspore_lite.ModelType.MINDIR
    converter.optimize = "general"
    converter.convert(mindspore_lite.FmkType.ONNX, str(FOLDER / "tiny.onnx"), str(FOLDER / "tiny"))


if __name__ == "__main__":
    convert() if sys.argv[1:] else write_onnx()
