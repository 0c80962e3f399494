"""Writes a Core ML package from an ONNX file: to_coreml.py ONNX OUTPUT IMAGES SCORES NAME.

Core ML's converter reads no ONNX, but has the same operators. Core ML itself runs on macOS only. Elsewhere the package
is read back and compared with the ONNX file: input, output, and number of weights.
"""
import sys
from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
import onnx
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the name in Core ML's own documents
from coremltools.converters.mil.mil import Program, get_new_symbol
from coremltools.optimize.coreml import get_weights_metadata
from onnx import helper, numpy_helper

MIL_VERSION = ct.target.iOS15  # the first one with packages
LARGEST_BATCH = 128  # of a package for any number of images; Core ML wants a limit


def main(onnx_file: str, output: str, batch: str, result: str, _name: str) -> None:
    """Convert and check."""
    source = onnx.load(onnx_file)
    metadata = {entry.key: entry.value for entry in source.metadata_props}

    # ---- convert
    images, scores = source.graph.input[0], source.graph.output[0]
    model = ct.convert(program(source.graph), convert_to="mlprogram", minimum_deployment_target=MIL_VERSION,
                       compute_precision=ct.precision.FLOAT32, compute_units=ct.ComputeUnit.CPU_ONLY,
                       inputs=[ct.TensorType(name=images.name, shape=ct.Shape(shape_of(images)))])
    model.user_defined_metadata.update(metadata)
    model.save(output)

    # ---- check
    loaded = ct.models.MLModel(output, skip_model_load=sys.platform != "darwin",
                               compute_units=ct.ComputeUnit.CPU_ONLY)
    found = loaded.get_spec().description
    if [found.input[0].name, found.output[0].name] != [images.name, scores.name]:
        raise ValueError(f"input {found.input[0].name} and output {found.output[0].name} are not those of the network")
    count, wanted = weights_of_package(loaded), weights_of_graph(source.graph)
    if count != wanted:
        raise ValueError(f"has {count} weights, the network has {wanted}")
    if sys.platform == "darwin":
        np.save(result, loaded.predict({images.name: np.load(batch)})[scores.name])
    else:
        print(f"Core ML runs on macOS only; read back, the package has input {images.name}, output {scores.name} and "
              f"{count} weights, as it should")


def shape_of(value: onnx.ValueInfoProto) -> tuple[Any, ...]:
    """The shape of the input, with a range if the number of images is open."""
    sides = [side.dim_value or ct.RangeDim(1, LARGEST_BATCH) for side in value.type.tensor_type.shape.dim]
    return tuple(sides)


def program(graph: onnx.GraphProto) -> Program:
    """The graph in Core ML's operators."""
    shape = tuple(side.dim_value or get_new_symbol() for side in graph.input[0].type.tensor_type.shape.dim)

    @mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=MIL_VERSION)
    def made(images: object) -> object:  # the name of the argument is that of the input
        values = {graph.input[0].name: images, **weights_by_name(graph)}
        for node in graph.node:
            attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
            inputs = [values[name] for name in node.input]
            values[node.output[0]] = OPERATORS[node.op_type](node.output[0], attributes, *inputs)
        return values[graph.output[0].name]
    return made


def weights_by_name(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """The weights."""
    return {value.name: numpy_helper.to_array(value) for value in graph.initializer}


def conv(name: str, attributes: dict[str, Any], x: object, weight: np.ndarray,
         bias: np.ndarray | None = None) -> object:
    """A convolution. ONNX pads top, left, bottom, right; Core ML top, bottom, left, right."""
    top, left, bottom, right = attributes["pads"]
    further = {} if bias is None else {"bias": bias}
    return mb.conv(x=x, weight=weight, strides=attributes["strides"], dilations=attributes["dilations"],
                   groups=attributes["group"], pad_type="custom", pad=[top, bottom, left, right], name=name, **further)


def batch_norm(name: str, attributes: dict[str, Any], x: object, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray,
               variance: np.ndarray) -> object:
    """A batch norm."""
    return mb.batch_norm(x=x, gamma=gamma, beta=beta, mean=mean, variance=variance,
                         epsilon=np.float32(attributes["epsilon"]), name=name)


OPERATORS: dict[str, Callable[..., object]] = {
    "Conv": conv,
    "BatchNormalization": batch_norm,
    "Clip": lambda name, _, x, low, high: mb.clip(x=x, alpha=low, beta=high, name=name),
    "Add": lambda name, _, x, y: mb.add(x=x, y=y, name=name),
    "GlobalAveragePool": lambda name, _, x: mb.reduce_mean(x=x, axes=[2, 3], keep_dims=True, name=name),
    "Flatten": lambda name, _, x: mb.squeeze(x=x, axes=[2, 3], name=name),
    "Gemm": lambda name, _, x, weight, bias: mb.linear(x=x, weight=weight, bias=bias, name=name),
    "Softmax": lambda name, attributes, x: mb.softmax(x=x, axis=attributes["axis"], name=name),
}


def weights_of_graph(graph: onnx.GraphProto) -> int:
    """Number of weights and biases once the batch norms are part of the convolutions, which the converter does."""
    weights = weights_by_name(graph)
    return sum(weights[node.input[1]].size + len(weights[node.input[1]])
               for node in graph.node if node.op_type in {"Conv", "Gemm"})


def weights_of_package(model: ct.models.MLModel) -> int:
    """Number of weights and biases of the convolutions and of the classifier. Equal ones are stored once."""
    found = get_weights_metadata(model, weight_threshold=0)
    floats = [value for value in found.values() if value.val.dtype == np.float32]
    return sum(value.val.size for value in floats for user in value.child_ops if user.op_type in {"conv", "linear"})


if __name__ == "__main__":
    main(*sys.argv[1:])
