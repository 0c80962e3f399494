"""ONNX Runtime's speed on the file that export.py wrote; run by tools/compare_frameworks.py."""
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.errors import run_command
from tools.peers.work import Work, work_options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for: ONNX Runtime computes on numpy arrays, so both kinds are one."""
    work = Work.of(work_options(__doc__).parse_args(argv))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads
    session = onnxruntime.InferenceSession(str(work.onnx), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: work.images}

    def run() -> np.ndarray:
        return session.run(None, inputs)[0]
    work.report(run, ("onnxruntime", "numpy"), difference=work.compare_logits(run()))


if __name__ == "__main__":
    run_command(main)
