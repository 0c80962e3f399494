"""MobileNetV2 training, evaluation and export under MindSpore."""
