"""The overflow register of Ascend cards that saturate.

Atlas 910A computes the largest number where others compute infinity, and zero for what is not a number. That a
computation overflowed, a register of the card tells: `amp.all_finite` reads it there, not the gradients. The register
is the card's own, so the ranks must add up their verdicts, and it keeps what any earlier computation left.
"""
import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.operations.math_ops import NPUClearFloatStatusV2


class ClearOverflow(nn.Cell):
    """Clears the register before `inputs` are used, so that no earlier computation counts.

    As `TrainOneStepWithLossScaleCell.start_overflow_check` of MindSpore orders it (nn/wrap/loss_scale.py).
    """

    def __init__(self) -> None:
        super().__init__()
        self.clear = NPUClearFloatStatusV2()

    def construct(self, inputs: Tensor) -> Tensor:
        status = ops.depend(Tensor([0] * 8, ms.int32), inputs)
        return ops.depend(inputs, self.clear(status))
