"""This project's speed, as tools/benchmark.py measures it; run by tools/compare_frameworks.py."""
import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mindspore import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.checkpoint.file import read_checkpoint
from src.distributed.device import setup_device
from src.errors import run_command
from src.model_utils.config import get_config
from src.models import define_net
from src.utils import load_weights
from tools.benchmark import training
from tools.peers.prepare import CHECKPOINT
from tools.peers.work import Work, work_options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    work = Work.of(work_options(__doc__).parse_args(argv))
    checkpoint = read_checkpoint(work.folder / CHECKPOINT)
    config = get_config(["--platform", "CPU", "--dropout", "0"])
    setup_device(config)
    with contextlib.redirect_stdout(io.StringIO()) as said:  # what kernels it runs on
        network = define_net(config, work.settings["classes"])
    load_weights(network, checkpoint)
    images = Tensor(work.images)
    run: Callable[[], object]

    if work.mode == "train":
        run, difference = training(network, config, images, Tensor(work.labels)), None
    else:
        network.set_train(False)

        def evaluate() -> np.ndarray:
            return network(images if work.mode == "eval" else Tensor(work.images)).asnumpy()
        run, difference = evaluate, work.compare_logits(evaluate())
    work.report(run, ("mindspore", "numpy"), said.getvalue().strip(), difference)


if __name__ == "__main__":
    run_command(main)
