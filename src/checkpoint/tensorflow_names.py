"""Brings arrays of TensorFlow into PyTorch's form: dots between the parts of a name, output channels first."""
from collections.abc import Mapping

import numpy as np

PARTS = {"weights": "weight", "depthwise_weights": "weight", "kernel": "weight", "depthwise_kernel": "weight",
         "biases": "bias"}
AVERAGE = "ExponentialMovingAverage"
EMA = "EMA"


def channels_first(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """An array with its name in PyTorch's form; those that are no kernels stay as they are.

    H x W x in x out becomes out x in x H x W, a depthwise H x W x channels x 1 becomes channels x 1 x H x W, and
    in x out becomes out x in.
    """
    *path, last = name.split("/")
    renamed = ".".join([*path, PARTS.get(last, last)])
    if PARTS.get(last) != "weight":
        return renamed, value
    if value.ndim == 4:
        value = value.transpose((2, 3, 0, 1) if value.shape[3] == 1 else (3, 2, 0, 1))
    elif value.ndim == 2:
        value = value.T
    return renamed, value


def slim_networks(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The trained network of a checkpoint of TF-slim, and if it was kept, the moving average of its weights.

    A variable below another one is its moving average or belongs to the optimizer. The statistics of batch
    normalisation have no such average: they are averages themselves.
    """
    trained = {name: value for name, value in arrays.items() if name.rpartition("/")[0] not in arrays}
    networks = {"": trained}
    if any(f"{name}/{AVERAGE}" in arrays for name in trained):
        averaged = {name: arrays.get(f"{name}/{AVERAGE}", value) for name, value in trained.items()}
        networks = {EMA: averaged, "trained": trained}
    return {where: dict(channels_first(name, value) for name, value in values.items())
            for where, values in networks.items()}
