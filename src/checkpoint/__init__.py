"""Checkpoints as files: what is in them, what they are called, which are kept."""
