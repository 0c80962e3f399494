"""Pickles that were made elsewhere. A pickle can name any function of any module to be called when it is read, so the
readers here know the few names that the data needs and refuse the file at the first other one.
"""
import pickle  # noqa: S403 - restricted below
from collections.abc import Mapping
from typing import Any, BinaryIO


class RefusedError(Exception):
    """The pickle asks for something that its data has no need of."""


class RestrictedUnpickler(pickle._Unpickler):
    """Reads numbers, texts, lists, dictionaries, and what it is told to know.

    It is Python's reader written in Python: the one in C takes memory for as many objects as a damaged byte says.

    Args:
        file: opened for reading bytes.
        allowed: what a (module, name) of the pickle stands for.
        encoding: of texts that Python 2 wrote; "bytes" leaves them as they are.
    """

    def __init__(self, file: BinaryIO, allowed: Mapping[tuple[str, str], Any], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - what the pickle builds
        """What a name of the pickle stands for."""
        if (module, name) not in self._allowed:
            raise RefusedError(f"asks for {module}.{name}, which its data has no need of, and is not opened")
        return self._allowed[module, name]
