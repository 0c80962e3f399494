"""Rewrites the ONNX graph of a network: batch norms folded, then quantised in ONNX's own form.

That form, QDQ, is the float graph with pairs of QuantizeLinear and DequantizeLinear around its tensors. A runtime
fuses them with the operators between them into integer operators.
"""
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from src.quantization.arithmetic import corrected_bias, dequantize_weight, quantize_weight, weight_scales
from src.quantization.calibration import Activation

WEIGHTED = {"Conv", "Gemm"}
INTEGER = {*WEIGHTED, "Add", "GlobalAveragePool"}  # what computes on eight bits
LARGEST_BIAS = 2.0 ** 30  # in int32, with room for the sums that are added to it


def load_folded(path: Path) -> onnx.ModelProto:
    """The graph of a file of `export`, each batch norm folded into the convolution before it."""
    model = onnx.load(path)
    _fold_batch_norms(model.graph)
    return model


def activations(model: onnx.ModelProto) -> list[str]:
    """The tensors to store in eight bits: all that the integer operators read, besides weights."""
    weights = {weight.name for weight in model.graph.initializer}
    read = (name for node in model.graph.node if node.op_type in INTEGER
            for name in (node.input if node.op_type == "Add" else node.input[:1]))
    return [name for name in dict.fromkeys(read) if name not in weights]


def equalisable(model: onnx.ModelProto) -> set[str]:
    """The outputs of ReLU6 whose channels may be scaled freely: a depthwise convolution reads them, and nothing else.

    The convolution before and the depthwise one have a step for each of these channels, so that their weights lose
    nothing by the opposite scales. The ReLU6 stays: where a channel's range ends, uint8 cuts its values off.
    """
    weights = _weights(model.graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = [node.output[0] for node in model.graph.node if node.op_type == "Clip"]
    return {name for name in outputs if [reader.op_type for reader in readers[name]] == ["Conv"]
            and weights[readers[name][0].input[1]].shape[1] == 1}


def quantize_graph(model: onnx.ModelProto, measured: Mapping[str, Activation]) -> None:
    """Put the measured activations and all weights into eight bits, in place; biases are corrected, and int32."""
    graph = model.graph
    _drop_clips(graph, measured)
    weights = _weights(graph)
    _scale_channels(graph, measured, weights)
    nodes = []
    for value in graph.input:
        nodes += _activation_nodes(value.name, measured, weights)
    for node in graph.node:
        if node.op_type in WEIGHTED and node.input[0] in measured:
            nodes += _quantize_weights(node, measured[node.input[0]], weights)
        if node.op_type in INTEGER:
            for position, name in enumerate(node.input):
                node.input[position] = f"{name}_dequantized" if name in measured else name
        nodes += [node, *_activation_nodes(node.output[0], measured, weights)]
    _replace(graph, nodes, weights)
    del graph.value_info[:]
    onnx.checker.check_model(model)


def _drop_clips(graph: onnx.GraphProto, measured: Mapping[str, Activation]) -> None:
    """Leave out each ReLU6 before a measured tensor: uint8 holds no number outside its range, so rounding clips."""
    producers = {node.output[0]: node for node in graph.node}
    for clip in [node for node in graph.node if node.op_type == "Clip" and node.output[0] in measured]:
        producers[clip.input[0]].output[0] = clip.output[0]
        graph.node.remove(clip)


def _scale_channels(graph: onnx.GraphProto, measured: Mapping[str, Activation], weights: dict[str, np.ndarray]) -> None:
    """Divide the channels of the measured tensors by their shares, in the layers before and after them."""
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        if node.output[0] in measured:
            shares = measured[node.output[0]].shares
            weights[node.input[1]] = weights[node.input[1]] / shares[:, None, None, None]
            weights[node.input[2]] = weights[node.input[2]] / shares
        if node.input[0] in measured and weights[node.input[1]].shape[1] == 1:
            weights[node.input[1]] = weights[node.input[1]] * measured[node.input[0]].shares[:, None, None, None]


def _activation_nodes(name: str, measured: Mapping[str, Activation],
                      weights: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """The nodes that round an activation; none if it is not among the measured ones."""
    if name not in measured:
        return []
    affine = measured[name].affine
    step = [f"{name}_scale", f"{name}_zero_point"]
    weights.update(zip(step, (np.array(affine.scale), np.array(affine.zero_point, np.uint8)), strict=True))
    return [helper.make_node("QuantizeLinear", [name, *step], [f"{name}_quantized"], f"{name}_QuantizeLinear"),
            helper.make_node("DequantizeLinear", [f"{name}_quantized", *step], [f"{name}_dequantized"],
                             f"{name}_DequantizeLinear")]


def _quantize_weights(node: onnx.NodeProto, source: Activation,
                      weights: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """Put weight and bias of a node into integers; returns the nodes that restore them."""
    weight, bias = weights[node.input[1]], weights[node.input[2]]
    # A channel of almost no weight would have steps so small that its bias has no number in int32.
    scales = np.maximum(weight_scales(weight), np.abs(bias) / (source.affine.scale * LARGEST_BIAS)).astype(np.float32)
    numbers = quantize_weight(weight, scales)
    corrected = corrected_bias(bias, weight, dequantize_weight(numbers, scales), source.mean, source.rounded_mean)
    bias_scales = source.affine.scale * scales
    integers = (numbers, scales), (np.rint(corrected / bias_scales).astype(np.int32), bias_scales)
    nodes = []
    for position, (values, steps) in enumerate(integers, 1):
        name = node.input[position]
        inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
        weights.update(zip(inputs, (values, steps, np.zeros(len(steps), values.dtype)), strict=True))
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_DequantizeLinear",
                                      axis=0))
        node.input[position] = f"{name}_dequantized"
    return nodes


def _fold_batch_norms(graph: onnx.GraphProto) -> None:
    """Multiply the scale of each batch norm into the convolution before it, and add its shift to the bias."""
    weights = _weights(graph)
    norms = {node.input[0]: node for node in graph.node if node.op_type == "BatchNormalization"}
    nodes = []
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            continue
        if node.op_type == "Conv" and (norm := norms.get(node.output[0])):
            gamma, beta, mean, variance = (weights[name].astype(np.float64) for name in norm.input[1:])
            epsilon = next(attribute.f for attribute in norm.attribute if attribute.name == "epsilon")
            scale = gamma / np.sqrt(variance + epsilon)
            weights[node.input[1]] = (weights[node.input[1]] * scale[:, None, None, None]).astype(np.float32)
            weights[norm.input[2]] = (beta - mean * scale).astype(np.float32)
            node.input.append(norm.input[2])
            node.output[0] = norm.output[0]
        nodes.append(node)
    _replace(graph, nodes, weights)


def _weights(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], weights: Mapping[str, np.ndarray]) -> None:
    """Give a graph other nodes, and those of `weights` that they read."""
    read = {name for node in nodes for name in node.input}
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items()
                             if name in read)
