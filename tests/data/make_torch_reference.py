"""Thirty training steps in PyTorch, for tests/test_torch_reference.py to hold this project's own against.

    python tests/data/make_torch_reference.py --network tools/peers/torch_network.py --output torch_reference.npz

`--network` names a Python file with a PyTorch class `MobileNetV2(classes, dropout)`, whose parameters come in the order
of computation: convolution, gamma and beta of each layer, then the classifier's matrix and bias. Needs PyTorch; the
tests do not. The stored reference was made with PyTorch 2.13.0 on a CPU.

Initial weights and batches are drawn here, by numpy alone, so that nobody has to store them. In a network that is fresh
from its usual initialisation rounding errors grow a thousandfold within five steps, and two correct programs part ways.
What keeps them together here: most activations lie where ReLU6 is the identity (normalised values times .5 plus 1.5;
one in a thousand is cut off), the inner layers' part of each sum with a shortcut is small (.2), and the
learning rate is small.
"""
import argparse
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

CLASSES, IMAGE_SIZE, BATCH_SIZE, STEPS = 8, 32, 32, 30
LABEL_SMOOTH, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 0.01  # a decay that shows within thirty steps
LEARNING_RATES = (0.002 * np.minimum(1, np.arange(1, STEPS + 1) / 10)).astype(np.float32)
SAMPLE = 16  # entries that are kept of each parameter

Shape = tuple[int, ...]


def initial_values(shapes: Sequence[Shape]) -> list[np.ndarray]:
    """Values for trainable parameters of these shapes, in the order of computation."""
    random = np.random.default_rng(1)
    values: list[np.ndarray] = []
    for out_channels, inputs, *window in shapes[:-2:3]:
        narrows = out_channels < inputs  # as the last layer of an inverted residual does
        fan_out = np.prod(window) * (1 if inputs == 1 else out_channels)
        values.append(random.standard_normal((out_channels, inputs, *window)) * np.sqrt(2 / fan_out))
        values.append(np.full(out_channels, 0.2 if narrows else 0.5))
        values.append(np.full(out_channels, 0.0 if narrows else 1.5))
    values += [0.01 * random.standard_normal(shapes[-2]), np.zeros(shapes[-1])]
    return [value.astype(np.float32) for value in values]


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures of coarse patterns, one for each class, with as much noise; and their int32 labels."""
    random = np.random.default_rng(2)
    patterns = random.standard_normal((CLASSES, 3, 4, 4)).repeat(IMAGE_SIZE // 4, 2).repeat(IMAGE_SIZE // 4, 3)
    for _ in range(STEPS):
        labels = random.integers(0, CLASSES, BATCH_SIZE)
        noise = random.standard_normal((BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE))
        yield (patterns[labels] + noise).astype(np.float32), labels.astype(np.int32)


def sample(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """N x SAMPLE float32: entries of each array, drawn with a fixed seed, the small arrays' more than once."""
    random = np.random.default_rng(3)
    return np.stack([array.ravel()[random.integers(0, array.size, SAMPLE)] for array in arrays]).astype(np.float32)


def main() -> None:
    """Train in PyTorch; write losses, parameters and batch norm statistics."""
    import torch
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, required=True, help="Python file with the PyTorch network")
    parser.add_argument("--output", type=Path, required=True, help=".npz file to write")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("network", options.network)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.MobileNetV2(CLASSES, 0.0)
    parameters = list(network.parameters())
    with torch.no_grad():
        for parameter, value in zip(parameters, initial_values([p.shape for p in parameters]), strict=True):
            parameter.copy_(torch.from_numpy(value))
    optimizer = torch.optim.SGD(parameters, 0.0, MOMENTUM, weight_decay=WEIGHT_DECAY)
    loss_fn = torch.nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTH)
    losses = []
    for rate, (images, labels) in zip(LEARNING_RATES, batches(), strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        loss = loss_fn(network(torch.from_numpy(images)), torch.from_numpy(labels).long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    buffers = dict(network.named_buffers())
    statistics = [buffer for kind in ("running_mean", "running_var")
                  for name, buffer in buffers.items() if name.endswith(kind)]
    np.savez_compressed(options.output, losses=np.array(losses), torch=torch.__version__,
                        trained=sample([p.detach().numpy() for p in parameters]),
                        statistics=sample([buffer.numpy() for buffer in statistics]))


if __name__ == "__main__":
    main()
