"""The numbers of an eight-bit network: steps, rounding, and the correction of biases. It needs numpy alone.

Activations are uint8 with one step and one zero point for a whole tensor, weights int8 with a step for each output
channel and no zero point. See Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, https://arxiv.org/abs/1906.04721, and "A White Paper on Neural Network Quantization",
https://arxiv.org/abs/2106.08295, section 3.
"""
from dataclasses import dataclass

import numpy as np

LEVELS = 255  # steps between the least and the largest uint8
LARGEST_WEIGHT = 127
# Processors with AVX2 but without VNNI add two products of uint8 and int8 in 16 bits, where more than 128 x 255 for the
# magnitudes of the two weights together is cut off without a word. See `weight_scales`.
LARGEST_PAIR = 128
SHARES = np.linspace(0.3, 1.0, 29)  # of the range of a tensor, to try
LEAST_SHARE = 1 / 8  # of the range of a tensor, that each channel has: other images may have larger values
TINY = 1e-12  # a step for channels whose weights are all zero


@dataclass(frozen=True)
class Affine:
    """How a tensor is stored in uint8: the number q stands for `scale` * (q - `zero_point`)."""

    scale: np.float32
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> "Affine":
        """For values from `low` to `high`. The range is widened to contain zero, which has a number of its own."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / LEVELS, TINY)
        return cls(np.float32(scale), round(-low / scale))

    @classmethod
    def of_least_error(cls, values: np.ndarray, low: float, high: float) -> "Affine":
        """With the least mean square error on `values`, among ranges that are shares of `low` to `high`.

        Rare large values are worth cutting off where that makes the steps for all others finer.
        """
        candidates = [cls.of_range(share * min(low, 0.0), share * max(high, 0.0)) for share in SHARES]
        return min(candidates, key=lambda affine: np.square(affine.round(values) - values).mean())

    def round(self, values: np.ndarray) -> np.ndarray:
        """The values that are left after storing `values` in uint8, float32."""
        numbers = np.rint(values * (1 / self.scale))
        return self.scale * np.clip(numbers, -self.zero_point, LEVELS - self.zero_point, out=numbers)


def channel_shares(highs: np.ndarray) -> np.ndarray:
    """The numbers to divide the channels of a tensor by, so that all use the whole range (Nagel et al., section 4.1).

    Args:
        highs: the largest value of each of C channels; none is negative.

    Returns:
        C float32, `LEAST_SHARE` to 1. Values above that range are cut off at the channel's own `highs`, or above it.
    """
    largest = max(float(highs.max()), TINY)
    return np.clip(highs / largest, LEAST_SHARE, 1).astype(np.float32)


def weight_scales(weight: np.ndarray) -> np.ndarray:
    """The step of each output channel, so that no sum of two products overflows on any processor.

    A 1x1 convolution and a dense layer add products of neighbouring input channels, so a pair of them has magnitudes of
    at most `LARGEST_PAIR` together, where one may have more than half. The order of the sums of larger kernels is not
    known here: their weights have at most half.

    Args:
        weight: O x I or O x I x K x K.

    Returns:
        O float32, at least `TINY`.
    """
    magnitudes = np.abs(weight.reshape(len(weight), -1))
    if weight[0, 0].size > 1:
        largest = magnitudes.max(axis=1) / (LARGEST_PAIR // 2)
    else:
        even = np.pad(magnitudes, ((0, 0), (0, magnitudes.shape[1] % 2)))
        # Two numbers that are rounded up have a sum that is larger by up to one.
        largest = (even[:, ::2] + even[:, 1::2]).max(axis=1) / (LARGEST_PAIR - 1)
    return np.maximum(largest, TINY).astype(np.float32)


def quantize_weight(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The numbers of a weight with a step for each output channel, int8."""
    numbers = np.rint(weight / _per_channel(scales, weight))
    return np.clip(numbers, -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)


def dequantize_weight(numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The values that these numbers stand for, float32."""
    return numbers * _per_channel(scales, numbers)


def corrected_bias(bias: np.ndarray, weight: np.ndarray, rounded_weight: np.ndarray, mean: np.ndarray,
                   rounded_mean: np.ndarray) -> np.ndarray:
    """The bias with which the mean output of a layer stays what it was before rounding (Nagel et al., section 4.2).

    Padding is passed over: it is as if the sums at the border had all their terms.

    Args:
        bias: of the O output channels.
        weight: O x I/G or O x I/G x K x K for G groups of channels.
        rounded_weight: the same after rounding.
        mean: of the I input channels, over images and places.
        rounded_mean: the same after rounding.

    Returns:
        O float64.
    """
    return bias + _mean_output(weight, mean) - _mean_output(rounded_weight, rounded_mean)


def _mean_output(weight: np.ndarray, mean: np.ndarray) -> np.ndarray:
    outputs, inputs = weight.shape[:2]
    groups = len(mean) // inputs
    of_outputs = np.repeat(mean.reshape(groups, inputs), outputs // groups, axis=0)
    return (weight.reshape(outputs, inputs, -1).sum(axis=2, dtype=np.float64) * of_outputs).sum(axis=1)


def _per_channel(scales: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return scales.reshape(-1, *(1,) * (weight.ndim - 1))
