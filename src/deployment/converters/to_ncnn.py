"""Writes ncnn's files from an ONNX file, OUTPUT and one of ending .bin: to_ncnn.py ONNX OUTPUT IMAGES SCORES NAME."""
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import ncnn
import numpy as np

INPUT = "images"


def main(source: str, output: str, images: str, scores: str, name: str) -> None:
    """Convert with weights in float32, and run the result on images, one by one."""
    param, weights = Path(output), Path(output).with_suffix(".bin")
    words = [pnnx_program(), source, "fp16=0", f"ncnnparam={param}", f"ncnnbin={weights}"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the package's own program
    # pnnx calls the input in0 and the output out0.
    names = {"in0": INPUT, "out0": name}
    lines = [" ".join(names.get(word, word) for word in line.split(" ")) for line in param.read_text().splitlines()]
    param.write_text("\n".join(lines) + "\n")

    net = ncnn.Net()
    # By default ncnn computes in float16 where the processor can.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise ValueError("ncnn cannot read what pnnx wrote")
    np.save(scores, np.stack([run(net, image, name) for image in np.load(images)]))


def run(net: ncnn.Net, image: np.ndarray, name: str) -> np.ndarray:
    """3 x H x W to C."""
    extractor = net.create_extractor()
    extractor.input(INPUT, ncnn.Mat(image))
    status, output = extractor.extract(name)
    if status:
        raise ValueError(f"ncnn cannot run what pnnx wrote: status {status}")
    return np.array(output)


def pnnx_program() -> str:
    """The program in the package, whose Python part needs PyTorch."""
    package = find_spec("pnnx")
    if package is None or package.origin is None:
        raise ImportError("pnnx is not installed")
    return str(Path(package.origin).with_name("pnnx"))


if __name__ == "__main__":
    main(*sys.argv[1:])
