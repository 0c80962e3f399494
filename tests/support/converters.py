"""Skips tests that need a converter in an environment of its own."""
import pytest

from src.deployment.conversion import CONVERTERS


def needs_converter(file_format: str) -> None:
    """Skip the test if the converter of a format is not installed."""
    if not CONVERTERS[file_format].python().exists():
        pytest.skip(f"needs python tools/install_converter.py {file_format}")
