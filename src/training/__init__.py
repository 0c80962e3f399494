"""The parts of a training run: the step, checkpoints, resuming, the log, stopping."""
