"""Networks run as compiled graphs, in either of MindSpore's modes."""
from collections.abc import Callable
from typing import Any

import mindspore as ms
from mindspore import nn


def compiled(network: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a network as one compiled graph; that of an exported file as it is.

    In graph mode MindSpore compiles a cell when it is called. In PyNative mode, which `device_prefetch` needs, a call
    would run operator by operator, so `ms.jit` compiles the same graph. A graph is compiled once for each cell, mode
    of the cell and shape of its inputs, however often this is called.
    """
    if ms.get_context("mode") == ms.GRAPH_MODE or not isinstance(network, nn.Cell):
        return network
    return ms.jit(network, jit_level=ms.get_context("jit_level") or "O0")
