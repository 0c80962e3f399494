"""Random changes of colour and shape, with MindSpore's C++ operators on uint8 H x W x 3 images.

AutoAugment is MindSpore's own. Its RandAugment and TrivialAugmentWide (2.10) pass a number of pixels to an operator
that expects a fraction of the image, so that one image in eight becomes grey. So they are built here from operators.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

from mindspore.dataset import vision

FILL = (115, 115, 115)  # colour of new pixels at the edges: a grey that normalises to about 0
LEVELS = 31  # of strength, from none to the strongest
RANDAUGMENT_LEVEL = 9

Operator = Callable


@dataclass(frozen=True)
class Widest:
    """The strength of each kind of change at the highest level."""

    shear: float  # tangent of the angle
    shift: float  # fraction of the image's side
    turn: float  # degrees
    factor: float  # brightness, saturation, contrast and sharpness change by 1 +- this
    bits: int  # of the 8 bits of a colour, how many posterising drops


RANDAUGMENT = Widest(shear=0.3, shift=150 / 331, turn=30, factor=0.9, bits=4)
TRIVIALAUGMENT = Widest(shear=0.99, shift=32 / 224, turn=135, factor=0.99, bits=6)


def auto_augment(name: str) -> Operator:
    """The operator for `autoaugment`, `randaugment` or `trivialaugment`.

    AutoAugment: one of 25 learnt pairs of changes, Cubuk et al., https://arxiv.org/abs/1805.09501.
    RandAugment: two of 14 kinds of change, one after the other, at level 9 of 0 to 30, Cubuk et al.,
    https://arxiv.org/abs/1909.13719, with torchvision's ranges.
    TrivialAugment: one of these kinds at any level, of the "wide" ranges, Müller and Hutter, table 1,
    https://arxiv.org/abs/2103.10158; shifts, there up to 32 pixels, are up to a seventh of the side.
    """
    if name == "autoaugment":
        return vision.AutoAugment(interpolation=vision.Inter.BILINEAR, fill_value=FILL)
    if name == "randaugment":
        changes = _changes(RANDAUGMENT, RANDAUGMENT_LEVEL)
        # All pairs in one operator: two operators in a row start from the same seed and would draw the same.
        return vision.RandomSelectSubpolicy([[(first, 1.0), (second, 1.0)] for first in changes for second in changes])
    return vision.RandomSelectSubpolicy([[(change, 1.0)] for level in range(LEVELS)
                                         for change in _changes(TRIVIALAUGMENT, level)])


def _changes(widest: Widest, level: int) -> list[Operator]:
    """The 14 kinds of change at a level, each in both directions, or twice if it has only one direction."""
    strength = level / (LEVELS - 1)
    signed = [change for sign in (1, -1) for change in _directed(widest, sign * strength)]
    bits, brightest = 8 - round(widest.bits * strength), 255 * (1 - strength)
    one_way = [vision.AdjustBrightness(1.0), vision.Posterize(bits), vision.Solarize((brightest, 255.0)),
               vision.AutoContrast(), vision.Equalize()]
    return signed + 2 * one_way


def _directed(widest: Widest, strength: float) -> list[Operator]:
    """The kinds that have two directions, the strength being between -1 and 1."""
    angle, shift = math.degrees(math.atan(widest.shear * strength)), widest.shift * strength
    factor = 1 + widest.factor * strength
    return [_moved(shear=(angle, 0.0)), _moved(shear=(0.0, angle)), _moved(shift=(shift, 0.0)),
            _moved(shift=(0.0, shift)), _moved(turn=widest.turn * strength), vision.AdjustBrightness(factor),
            vision.AdjustSaturation(factor), vision.AdjustContrast(factor), vision.AdjustSharpness(factor)]


def _moved(turn: float = 0.0, shift: tuple[float, float] = (0.0, 0.0),
           shear: tuple[float, float] = (0.0, 0.0)) -> Operator:
    return vision.Affine(turn, shift, 1.0, shear, vision.Inter.BILINEAR, FILL)
