"""OpenVINO's speed on the file that export.py wrote, in its latency or throughput mode; run by compare_frameworks.py.

The throughput mode works on several batches at a time, so a step is as many as it asks for.
"""
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.errors import run_command
from tools.peers.work import Work, work_options

INSTRUCTION_SETS = {"avx512": "AVX-512", "avx2": "AVX2", "sse41": "SSE4.1"}  # in the names of its operators


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = work_options(__doc__)
    parser.add_argument("--throughput", action="store_true", help="the throughput mode instead of latency")
    options = parser.parse_args(argv)
    work = Work.of(options)
    core = openvino.Core()
    model = core.read_model(work.onnx)
    model.reshape(list(work.images.shape))
    compiled = core.compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "THROUGHPUT" if options.throughput else "LATENCY",
        "INFERENCE_NUM_THREADS": work.threads,
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
    })
    requests = openvino.AsyncInferQueue(compiled, 0 if options.throughput else 1)
    for request in requests:
        request.set_input_tensor(openvino.Tensor(work.images))
    first = requests[0]

    def run() -> np.ndarray:
        if work.mode == "latency":
            first.set_input_tensor(openvino.Tensor(work.images))
        if not options.throughput:
            first.infer()
        else:
            for _ in range(len(requests)):
                requests.start_async()
            requests.wait_all()
        return np.array(first.get_output_tensor().data)
    difference = work.compare_logits(run())
    details = _instruction_sets(compiled) + (f"; {len(requests)} batches at a time" if options.throughput else "")
    work.report(run, ("openvino", "numpy"), details, difference, batches=len(requests))


def _instruction_sets(compiled: openvino.CompiledModel) -> str:
    """How many of its operators are made for which instruction set, as far as they tell."""
    operators = compiled.get_runtime_model().get_ops()
    names = [operator.get_rt_info()["primitiveType"].astype(str) for operator in operators]
    counts = Counter(next((told for word, told in INSTRUCTION_SETS.items() if word in name), "") for name in names)
    return f"operators: {', '.join(f'{counts[told]} {told}' for told in INSTRUCTION_SETS.values() if told in counts)}"


if __name__ == "__main__":
    run_command(main)
