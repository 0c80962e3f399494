"""The arithmetic of eight bits, against what the papers' formulas give when they are written out."""
import numpy as np
import pytest

from src.quantization.arithmetic import (
    LEAST_SHARE,
    Affine,
    channel_shares,
    corrected_bias,
    dequantize_weight,
    quantize_weight,
    weight_scales,
)


def convolve(images: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    """Without padding, N x I x H x W and O x I/G x K x K, term by term."""
    outputs, inputs, size, _ = weight.shape
    height, width = images.shape[2] - size + 1, images.shape[3] - size + 1
    result = np.zeros((len(images), outputs, height, width))
    for channel in range(outputs):
        first = channel // (outputs // groups) * inputs
        for top, left in np.ndindex(height, width):
            window = images[:, first:first + inputs, top:top + size, left:left + size]
            result[:, channel, top, left] = (window * weight[channel]).sum(axis=(1, 2, 3))
    return result


def test_an_affine_rounds_to_256_numbers_with_zero_among_them() -> None:
    affine = Affine.of_range(-1.0, 4.1)
    assert affine.scale == pytest.approx(5.1 / 255)
    assert affine.zero_point == 50
    values = np.array([-9.0, -1.0, 0.0, 0.011, 4.1, 9.0], np.float32)
    np.testing.assert_allclose(affine.round(values), [-1.0, -1.0, 0.0, 0.02, 4.1, 4.1], atol=1e-6)
    assert len(np.unique(affine.round(np.linspace(-2, 5, 10000)))) == 256


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_a_range_without_zero_gets_it(low: float, high: float) -> None:
    affine = Affine.of_range(low, high)
    assert 0 <= affine.zero_point <= 255
    assert affine.round(np.zeros(1))[0] == 0
    assert np.abs(affine.round(np.array([low, high])) - [low, high]).max() <= affine.scale


def test_the_range_of_least_error_cuts_rare_values_off() -> None:
    generator = np.random.default_rng(0)
    values = np.append(generator.standard_normal(100000), 12.0)
    chosen = Affine.of_least_error(values, values.min(), values.max())
    whole = Affine.of_range(values.min(), values.max())
    assert chosen.scale < whole.scale
    assert np.square(chosen.round(values) - values).mean() < 0.9 * np.square(whole.round(values) - values).mean()
    uniform = generator.uniform(-1, 1, 100000)
    assert Affine.of_least_error(uniform, -1, 1).scale == pytest.approx(2 / 255, rel=0.03)


@pytest.mark.parametrize("shape", [(16, 24, 1, 1), (16, 7, 1, 1), (16, 1, 3, 3), (16, 3, 3, 3), (5, 24)])
def test_weights_are_rounded_and_overflow_nowhere(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    scales = weight_scales(weight)
    numbers = quantize_weight(weight, scales)
    assert np.abs(dequantize_weight(numbers, scales) - weight).max() <= scales.max() / 2 * (1 + 1e-5)
    # Two products of uint8 and int8 are added in 16 bits.
    rows = np.abs(numbers.reshape(len(numbers), -1).astype(np.int64))
    if len(shape) == 4 and shape[2] > 1:
        assert rows.max() == 64
        assert 255 * 2 * rows.max() <= 32767
    else:
        rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
        pairs = rows[:, ::2] + rows[:, 1::2]
        assert (255 * pairs).max() <= 32767
        assert pairs.max() >= 126  # no bit is given away
        assert rows.max() > 64


def test_a_channel_without_weights_stays_zero() -> None:
    weight = np.zeros((2, 4, 1, 1), np.float32)
    scales = weight_scales(weight)
    assert (scales > 0).all()
    assert not quantize_weight(weight, scales).any()


def test_channels_are_stretched_to_one_range() -> None:
    highs = np.array([6.0, 3.0, 0.01, 0.0])
    np.testing.assert_allclose(channel_shares(highs), [1, 0.5, LEAST_SHARE, LEAST_SHARE])
    np.testing.assert_allclose((highs / channel_shares(highs))[:2], 6.0)
    assert np.isfinite(channel_shares(np.zeros(3))).all()


@pytest.mark.parametrize(("groups", "shape"), [(1, (6, 4, 3, 3)), (4, (4, 1, 3, 3)), (1, (6, 4, 1, 1)),
                                               (2, (6, 2, 1, 1))])
def test_the_corrected_bias_keeps_the_mean_output(groups: int, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(2)
    weight = generator.standard_normal(shape)
    rounded_weight = np.round(weight)
    # Far from the border all sums have all their terms: images that are the same everywhere show the formula exactly.
    images = np.broadcast_to(generator.uniform(0, 2, (5, 4, 1, 1)), (5, 4, 4, 4))
    rounded_images = np.round(images * 2) / 2
    bias = generator.standard_normal(shape[0])
    found = corrected_bias(bias, weight, rounded_weight, images.mean(axis=(0, 2, 3)),
                           rounded_images.mean(axis=(0, 2, 3)))
    expected = convolve(images, weight, groups) + bias[:, None, None]
    rounded = convolve(rounded_images, rounded_weight, groups)
    assert np.abs((rounded + bias[:, None, None] - expected).mean(axis=(0, 2, 3))).max() > 0.1
    np.testing.assert_allclose((rounded + found[:, None, None]).mean(axis=(0, 2, 3)), expected.mean(axis=(0, 2, 3)),
                               atol=1e-9)


def test_the_corrected_bias_of_a_dense_layer() -> None:
    generator = np.random.default_rng(3)
    weight, features = generator.standard_normal((5, 8)), generator.uniform(0, 3, (20, 8))
    rounded_weight, rounded_features = np.round(weight), np.round(features)
    found = corrected_bias(np.zeros(5), weight, rounded_weight, features.mean(axis=0), rounded_features.mean(axis=0))
    np.testing.assert_allclose((rounded_features @ rounded_weight.T + found).mean(axis=0),
                               (features @ weight.T).mean(axis=0), atol=1e-9)
