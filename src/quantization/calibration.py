"""Measures the activations of an ONNX graph on images: how to store them in eight bits, and their means."""
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from src.quantization.arithmetic import Affine, channel_shares

SAMPLED = 1000  # values of a tensor that each image gives for the choice of its range


@dataclass(frozen=True)
class Activation:
    """How to store a tensor: each of its C channels divided by its share, then rounded.

    The means are those of the divided channels, over images and places, before and after rounding.
    """

    affine: Affine
    shares: np.ndarray
    mean: np.ndarray
    rounded_mean: np.ndarray


def calibrate(model: onnx.ModelProto, tensors: Sequence[str], equalised: Collection[str],
              images: np.ndarray) -> dict[str, Activation]:
    """Run the graph on N x 3 x H x W images and measure tensors of it.

    The images are computed twice: ranges must be known before the means of rounded values are.

    Args:
        model: the float graph.
        tensors: to measure. N x C or N x C x H x W.
        equalised: those of them whose channels may be divided, so that all have the same range. No value is negative.
        images: as the graph takes them.
    """
    session = _session_for(model, tensors)
    ranges = _measure_ranges(session, tensors, images)
    shares = {name: channel_shares(found.highs) if name in equalised else np.ones_like(found.highs)
              for name, found in ranges.items()}
    affines = {name: Affine.of_range(0, float((found.highs / shares[name]).max())) if name in equalised else
               Affine.of_least_error(found.sample, float(found.lows.min()), float(found.highs.max()))
               for name, found in ranges.items()}
    means = {name: np.zeros(len(share)) for name, share in shares.items()}
    rounded_means = {name: np.zeros(len(share)) for name, share in shares.items()}
    for image in _one_by_one(images):
        for name, values in _run(session, tensors, image):
            divided = values / shares[name].reshape(1, -1, *(1,) * (values.ndim - 2))
            means[name] += _over_channels(np.mean, divided) / len(images)
            rounded_means[name] += _over_channels(np.mean, affines[name].round(divided)) / len(images)
    return {name: Activation(affines[name], shares[name], means[name], rounded_means[name]) for name in tensors}


@dataclass
class _Range:
    """The least and the largest value of each channel, and a sample of all values."""

    lows: np.ndarray
    highs: np.ndarray
    sample: np.ndarray


def _measure_ranges(session: onnxruntime.InferenceSession, tensors: Sequence[str],
                    images: np.ndarray) -> dict[str, _Range]:
    generator = np.random.default_rng(0)
    found: dict[str, list[_Range]] = {name: [] for name in tensors}
    for image in _one_by_one(images):
        for name, values in _run(session, tensors, image):
            chosen = generator.integers(0, values.size, min(SAMPLED, values.size))
            found[name].append(_Range(_over_channels(np.min, values), _over_channels(np.max, values),
                                      values.ravel()[chosen]))
    return {name: _Range(np.min([each.lows for each in ranges], axis=0),
                         np.max([each.highs for each in ranges], axis=0),
                         np.concatenate([each.sample for each in ranges])) for name, ranges in found.items()}


def _session_for(model: onnx.ModelProto, tensors: Sequence[str]) -> onnxruntime.InferenceSession:
    """A session that gives the values of `tensors`, for batches of any size."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    inputs = {value.name for value in graph.input}
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.value_info[:]
    del graph.output[:]
    graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors
                        if name not in inputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of nodes that these outputs do not need
    return onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, tensors: Sequence[str],
         image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The name and the values of each of `tensors` for a batch of one image."""
    fed = {session.get_inputs()[0].name: image}
    names = [output.name for output in session.get_outputs()]
    found = {**fed, **dict(zip(names, session.run(names, fed), strict=True))}
    return ((name, found[name]) for name in tensors)


def _one_by_one(images: np.ndarray) -> Iterator[np.ndarray]:
    """Batches of one image: the activations of a whole network take much memory."""
    return (images[position:position + 1] for position in range(len(images)))


def _over_channels(function: Callable[..., np.ndarray], values: np.ndarray) -> np.ndarray:
    """A function of the values of each channel: N x C or N x C x H x W to C."""
    return function(values, axis=(0, *range(2, values.ndim)))
