"""Quantisation-aware training: the network computes with weights as `export.py --quantize int8` will round them.

Rounding has no useful gradient, so the gradient passes as if there were none (Bengio et al., "Estimating or Propagating
Gradients Through Stochastic Neurons", https://arxiv.org/abs/1308.3432). The parameters stay float32.

The steps are those of `src/quantization/arithmetic.py: weight_scales`, one for each output channel. The batch norm
after a convolution multiplies such a channel as a whole, and so do the scales of the export: both change weight and
step alike. So batch norms need not be folded for this, and train as they always do.
"""
from mindspore import Tensor, nn, ops

from src.quantization.arithmetic import LARGEST_PAIR, TINY


def fake_quantize(weight: Tensor) -> Tensor:
    """O x I or O x I x K x K weights, rounded to their int8 steps; the gradient is that of the identity."""
    magnitudes = ops.abs(weight).reshape(weight.shape[0], -1)
    if weight.ndim == 4 and weight.shape[2] > 1:
        steps = magnitudes.max(axis=1) / (LARGEST_PAIR // 2)
    else:
        if magnitudes.shape[1] % 2:
            magnitudes = ops.pad(magnitudes, (0, 1))
        steps = magnitudes.reshape(weight.shape[0], -1, 2).sum(axis=2).max(axis=1) / (LARGEST_PAIR - 1)
    steps = ops.clamp(steps, min=TINY).reshape((-1,) + (1,) * (weight.ndim - 1))
    return weight + ops.stop_gradient(ops.round(weight / steps) * steps - weight)


class FakeQuantizedConv2d(nn.Conv2d):
    """A convolution without bias that rounds its weights."""

    def construct(self, x: Tensor) -> Tensor:
        return self.conv2d(x, fake_quantize(self.weight))


class FakeQuantizedDense(nn.Dense):
    """A dense layer with bias that rounds its weights: N x I to N x O."""

    def construct(self, x: Tensor) -> Tensor:
        return self.bias_add(self.matmul(x, fake_quantize(self.weight)), self.bias)


FAKE_QUANTIZED: dict[type[nn.Cell], type[nn.Cell]] = {nn.Conv2d: FakeQuantizedConv2d, nn.Dense: FakeQuantizedDense}


def make_quantization_aware(network: nn.Cell) -> None:
    """Let all convolutions and dense layers of a network round their weights, in place, before it is compiled.

    Their parameters and names stay as they are, so checkpoints fit either way.
    """
    for _, cell in network.cells_and_names():
        if fake := FAKE_QUANTIZED.get(type(cell)):
            cell.__class__ = fake
