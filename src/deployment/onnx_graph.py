"""Writes a network as an ONNX graph, of the operators of opset 17.

The graph is made from the cells: each is written as its `construct` reads. Weights keep the names and bits that they
have in a checkpoint. MindSpore's own exporter stops at opset 11, which has no scales by channel for int8.

Operators: https://github.com/onnx/onnx/blob/main/docs/Operators.md
"""
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from mindspore import Tensor, nn
from onnx import TensorProto, helper, numpy_helper

from src.deployment.formats import ACTIVATION_MAP, INPUT, PRODUCER
from src.mobilenetV2 import ConvBN, InvertedResidual, MobileNetV2, MobileNetV2Backbone, MobileNetV2Head

OPSET = 17
IR_VERSION = 8  # of the file; the first one that has this opset, so that older runtimes read it, too
BATCH = "batch"  # name of the dimension of the images, if it is open


class OnnxGraph:
    """A graph that grows by one cell at a time.

    Args:
        batch_size: images that the graph takes at a time; 0 for any number.
        image_size: pixels a side.
    """

    def __init__(self, batch_size: int, image_size: int) -> None:
        self._batch, self._image_size = batch_size or BATCH, image_size
        self._size = image_size  # of the values that were written last, pixels a side
        self.num_classes = 0  # of the last classifier that was written
        self._before_pooling = self._classifier_weight = ""  # of the last head that was written
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, np.ndarray] = {}

    def normalise(self, x: str, mean: Tensor, scale: Tensor) -> str:
        """Write (x - mean) * scale, both 1 x 3 x 1 x 1.

        As a convolution of each channel by itself: converters to N x H x W x 3 know how to turn its weights.
        """
        weights = [self._weight("normalise.weight", scale.reshape(-1, 1, 1, 1)),
                   self._weight("normalise.bias", -(mean * scale).reshape(-1))]
        return self._node("Conv", "normalise", x, *weights, kernel_shape=[1, 1], strides=[1, 1], dilations=[1, 1],
                          pads=[0, 0, 0, 0], group=3)

    def softmax(self, x: str) -> str:
        """Write a softmax over the classes."""
        return self._node("Softmax", "softmax", x, axis=1)

    def cell(self, cell: nn.Cell, name: str, x: str) -> str:
        """Write a cell.

        Args:
            cell: one of this project's, or a stock cell that they are made of.
            name: prefix of its parameters, without the last dot.
            x: its input, as an earlier call returned it.

        Returns:
            Its output.

        Raises:
            TypeError: ONNX of this cell is not known here.
        """
        for kind, write in WRITERS.items():
            if isinstance(cell, kind):
                return write(self, cell, name, x)
        raise TypeError(f"{name}: no ONNX is known for a {type(cell).__name__}")

    def model(self, output_name: str, metadata: Mapping[str, str], activation_map: bool = False) -> onnx.ModelProto:
        """The whole model. Its output is that of the node that was written last, N x C, under a name of its own.

        With `activation_map` it has a second output, which `_activation_map` describes.
        """
        self._nodes[-1].output[0] = output_name
        outputs = [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, [self._batch, self.num_classes])]
        if activation_map:
            sides = [self._batch, self._size, self._size]
            outputs.append(helper.make_tensor_value_info(self._activation_map(output_name), TensorProto.FLOAT, sides))
        images = [self._batch, 3, self._image_size, self._image_size]
        graph = helper.make_graph(
            self._nodes, "mobilenetv2",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, images)], outputs,
            [numpy_helper.from_array(value, name) for name, value in self._weights.items()])
        model = helper.make_model(graph, ir_version=IR_VERSION, producer_name=PRODUCER,
                                  opset_imports=[helper.make_opsetid("", OPSET)])
        helper.set_model_props(model, dict(metadata))
        return model

    def sequential(self, cells: nn.SequentialCell, name: str, x: str) -> str:
        """Write cells one after another."""
        for index, cell in enumerate(cells):
            x = self.cell(cell, _join(name, str(index)), x)
        return x

    def network(self, network: MobileNetV2, name: str, x: str) -> str:
        """Write backbone and head."""
        features = self.cell(network.backbone, _join(name, "backbone"), x)
        return self.cell(network.head, _join(name, "head"), features)

    def backbone(self, backbone: MobileNetV2Backbone, name: str, x: str) -> str:
        """Write stem, blocks and last layer."""
        x = self.cell(backbone.stem, _join(name, "stem"), x)
        x = self.cell(backbone.blocks, _join(name, "blocks"), x)
        return self.cell(backbone.last, _join(name, "last"), x)

    def inverted_residual(self, block: InvertedResidual, name: str, x: str) -> str:
        """Write a block with its shortcut."""
        y = x if block.expand is None else self.cell(block.expand, _join(name, "expand"), x)
        y = self.cell(block.depthwise, _join(name, "depthwise"), y)
        y = self.cell(block.project, _join(name, "project"), y)
        return self._node("Add", name, x, y) if block.use_shortcut else y

    def conv_bn(self, layer: ConvBN, name: str, x: str) -> str:
        """Write convolution, batch norm and ReLU6."""
        y = self.cell(layer.bn, _join(name, "bn"), self.cell(layer.conv, _join(name, "conv"), x))
        return y if layer.activation is None else self.cell(layer.activation, name, y)

    def conv(self, conv: nn.Conv2d, name: str, x: str) -> str:
        """Write a convolution with the padding that the cell has."""
        kernel, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
        top, bottom, left, right = self._pads(conv)
        reach = dilation[0] * (kernel[0] - 1)
        self._size = (self._size + top + bottom - reach - 1) // stride[0] + 1
        weights = [self._weight(f"{name}.{key}", getattr(conv, key))
                   for key in ("weight", "bias")[:1 + conv.has_bias]]
        return self._node("Conv", name, x, *weights, kernel_shape=kernel, strides=stride, dilations=dilation,
                          pads=[top, left, bottom, right], group=conv.group)

    def _pads(self, conv: nn.Conv2d) -> tuple[int, ...]:
        """Zeros above, below, left and right."""
        if conv.pad_mode == "pad":
            return (conv.padding,) * 4 if isinstance(conv.padding, int) else tuple(conv.padding)
        if conv.pad_mode == "valid":
            return (0,) * 4
        # "same": as many as give size / stride, rounded up. An odd one is put below and right.
        reach, stride = conv.dilation[0] * (conv.kernel_size[0] - 1), conv.stride[0]
        zeros = max((-(-self._size // stride) - 1) * stride + reach + 1 - self._size, 0)
        return (zeros // 2, zeros - zeros // 2) * 2

    def batch_norm(self, norm: nn.BatchNorm2d, name: str, x: str) -> str:
        """Write a batch norm with the statistics of training."""
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        weights = [self._weight(f"{name}.{key}", getattr(norm, key)) for key in names]
        return self._node("BatchNormalization", name, x, *weights, epsilon=norm.eps)

    def relu6(self, _cell: nn.ReLU6, name: str, x: str) -> str:
        """Write min(max(x, 0), 6)."""
        limits = [self._weight(f"relu6.{key}", Tensor(np.float32(value))) for key, value in (("min", 0), ("max", 6))]
        return self._node("Clip", f"{name}/relu6", x, *limits)

    def head(self, head: MobileNetV2Head, name: str, x: str) -> str:
        """Write pooling and classifier. Dropout is for training."""
        self._before_pooling, self._classifier_weight = x, f"{_join(name, 'classifier')}.weight"
        pooled = self._node("Flatten", f"{name}/features", self._node("GlobalAveragePool", f"{name}/pool", x), axis=1)
        return self.cell(head.classifier, _join(name, "classifier"), pooled)

    def dense(self, dense: nn.Dense, name: str, x: str) -> str:
        """Write a matrix product with a bias."""
        self.num_classes = dense.out_channels
        weights = [self._weight(f"{name}.{key}", getattr(dense, key)) for key in ("weight", "bias")]
        return self._node("Gemm", name, x, *weights, transB=1)

    def _activation_map(self, scores: str) -> str:
        """Write the class activation map of each image's likeliest class: N x side x side of the last feature map.

        A value is what its place adds to the logit of that class: their mean is the logit without its bias.
        B. Zhou et al.: Learning Deep Features for Discriminative Localization. CVPR 2016, section 2.
        """
        places, channels = self._size ** 2, self._weights[self._classifier_weight].shape[1]
        likeliest = self._node("ArgMax", "map/class", scores, axis=1, keepdims=0)
        weights = self._node("Gather", "map/weights", self._classifier_weight, likeliest, axis=0)
        rows = self._node("Reshape", "map/rows", weights, self._shape("map/rows.shape", 0, 1, channels))
        flat = self._node("Reshape", "map/flat", self._before_pooling,
                          self._shape("map/flat.shape", 0, channels, places))
        sums = self._node("MatMul", "map/sums", rows, flat)
        return self._node("Reshape", ACTIVATION_MAP, sums,
                          self._shape("map/shape", 0, self._size, self._size))

    def _shape(self, name: str, *sides: int) -> str:
        """Sides for a Reshape; 0 keeps a side."""
        return self._weight(name, Tensor(np.array(sides, np.int64)))

    def _node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _weight(self, name: str, value: Tensor) -> str:
        self._weights[name] = value.asnumpy()
        return name


Writer = Callable[[OnnxGraph, nn.Cell, str, str], str]
WRITERS: dict[type[nn.Cell], Writer] = {
    MobileNetV2: OnnxGraph.network, MobileNetV2Backbone: OnnxGraph.backbone, MobileNetV2Head: OnnxGraph.head,
    InvertedResidual: OnnxGraph.inverted_residual, ConvBN: OnnxGraph.conv_bn, nn.SequentialCell: OnnxGraph.sequential,
    nn.Conv2d: OnnxGraph.conv, nn.BatchNorm2d: OnnxGraph.batch_norm, nn.ReLU6: OnnxGraph.relu6,
    nn.Dense: OnnxGraph.dense,
}


def _join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part
