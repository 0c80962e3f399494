"""The adaptive loss scale, which keeps small float16 gradients from becoming zero."""
import mindspore as ms
from mindspore import Parameter, Tensor, ops

MAX_LOSS_SCALE = 2.0 ** 24


def adapt_loss_scale(loss_scale: Parameter, good_steps: Parameter, window: int, finite: Tensor) -> None:
    """Double the scale after `window` applied steps in a row; halve it after an overflow. Part of the graph of a step.

    Micikevicius et al., "Mixed Precision Training", section 3.2, https://arxiv.org/abs/1710.03740.

    Args:
        loss_scale: float32, changed in place.
        good_steps: int32, applied steps since the last change of the scale; changed in place.
        window: `loss_scale_window`.
        finite: whether this step was applied.
    """
    steps = (good_steps + 1) * finite.astype(ms.int32)
    is_time = steps >= window
    factor = ops.select(finite, 1 + is_time.astype(ms.float32), Tensor(0.5, ms.float32))
    ops.assign(loss_scale, ops.clamp(loss_scale * factor, 1.0, MAX_LOSS_SCALE))
    ops.assign(good_steps, steps * (1 - is_time.astype(ms.int32)))
