"""The order of the classes: it decides which output of a network is which class."""
import os
from collections.abc import Iterable


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes, each at the position that is its index: sorted by their bytes, as MindSpore sorts folders."""
    return tuple(sorted(names, key=os.fsencode))
