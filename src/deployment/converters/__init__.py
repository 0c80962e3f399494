"""Scripts that write other formats from an ONNX file. src/deployment/conversion.py runs each in its own environment."""
