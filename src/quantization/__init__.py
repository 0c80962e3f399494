"""Eight-bit networks: their arithmetic, their calibration on images, and their ONNX files."""
