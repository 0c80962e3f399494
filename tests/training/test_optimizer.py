"""The update rules against numpy in double precision, given gradients: stock operators and CPU kernels alike."""
from collections.abc import Sequence

import mindspore as ms
import numpy as np
import pytest
from conftest import config_for
from mindspore import Tensor, nn

from src.cpu_kernels import accelerate
from src.cpu_kernels.optimizer import AcceleratedAdamW, AcceleratedMomentum
from src.mobilenetV2 import MobileNetV2
from src.model_utils.config import Config
from src.training.optimizer import build_optimizer, head_distances

DECAY = 0.1
RATES = np.array([0.01, 0.02, 0.015, 0.01, 0.005], np.float32)
DISTANCES = {"backbone.stem": 4, "backbone.blocks.0": 3, "backbone.blocks.1": 2, "backbone.last": 1, "head": 0}


def network_of_two_blocks() -> MobileNetV2:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mobilenetV2.INVERTED_RESIDUALS", ((2, 8, 2, 1),))
        return MobileNetV2(3, 0.35)


def gradients_of_steps(shapes: Sequence[tuple[int, ...]]) -> list[list[np.ndarray]]:
    """Some are a thousand times as large as others, and a parameter's first gradients are zero."""
    random = np.random.default_rng(1)
    steps = [[(random.standard_normal(shape) * 10.0 ** (-3 * (n % 2))).astype(np.float32)
              for n, shape in enumerate(shapes)] for _ in RATES]
    for step in steps[:2]:
        step[2][:] = 0
    return steps


def reference(config: Config, names: Sequence[str], values: Sequence[np.ndarray],
              steps: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The values after all steps, in double precision."""
    values = [value.astype(np.float64) for value in values]
    decays = [DECAY if value.ndim > 1 or config.norm_bias_decay else 0.0 for value in values]
    distances = [next(distance for start, distance in DISTANCES.items() if name.startswith(f"{start}."))
                 for name in names]
    firsts, seconds = ([np.zeros_like(value) for value in values] for _ in range(2))
    beta1, beta2 = config.adam_beta1, config.adam_beta2
    for t, (rate, gradients) in enumerate(zip(RATES.astype(np.float64), steps, strict=True), 1):
        norm = np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for gradient in gradients))
        clip = min(1.0, config.grad_clip_norm / norm) if config.grad_clip_norm else 1.0
        for n, (decay, distance) in enumerate(zip(decays, distances, strict=True)):
            g, lr = clip * gradients[n].astype(np.float64), rate * config.layer_decay ** distance
            if config.optimizer == "adamw":
                firsts[n] = beta1 * firsts[n] + (1 - beta1) * g
                seconds[n] = beta2 * seconds[n] + (1 - beta2) * g ** 2
                root = np.sqrt(seconds[n] / (1 - beta2 ** t))
                values[n] = values[n] * (1 - lr * decay) - lr * firsts[n] / (1 - beta1 ** t) / (root + config.adam_eps)
            else:
                slope = g + decay * values[n]
                firsts[n] = config.momentum * firsts[n] + slope
                values[n] -= lr * (slope + config.momentum * firsts[n] if config.nesterov else firsts[n])
    return values


def updated(config: Config, kernels: str) -> tuple[nn.Optimizer, list[str], list[np.ndarray], list[np.ndarray]]:
    """The optimizer after all steps, and the parameters' names, first and last values."""
    ms.set_seed(0)
    network = network_of_two_blocks()
    accelerate(network, kernels)
    optimizer = build_optimizer(network, RATES, config)
    before = [parameter.asnumpy().copy() for parameter in optimizer.parameters]
    for gradients in gradients_of_steps([value.shape for value in before]):
        optimizer(tuple(map(Tensor, gradients)))
    after = [parameter.asnumpy().copy() for parameter in optimizer.parameters]
    return optimizer, [parameter.name for parameter in optimizer.parameters], before, after


RULES: dict[str, tuple[object, ...]] = {
    "adamw": ("--optimizer", "adamw"),
    "adamw, clipped, per depth": ("--optimizer", "adamw", "--grad_clip_norm", 0.5, "--layer_decay", 0.7,
                                  "--norm_bias_decay", False),
    "adamw, other numbers": ("--optimizer", "adamw", "--adam_beta1", 0.0, "--adam_beta2", 0.9, "--adam_eps", 0.01),
    "momentum, per depth": ("--layer_decay", 0.7),
    "nesterov, clipped, per depth": ("--nesterov", True, "--grad_clip_norm", 0.5, "--layer_decay", 0.7),
}


@pytest.mark.parametrize("name", RULES)
def test_updates_are_the_rules(name: str) -> None:
    """Within the rounding of float32: in each step a unit in the last place of the largest value, and 8 of the move."""
    config = config_for("--weight_decay", DECAY, *RULES[name])
    optimizer, names, before, stock = updated(config, "off")
    ours, _, same, kernels = updated(config, "on")
    assert not isinstance(optimizer, AcceleratedAdamW | AcceleratedMomentum)
    assert isinstance(ours, AcceleratedAdamW if config.optimizer == "adamw" else AcceleratedMomentum)
    expected = reference(config, names, before, gradients_of_steps([value.shape for value in before]))
    unit = np.finfo(np.float32).eps
    for n, wanted in enumerate(expected):
        np.testing.assert_array_equal(same[n], before[n])  # the networks are of one seed
        moved = np.abs(wanted - before[n]).max()
        bound = len(RATES) * unit * (np.abs(wanted).max() + 8 * moved)
        for found in stock[n], kernels[n]:
            assert np.abs(found - wanted).max() <= bound, names[n]
        assert np.abs(stock[n] - kernels[n]).max() <= bound, names[n]
        assert moved > 1e3 * bound, names[n]  # else the rule would not be seen


def test_rates_of_a_whole_network_fall_towards_the_stem() -> None:
    names = [parameter.name for parameter in MobileNetV2(3, 0.35).trainable_params()]
    distances = dict(zip(names, head_distances(names), strict=True))
    assert [distances[f"backbone.{layer}.weight"] for layer in (
        "stem.conv", "blocks.0.depthwise.conv", "blocks.15.expand.conv", "blocks.16.project.conv", "last.conv")] \
        == [19, 18, 3, 2, 1]
    assert [distances[f"{layer}"] for layer in ("backbone.stem.bn.gamma", "backbone.blocks.16.project.bn.beta",
                                                "head.classifier.weight", "head.classifier.bias")] == [19, 2, 0, 0]
    assert sorted(set(distances.values())) == list(range(20))


def test_a_head_alone_has_the_rate_of_the_schedule() -> None:
    """As with a frozen backbone."""
    assert head_distances(["head.classifier.weight", "head.classifier.bias"]) == [0, 0]


def test_the_state_of_adamw_is_both_moments_and_the_number_of_updates() -> None:
    optimizer, names, _, _ = updated(config_for("--optimizer", "adamw"), "on")
    state = {parameter.name for parameter in optimizer.get_parameters()} - set(names) - {"learning_rate"}
    assert state == {f"{moment}.{name}" for moment in ("moment1", "moment2") for name in names} | {
        "updates", "global_step"}
    assert optimizer.updates.asnumpy().tolist() == [len(RATES)]
