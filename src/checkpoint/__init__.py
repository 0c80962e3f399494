"""Checkpoint files: their content, their names, and which are kept."""
