"""What surrounds the model: configuration, devices, platforms."""
