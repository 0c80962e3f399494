"""PyTorch's speed in the layout channels_last, eager or compiled; run by tools/compare_frameworks.py."""
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.errors import run_command
from tools.peers.torch_network import MobileNetV2
from tools.peers.work import Work, work_options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = work_options(__doc__)
    parser.add_argument("--compile", action="store_true", help="torch.compile instead of eager mode")
    options = parser.parse_args(argv)
    work = Work.of(options)
    torch.set_num_threads(work.threads)
    network = MobileNetV2(work.settings["classes"])
    network.load(work.parameters)
    network.to(memory_format=torch.channels_last)
    compute = torch.compile(network) if options.compile else network
    # In memory as the layout wants it, so that nothing is to be copied.
    array = np.ascontiguousarray(work.images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    images = torch.from_numpy(array)
    run: Callable[[], object]

    if work.mode == "train":
        labels = torch.from_numpy(work.labels).long()
        loss_fn = nn.CrossEntropyLoss(label_smoothing=work.settings["label_smooth"])
        optimizer = torch.optim.SGD(network.parameters(), work.settings["learning_rate"], work.settings["momentum"],
                                    weight_decay=work.settings["weight_decay"])

        def step() -> float:
            optimizer.zero_grad()
            loss = loss_fn(compute(images), labels)
            loss.backward()
            optimizer.step()
            return loss.item()
        run, difference = step, work.compare_losses([step(), step()])
    else:
        network.eval()

        @torch.inference_mode()
        def evaluate() -> np.ndarray:
            return compute(images if work.mode == "eval" else torch.from_numpy(array)).numpy()
        run, difference = evaluate, work.compare_logits(evaluate())
    work.report(run, ("torch", "numpy"), f"ATen {torch.backends.cpu.get_cpu_capability()}", difference)


if __name__ == "__main__":
    run_command(main)
