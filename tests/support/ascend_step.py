"""A program for tests: compiles the training step of `--recipe best` for Ascend on a CPU, of a network of few layers.

    MS_DEV_SAVE_GRAPHS=1 MS_DEV_SAVE_GRAPHS_PATH=FOLDER MS_DEV_DUMP_IR_PASSES=validate python ascend_step.py

It compiles twice: as it is for Ascend, and with Nesterov's rule as it is on CPU. MindSpore writes a text of each graph.
Prints the numbers of what the operators are for, as JSON.
"""
import json

import numpy as np
from mindspore import Tensor

import src.mobilenetV2
from src.mobilenetV2 import ConvBN
from src.model_utils.config import get_config
from src.models import define_ema, define_loss, define_net
from src.training.optimizer import build_optimizer
from src.training.step import TrainStep


def main() -> None:
    """Compile both steps."""
    src.mobilenetV2.INVERTED_RESIDUALS = ((1, 16, 1, 1),)
    config = get_config(["--platform", "Ascend", "--recipe", "best", "--width_mult", "0.35"])
    for looks_ahead_itself in (False, True):
        network = define_net(config, 3)
        optimizer = build_optimizer(network, np.full(5, 0.1, np.float32), config)
        optimizer.looks_ahead_itself |= looks_ahead_itself
        step = TrainStep(network, define_loss(config, np.zeros(3, np.int64), 3), optimizer, config,
                         define_ema(config, network))
        step.clear_overflow = None  # there is no such register on a CPU
        step.set_train()
        step.compile(Tensor(np.zeros((2, 3, 32, 32), np.uint8)), Tensor(np.zeros(2, np.int32)))
    trained = network.trainable_params()
    print(json.dumps({"gradients": len(trained), "decayed": sum(parameter.ndim > 1 for parameter in trained),
                      "averaged": len(list(network.get_parameters())),
                      "convolutions": sum(isinstance(cell, ConvBN) for _, cell in network.cells_and_names())}))


if __name__ == "__main__":
    main()
