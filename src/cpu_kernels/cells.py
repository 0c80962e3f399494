"""Swaps the network's cells for cells that run the C++ kernels on the very same parameters."""
import ctypes
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.cpu_kernels.builder import build, load
from src.cpu_kernels.compiler import KernelsUnavailable, find_compiler
from src.cpu_kernels.direct_call import DirectInference
from src.cpu_kernels.threads import thread_count
from src.fake_quantization import FakeQuantizedConv2d, FakeQuantizedDense, fake_quantize
from src.mobilenetV2 import SAME, ConvBN, InvertedResidual, MobileNetV2, MobileNetV2Backbone, MobileNetV2Head

# As in native/layer.h: what a layer is, and the shortcut of a layer that has none.
POINTWISE, DEPTHWISE, DENSE = range(3)
NO_SHORTCUT = -1

Shape = tuple[int, ...] | list[int]


def _kind(cell: ConvBN) -> int | None:
    """Which kernel computes a ConvBN; None if none does."""
    conv, bn = cell.conv, cell.bn
    if (conv.weight.dtype != ms.float32 or bn.use_batch_statistics is not None or conv.stride not in ((1, 1), (2, 2))):
        return None
    if conv.kernel_size == (1, 1) and conv.group == 1 and conv.stride == (1, 1):
        return POINTWISE
    if conv.kernel_size != (3, 3):
        return None
    if conv.group == conv.in_channels == conv.out_channels:
        return DEPTHWISE
    return DENSE if conv.group == 1 else None


class _BackbonePlan:
    """The ConvBN cells of a backbone, or of a part of one, in the order of computation, with a row of numbers for each.

    Of a whole network it is the backbone with the pooling of its features.
    """

    def __init__(self, cell: nn.Cell) -> None:
        self.cells: list[ConvBN] = []
        self.rows: list[list[int]] = []
        self.complete = True
        self.pooled = isinstance(cell, MobileNetV2)
        self._add(cell)
        # The kernels read plain images only in the first layer.
        self.complete &= all(row[0] != DENSE for row in self.rows[1:])

    def _add(self, cell: nn.Cell) -> None:
        if isinstance(cell, ConvBN):
            kind = _kind(cell)
            if kind is None:
                self.complete = False
                return
            self.cells.append(cell)
            self.rows.append([kind, cell.conv.stride[0], int(cell.activation is not None), NO_SHORTCUT,
                              cell.conv.in_channels, cell.conv.out_channels, int(cell.conv.pad_mode == SAME)])
        elif isinstance(cell, InvertedResidual):
            start = len(self.rows)
            for part in (cell.expand, cell.depthwise, cell.project):
                if part is not None:
                    self._add(part)
            if cell.use_shortcut:
                self.rows[-1][3] = start
        elif isinstance(cell, MobileNetV2):
            self._add(cell.backbone)
        else:
            for part in (cell.stem, *cell.blocks, cell.last):
                self._add(part)


class _Backbone(nn.Cell):
    """The operators of one backbone, or of a part of one, for one kind of batch normalisation.

    They are called with the images, the weights, gammas and betas of all layers, and their moving means and
    variances. Forward operators write the new moving statistics into the parameters themselves; the framework orders
    them by `side_effect_mem`.
    """

    def __init__(self, library: Path, plan: _BackbonePlan, batch_statistics: bool) -> None:
        super().__init__()
        shapes_of = ctypes.CDLL(str(library)).backbone_shapes
        numbers = np.array([batch_statistics, plan.pooled, len(plan.rows), *np.ravel(plan.rows)], np.int32)
        self.plan = Tensor(numbers)
        self.constants = Tensor([[cell.bn.eps, cell.bn.momentum] for cell in plan.cells], ms.float32)
        layers = len(plan.rows)
        self.separate_images_gradient = plan.rows[0][0] == DENSE

        def features_and_saved(*shapes: Shape) -> tuple[list[int], list[int]]:
            images, _, height, width = shapes[2]
            out = (ctypes.c_int64 * 4)()
            sizes = map(ctypes.c_int64, (len(numbers), images, height, width))
            if shapes_of(ctypes.c_void_p(numbers.ctypes.data), *sizes, out) != 0:
                raise ValueError(f"the CPU kernels cannot take images of shape {list(shapes[2])}; stderr says why")
            return [images, *out[:3]], [out[3]]

        def features(*shapes: Shape) -> list[int]:
            return features_and_saved(*shapes)[0]

        def weights(*shapes: Shape) -> tuple[Shape, ...]:
            return tuple(shapes[3:3 + 3 * layers])

        def weights_and_images(*shapes: Shape) -> tuple[Shape, ...]:
            return *weights(*shapes), shapes[2]

        def custom(function: str, shape: Any, outputs: int) -> ops.Custom:
            dtype = (ms.float32,) * outputs if outputs > 1 else ms.float32
            return ops.Custom(f"{library}:{function}", shape, dtype, "aot")

        self.forward = custom("backbone_forward", features_and_saved, 2)
        if batch_statistics:
            self.forward.add_prim_attr("side_effect_mem", True)
        self.infer = custom("backbone_infer", features, 1)
        self.backward = custom("backbone_backward", weights, 3 * layers)
        self.backward_with_images = custom("backbone_backward", weights_and_images, 3 * layers + 1)

    def gradients(self, images: Tensor, weights: tuple, statistics: tuple, saved: Tensor, gradient: Tensor) -> tuple:
        """The gradients of all inputs of `construct`.

        The images' own gradient, which training does not use, is an operator of its own at the start of a network:
        the framework then drops it. Statistics have none; the bprop must name something of their shape.
        """
        inputs = (self.plan, self.constants, images, *weights, *statistics, saved, gradient)
        if self.separate_images_gradient:
            return self.backward_with_images(*inputs)[-1], self.backward(*inputs), statistics
        outputs = self.backward_with_images(*inputs)
        return outputs[-1], outputs[:-1], statistics


class _TrainingBackbone(_Backbone):
    """With the statistics of the batch. Returns the features and what the backward pass needs."""

    def __init__(self, library: Path, plan: _BackbonePlan) -> None:
        super().__init__(library, plan, batch_statistics=True)

    def construct(self, images: Tensor, weights: tuple, statistics: tuple) -> tuple[Tensor, Tensor]:
        return self.forward(self.plan, self.constants, images, *weights, *statistics)

    def bprop(self, images: Tensor, weights: tuple, statistics: tuple, out: tuple, dout: tuple) -> tuple:
        """Called by the framework."""
        return self.gradients(images, weights, statistics, out[1], dout[0])


class _EvaluationBackbone(_Backbone):
    """With the moving statistics. Keeps nothing: whoever wants gradients pays for a second forward pass."""

    def __init__(self, library: Path, plan: _BackbonePlan) -> None:
        super().__init__(library, plan, batch_statistics=False)

    def construct(self, images: Tensor, weights: tuple, statistics: tuple) -> Tensor:
        return self.infer(self.plan, self.constants, images, *weights, *statistics)

    def bprop(self, images: Tensor, weights: tuple, statistics: tuple, out: Tensor, dout: Tensor) -> tuple:
        """Called by the framework."""
        saved = self.forward(self.plan, self.constants, images, *weights, *statistics)[1]
        return self.gradients(images, weights, statistics, saved, dout)


class _EvaluationNetwork(_Backbone):
    """The same with the classifier: what the framework needs to start three more operators is much for one image."""

    def __init__(self, library: Path, plan: _BackbonePlan) -> None:
        super().__init__(library, plan, batch_statistics=False)

        def logits(*shapes: Shape) -> list[int]:
            return [shapes[2][0], shapes[-1][0]]

        self.infer_logits = ops.Custom(f"{library}:network_infer", logits, ms.float32, "aot")

    def construct(self, images: Tensor, weights: tuple, statistics: tuple, classifier: tuple) -> Tensor:
        return self.infer_logits(self.plan, self.constants, images, *weights, *statistics, *classifier)

    def bprop(self, images: Tensor, weights: tuple, statistics: tuple, classifier: tuple, out: Tensor,
              dout: Tensor) -> tuple:
        """Called by the framework."""
        features, saved = self.forward(self.plan, self.constants, images, *weights, *statistics)
        of_features = ops.matmul(dout, classifier[0]).reshape(features.shape)
        of_classifier = ops.matmul(dout.T, features.reshape(features.shape[:2])), dout.sum(axis=0)
        return *self.gradients(images, weights, statistics, saved, of_features), of_classifier


class _Accelerated(nn.Cell):
    """Mixed into a stock cell: the same parameters, names and children, another `construct`."""

    def adopt(self, library: Path, plan: _BackbonePlan) -> None:
        """Called once, on a cell that was made by the stock class."""
        self.kernel_library = str(library)
        self.training_operators = _TrainingBackbone(library, plan)
        self.evaluation_operators = _EvaluationBackbone(library, plan)
        # Plain tuples: a ParameterTuple would register, and so rename, the parameters a second time.
        convs, norms = [cell.conv for cell in plan.cells], [cell.bn for cell in plan.cells]
        self.backbone_weights = (*(conv.weight for conv in convs), *(bn.gamma for bn in norms),
                                 *(bn.beta for bn in norms))
        self.layers = len(convs)
        self.is_quantization_aware = all(isinstance(conv, FakeQuantizedConv2d) for conv in convs)
        self.backbone_statistics = (*(bn.moving_mean for bn in norms), *(bn.moving_variance for bn in norms))

    @nn.Cell.compile_phase.setter
    def compile_phase(self, phase: str) -> None:
        """Set by the framework on each call, on all cells of a network. The stock cells below do without.

        They are never compiled, and to set it on hundreds of them takes longer than a small batch.
        """
        self._compile_phase = phase

    def construct(self, x: Tensor) -> Tensor:
        return self.run_backbone(x)

    def run_backbone(self, x: Tensor) -> Tensor:
        """The features, by the kernels."""
        if self.training:
            return self.training_operators(x, self.rounded_weights(), self.backbone_statistics)[0]
        return self.evaluation_operators(x, self.rounded_weights(), self.backbone_statistics)

    def rounded_weights(self) -> tuple:
        """The weights to compute with: in quantisation-aware training those of the convolutions are rounded."""
        weights = self.backbone_weights
        if self.is_quantization_aware:
            weights = (*[fake_quantize(weight) for weight in weights[:self.layers]], *weights[self.layers:])
        return weights


class AcceleratedConvBN(_Accelerated, ConvBN):
    """A ConvBN as one operator."""


class AcceleratedInvertedResidual(_Accelerated, InvertedResidual):
    """An inverted residual as one operator."""


class AcceleratedBackbone(_Accelerated, MobileNetV2Backbone):
    """The whole backbone as one operator: its inner tensors never take the framework's layout."""


class AcceleratedMobileNetV2(_Accelerated, MobileNetV2):
    """A network whose backbone and pooling are one operator: in training the head gets features of 1x1 pixels.

    In evaluation the whole network is one operator, if its classifier is the usual one.
    """

    compile_phase = nn.Cell.compile_phase  # the head below is compiled

    def adopt(self, library: Path, plan: _BackbonePlan) -> None:
        super().adopt(library, plan)
        dense = self.head.classifier
        self.has_usual_head = (type(self.head) is MobileNetV2Head and type(dense) in (nn.Dense, FakeQuantizedDense)
                               and dense.has_bias and dense.weight.dtype == ms.float32 and dense.activation is None)
        self.network_operators = _EvaluationNetwork(library, plan)
        self.direct_inference = None
        if self.has_usual_head and not self.is_quantization_aware:
            operators = self.network_operators
            self.direct_inference = DirectInference(
                library, (operators.plan, operators.constants),
                (*self.backbone_weights, *self.backbone_statistics, dense.weight, dense.bias))

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """An evaluation by itself needs no graph. Within another cell, the framework compiles `construct`."""
        if (self.direct_inference is not None and not self.training and ms.get_context("mode") == ms.GRAPH_MODE
                and not options and len(inputs) == 1 and self.direct_inference.takes(inputs[0])):
            return self.direct_inference(inputs[0])
        return super().__call__(*inputs, **options)

    def construct(self, images: Tensor) -> Tensor:
        if self.training or not self.has_usual_head:
            return self.head(self.run_backbone(images))
        weight = self.head.classifier.weight
        if self.is_quantization_aware:
            weight = fake_quantize(weight)
        return self.network_operators(images, self.rounded_weights(), self.backbone_statistics,
                                      (weight, self.head.classifier.bias))


_ACCELERATED: dict[type[nn.Cell], type[_Accelerated]] = {
    MobileNetV2: AcceleratedMobileNetV2,
    MobileNetV2Backbone: AcceleratedBackbone,
    InvertedResidual: AcceleratedInvertedResidual,
    ConvBN: AcceleratedConvBN,
}


def _swap(cell: nn.Cell, library: Path) -> int:
    """Swaps the largest cells that the kernels know, at and below a cell, in place; returns their number."""
    accelerated = _ACCELERATED.get(type(cell))
    if accelerated is not None:
        plan = _BackbonePlan(cell)
        if plan.complete:
            # Changing the class keeps the object, which the caller and its parent cell hold, and all that is in it.
            cell.__class__ = accelerated
            cell.adopt(library, plan)
            # A backbone can be called by itself, too.
            return 1 + (_swap(cell.backbone, library) if plan.pooled else 0)
    return sum(_swap(child, library) for child in cell.cells())


def library_in_use(network: nn.Cell) -> str | None:
    """The shared library that a network's accelerated cells run; None if it has none."""
    return next((cell.kernel_library for _, cell in network.cells_and_names() if isinstance(cell, _Accelerated)), None)


def accelerate(network: nn.Cell, cpu_kernels: str) -> str:
    """Makes `ConvBN`, `InvertedResidual`, `MobileNetV2Backbone` and `MobileNetV2` cells run C++ kernels, in place.

    Parameters, their names and the cells' order stay as they are, so checkpoints fit either way; `set_train` chooses
    between batch and moving statistics as before. Call it before the network is compiled. A network that is to be
    exported must not be accelerated.

    Args:
        network: any tree of cells, or one such cell itself; float32, on CPU.
        cpu_kernels: "auto" falls back to the stock cells where the kernels cannot run, "on" does not, "off" leaves
            the network alone.

    Returns:
        What was done, for the user.

    Raises:
        KernelsUnavailable: "on", and they cannot run here.
        ValueError: `cpu_kernels` is none of the three.
    """
    if cpu_kernels not in ("auto", "on", "off"):
        raise ValueError(f"cpu_kernels must be auto, on or off, not {cpu_kernels!r}")
    if cpu_kernels == "off":
        return "CPU kernels: off"
    try:
        platform = ms.get_current_device().device_target
        if platform != "CPU":
            raise KernelsUnavailable(f"they are for the CPU, not for {platform}")
        compiler, threads = find_compiler(), thread_count()
        library = build(compiler)
        load(library).use_threads(threads)
        if _swap(network, library) == 0:
            raise KernelsUnavailable("the network has no float32 cell that they know")
    except KernelsUnavailable as reason:
        if cpu_kernels == "on":
            raise
        return f"CPU kernels: off: {reason}"
    return (f"CPU kernels: on, {threads} thread{'s' if threads > 1 else ''}, {compiler.instruction_set}, "
            f"{compiler.name}")
