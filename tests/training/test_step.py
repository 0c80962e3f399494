"""One optimisation step against numpy: SGD, its keys one by one, several batches, overflow, moving average."""
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from conftest import config_for
from mindspore import Parameter, Tensor, nn, ops

from src.errors import UserError
from src.mobilenetV2 import MobileNetV2, MobileNetV2Head
from src.models import EMA_PREFIX, CrossEntropyWithLabelSmooth
from src.training.optimizer import build_optimizer
from src.training.overflow import ClearOverflow
from src.training.step import TrainStep, count_steps, training_state

SMOOTH, DECAY, MOMENTUM = 0.1, 0.01, 0.9
LR = np.array([0.5, 0.25, 0.125, 0.1, 0.1, 0.1], np.float32)


class Classifier(nn.Cell):
    """A head without dropout under the names of a whole network: small enough to follow with numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.head = MobileNetV2Head(5, 3, dropout=0.0)

    def construct(self, features: Tensor) -> Tensor:
        return self.head(features)


def make_step(*options: object, ema: nn.Cell | None = None) -> tuple[Classifier, TrainStep]:
    config = config_for("--weight_decay", DECAY, "--momentum", MOMENTUM, *options)
    network = Classifier()
    optimizer = build_optimizer(network, LR, config)
    step = TrainStep(network, CrossEntropyWithLabelSmooth(SMOOTH), optimizer, config, ema)
    step.set_train()
    return network, step


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return (random.standard_normal((4, 5, 1, 1)).astype(np.float32), random.integers(0, 3, 4).astype(np.int32))


def numpy_gradients(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, labels: np.ndarray) -> tuple:
    logits = x[:, :, 0, 0] @ weight.T + bias
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = np.eye(3)[labels] * (1 - SMOOTH) + SMOOTH / 3
    error = (softmax - target) / len(labels)
    loss = -(target * np.log(softmax)).sum(axis=1).mean()
    return loss, error.T @ x[:, :, 0, 0], error.sum(axis=0)


def values(network: Classifier) -> tuple[np.ndarray, np.ndarray]:
    classifier = network.head.classifier
    return classifier.weight.asnumpy().copy(), classifier.bias.asnumpy().copy()


class NumpySgd:
    """The rules of an update: clip, decay, momentum."""

    def __init__(self, network: Classifier, bias_decay: float = DECAY, clip_norm: float = np.inf,
                 nesterov: bool = False) -> None:
        self.values = values(network)
        self.speeds: tuple = (0.0, 0.0)
        self.decays, self.clip_norm, self.nesterov = (DECAY, bias_decay), clip_norm, nesterov

    def step(self, rate: float, *batches: tuple[np.ndarray, np.ndarray]) -> float:
        """The mean loss of some batches, with whose mean gradient the step is made."""
        losses, *gradients = zip(*(numpy_gradients(*self.values, *batch) for batch in batches), strict=True)
        means = [np.mean(gradient, axis=0) for gradient in gradients]
        factor = min(1.0, self.clip_norm / np.sqrt(sum((mean ** 2).sum() for mean in means)))
        slopes = [factor * mean + decay * value
                  for mean, decay, value in zip(means, self.decays, self.values, strict=True)]
        self.speeds = tuple(MOMENTUM * speed + slope for speed, slope in zip(self.speeds, slopes, strict=True))
        moves = [slope + MOMENTUM * speed for slope, speed in zip(slopes, self.speeds, strict=True)] \
            if self.nesterov else self.speeds
        self.values = tuple(value - rate * move for value, move in zip(self.values, moves, strict=True))
        return float(np.mean(losses))


RULES: dict[str, tuple[dict[str, Any], tuple[object, ...]]] = {
    "plain": ({}, ()),
    "no decay on the bias": ({"bias_decay": 0.0}, ("--norm_bias_decay", False)),
    "nesterov": ({"nesterov": True}, ("--nesterov", True)),
    "clipped": ({"clip_norm": 0.3}, ("--grad_clip_norm", 0.3)),
    "clip norm never reached": ({}, ("--grad_clip_norm", 1000)),
    "clipped, nesterov": ({"clip_norm": 0.3, "nesterov": True}, ("--grad_clip_norm", 0.3, "--nesterov", True)),
}


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("name", RULES)
def test_steps_are_the_rules(name: str, accumulated: int) -> None:
    rules, options = RULES[name]
    network, step = make_step(*options, "--grad_accum_steps", accumulated)
    expected = NumpySgd(network, **rules)
    batches = [batch(n) for n in range(3 * accumulated)]
    found = step.over((Tensor(x), Tensor(labels)) for x, labels in batches)
    for n, (loss, applied) in enumerate(found):
        expected_loss = expected.step(LR[n], *batches[n * accumulated:(n + 1) * accumulated])
        assert bool(applied.asnumpy())
        assert float(loss.asnumpy()) == pytest.approx(expected_loss, rel=1e-5)
        for value, wanted in zip(values(network), expected.values, strict=True):
            np.testing.assert_allclose(value, wanted, atol=1e-5)
    assert n == 2


def test_rules_differ_enough_to_be_told_apart() -> None:
    """Else the test above would pass for a key that does nothing."""
    network, _ = make_step()
    ends = []
    for rules, _ in RULES.values():
        sgd = NumpySgd(network, **rules)
        for n in range(3):
            sgd.step(LR[n], batch(n))
        ends.append(np.concatenate([value.ravel() for value in sgd.values]))
    alike = [(a, b) for a in range(len(ends)) for b in range(a) if np.abs(ends[a] - ends[b]).max() < 1e-3]
    assert alike == [(4, 0)]  # the norm that is never reached


def test_accumulated_batches_are_one_joint_batch() -> None:
    network, step = make_step("--grad_accum_steps", 2)
    joint_network, joint_step = make_step()
    for name, value in network.parameters_dict().items():
        value.set_data(joint_network.parameters_dict()[name].value())
    parts = [batch(n) for n in range(2)]
    (loss, _), = step.over((Tensor(x), Tensor(labels)) for x, labels in parts)
    joint_loss, _ = joint_step(*(Tensor(np.concatenate(both)) for both in zip(*parts, strict=True)))
    assert float(loss.asnumpy()) == pytest.approx(float(joint_loss.asnumpy()), rel=1e-6)
    for value, wanted in zip(values(network), values(joint_network), strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-6)


@pytest.mark.parametrize("bad_batch", [0, 1])
def test_one_bad_batch_spoils_its_step_and_no_other(bad_batch: int) -> None:
    network, step = make_step("--grad_accum_steps", 2)
    expected = NumpySgd(network)
    good, bad = [batch(n) for n in range(2)], [batch(n) for n in range(2)]
    bad[bad_batch][0][0, 0] = np.nan
    (_, spoiled), (loss, applied) = step.over((Tensor(x), Tensor(labels)) for x, labels in bad + good)
    assert not bool(spoiled.asnumpy())
    assert bool(applied.asnumpy())
    assert float(loss.asnumpy()) == pytest.approx(expected.step(LR[1], *good), rel=1e-5)
    np.testing.assert_allclose(values(network)[0], expected.values[0], atol=1e-5)


def test_batches_that_do_not_fill_a_step() -> None:
    config = config_for("--grad_accum_steps", 4)
    assert [count_steps(batches, config) for batches in (4, 7, 8)] == [1, 1, 2]
    with pytest.raises(UserError, match="grad_accum_steps is 4, but an epoch has only 3 batches; lower"):
        count_steps(3, config)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_step_that_overflows_changes_nothing_but_the_rate_to_come(bad: float) -> None:
    ema = Classifier()
    ema.update_parameters_name(EMA_PREFIX)
    network, step = make_step("--ema_decay", 0.5, ema=ema)
    step(*map(Tensor, batch(0)))
    before = {name: value.asnumpy().copy() for name, value in step.parameters_dict().items()}
    x, labels = batch(1)
    x[0, 0] = bad
    _, applied = step(Tensor(x), Tensor(labels))
    assert not bool(applied.asnumpy())
    for name, value in step.parameters_dict().items():
        np.testing.assert_array_equal(value.asnumpy(), before[name] + (name == "global_step"), err_msg=name)
    expected = NumpySgd(network)
    expected.speeds = tuple(before[f"moments.head.classifier.{name}"] for name in ("weight", "bias"))
    _, applied = step(*map(Tensor, batch(2)))  # and training goes on
    assert bool(applied.asnumpy())
    expected.step(LR[2], batch(2))
    for value, wanted in zip(values(network), expected.values, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-6)


def test_adamw_corrects_its_bias_by_updates_and_skipped_steps_are_none() -> None:
    """Two batches a step; the third step is not finite."""
    network, step = make_step("--optimizer", "adamw", "--grad_accum_steps", 2)
    expected, first, second = (np.concatenate([value.ravel() for value in values(network)]).astype(np.float64) * factor
                               for factor in (1, 0, 0))
    batches, updates = [batch(n) for n in range(8)], 0
    batches[5][0][0, 0] = np.nan
    found = step.over((Tensor(x), Tensor(labels)) for x, labels in batches)
    for n, (_, applied) in enumerate(found):
        assert bool(applied.asnumpy()) == (n != 2)
        if n != 2:
            weight, bias = expected[:15].reshape(3, 5), expected[15:]
            gradients = [np.concatenate([part.ravel() for part in numpy_gradients(weight, bias, *each)[1:]])
                         for each in batches[2 * n:2 * n + 2]]
            gradient, updates = np.mean(gradients, axis=0), updates + 1
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient ** 2
            expected = expected * (1 - LR[n] * DECAY) - LR[n] * first / (1 - 0.9 ** updates) / (
                np.sqrt(second / (1 - 0.999 ** updates)) + 1e-8)
        np.testing.assert_allclose(np.concatenate([value.ravel() for value in values(network)]), expected, atol=2e-5)
    state = training_state(step)
    assert (state["updates"].asnumpy().tolist(), state["global_step"].asnumpy().tolist()) == ([3], [4])


def test_float16_follows_the_rules_and_keeps_the_loss_scale_out_of_them() -> None:
    network, step = make_step("--amp_level", "O2", "--loss_scale", 128, "--grad_clip_norm", 0.3)
    expected = NumpySgd(network, clip_norm=0.3)
    for n in range(3):
        loss, applied = step(*map(Tensor, batch(n)))
        assert bool(applied.asnumpy())
        assert float(loss.asnumpy()) == pytest.approx(expected.step(LR[n], batch(n)), rel=2e-3)
    for value, wanted in zip(values(network), expected.values, strict=True):
        np.testing.assert_allclose(value, wanted, atol=2e-3)  # ten bits; a scale of 128 left in would be far off
    assert not {"loss_scale", "good_steps"} & set(training_state(step))


def test_float16_gets_the_whole_loss_scale_however_many_batches_there_are() -> None:
    """The division by their number comes in float32, with that by the scale."""
    gradients = []
    for options in ((), ("--amp_level", "O2", "--loss_scale", 1024)):
        _, step = make_step("--grad_accum_steps", 4, *options)
        x, labels = map(Tensor, batch(0))
        step(x, labels, False)
        gradients.append(step.sums[0].asnumpy().copy())
        for is_last in (False, False, True):
            loss, applied = step(x, labels, is_last)
        assert applied.asnumpy()
        gradients.append(loss.asnumpy())
    quarter, mean_loss, scaled, scaled_mean_loss = gradients
    assert np.abs(scaled).sum() == pytest.approx(1024 * np.abs(4 * quarter).sum(), rel=0.05)
    assert scaled_mean_loss == pytest.approx(mean_loss, rel=0.01)


class Recorder(nn.Cell):
    """In the place of `ClearOverflow`, whose operator Ascend alone has: counts, and takes away what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.register = Parameter(Tensor(1, ms.float32), "register", requires_grad=False)  # set: an earlier overflow
        self.calls = Parameter(Tensor(0, ms.int32), "calls", requires_grad=False)

    def construct(self, inputs: Tensor) -> Tensor:
        cleared = ops.depend(ops.assign(self.register, Tensor(0, ms.float32)),
                             ops.assign_add(self.calls, Tensor(1, ms.int32)))
        return ops.depend(inputs, cleared)


class RegisterIsClear(nn.Cell):
    """In the place of `amp.all_finite` on such a card."""

    def __init__(self, register: Parameter) -> None:
        super().__init__()
        self.register = register

    def construct(self, gradients: tuple) -> Tensor:
        return ops.depend(self.register, gradients) == 0


@pytest.mark.parametrize("accumulated", [1, 3])
def test_an_earlier_overflow_in_the_register_does_not_count(accumulated: int) -> None:
    """Cards that saturate keep it until it is cleared: once before the first batch of each step."""
    _, step = make_step("--grad_accum_steps", accumulated)
    recorder = Recorder()
    step.clear_overflow, step.all_finite = recorder, RegisterIsClear(recorder.register)
    for _ in range(2):
        applied = [bool(applied) for _, applied in step.over(tuple(map(Tensor, batch(n))) for n in range(accumulated))]
        assert applied == [True]
        ops.assign(recorder.register, Tensor(1, ms.float32))  # by an evaluation, say
    assert int(recorder.calls.asnumpy()) == 2


def test_the_register_is_cleared_on_ascend_alone() -> None:
    network = Classifier()
    for platform, wanted in (("Ascend", ClearOverflow), ("CPU", type(None))):
        config = config_for().replace({"platform": platform})
        step = TrainStep(network, CrossEntropyWithLabelSmooth(SMOOTH), build_optimizer(network, LR, config), config)
        assert type(step.clear_overflow) is wanted


def test_cards_look_ahead_with_one_operator_for_each_parameter() -> None:
    """MindSpore's own `ApplyMomentum`, which ignores Nesterov's rule on CPU."""
    for platform, itself in (("Ascend", False), ("GPU", False), ("CPU", True)):
        config = config_for("--nesterov", "True", "--cpu_kernels", "off").replace({"platform": platform})
        optimizer = build_optimizer(Classifier(), LR, config)
        assert optimizer.looks_ahead_itself is itself
        assert optimizer.opt.use_nesterov is True


def test_loss_scale_doubles_after_good_steps_and_halves_after_an_overflow() -> None:
    network, step = make_step("--amp_level", "O2", "--loss_scale", 8, "--loss_scale_window", 2)
    bad = batch(9)
    bad[0][0] *= 6e4  # what follows from it leaves float16's range
    scales = []
    for is_good in (True, True, True, False, True, True):
        before = values(network)
        _, applied = step(*map(Tensor, batch(0) if is_good else bad))
        assert bool(applied.asnumpy()) == is_good
        assert np.array_equal(values(network)[0], before[0]) == (not is_good)
        scales.append(float(training_state(step)["loss_scale"].asnumpy()))
    assert scales == [8, 16, 16, 8, 8, 16]
    assert int(training_state(step)["good_steps"].asnumpy()) == 0


def averaged_step(*options: object) -> tuple[Classifier, Classifier, TrainStep]:
    ema = Classifier()
    ema.update_parameters_name(EMA_PREFIX)
    network, step = make_step(*options, ema=ema)
    return network, ema, step


@pytest.mark.parametrize("decay", [0.25, 0.9999])
def test_moving_average_follows_the_weights(decay: float) -> None:
    """From (1 + n) / (10 + n) on, which is .18, .25 and .31 in the first three steps."""
    network, ema, step = averaged_step("--ema_decay", decay)
    expected = ema.head.classifier.weight.asnumpy().copy()
    for n in range(1, 5):
        step(*map(Tensor, batch(n)))
        share = min(decay, (1 + n) / (10 + n))
        expected = share * expected + (1 - share) * values(network)[0]
    np.testing.assert_allclose(ema.head.classifier.weight.asnumpy(), expected, atol=1e-6)
    assert not np.allclose(expected, values(network)[0], atol=1e-3)


def test_weight_decay_groups_of_a_whole_network() -> None:
    network, options = MobileNetV2(3, 0.35), ("--weight_decay", DECAY)
    everything = build_optimizer(network, LR, config_for(*options, "--norm_bias_decay", "True"))
    assert {float(decay) for decay in everything.weight_decay} == {float(np.float32(DECAY))}
    optimizer = build_optimizer(network, LR, config_for(*options, "--norm_bias_decay", "False"))
    decayed = {p.name for p, decay in zip(optimizer.parameters, optimizer.weight_decay, strict=True) if decay > 0}
    kinds = {name.rpartition(".")[2] for name in decayed}
    assert kinds == {"weight"}
    assert len(decayed) == 53  # 52 convolutions and the classifier
    assert sum(p.name.endswith((".gamma", ".beta", ".bias")) for p in optimizer.parameters) == 2 * 52 + 1


@pytest.mark.parametrize("accumulated", [1, 2])
def test_state_is_what_resuming_needs_and_no_weights(accumulated: int) -> None:
    network, step = make_step("--grad_accum_steps", accumulated)
    list(step.over(tuple(map(Tensor, batch(0))) for _ in range(accumulated)))
    state = training_state(step)
    assert not any(name in state for name in network.parameters_dict())
    assert sum(name.startswith("moments.") for name in state) == 2
    assert int(np.max(state["global_step"].asnumpy())) == 1
    assert set(state) == {name for name in state if name.startswith("moments.")} | {"global_step", "momentum"}


def test_state_under_an_average_holds_the_trained_weights() -> None:
    ema = Classifier()
    ema.update_parameters_name(EMA_PREFIX)
    network, step = make_step("--ema_decay", 0.5, ema=ema)
    state = training_state(step)
    assert set(network.parameters_dict()) <= set(state)
    assert not any(name.startswith(EMA_PREFIX) for name in state)
