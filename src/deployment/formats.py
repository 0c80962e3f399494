"""The formats of exported networks: their endings, and the names of the input and the output."""

ENDINGS = {"MINDIR": ".mindir", "ONNX": ".onnx", "AIR": ".air"}
INPUT = "images"
PRODUCER = "mobilenetv2-mindspore"  # who wrote an ONNX file


def output_name(softmax: bool) -> str:
    """The name of the output, which says what it is."""
    return "probabilities" if softmax else "logits"
