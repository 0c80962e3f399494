"""Reads pickles from untrusted files.

A pickle can call any function of any module while it is read. So the readers here allow only the few names that the
data needs, and refuse the file at any other name.
"""
import pickle  # noqa: S403 - restricted below
from collections.abc import Mapping
from typing import Any, BinaryIO


class RefusedError(Exception):
    """The pickle asks for a name that is not allowed."""


class RestrictedUnpickler(pickle._Unpickler):
    """Reads numbers, texts, lists, dictionaries and the allowed names.

    It is based on the unpickler in Python. The one in C allocates as much memory as a damaged byte asks for.

    Args:
        file: opened for reading bytes.
        allowed: maps a (module, name) of the pickle to the object to use.
        encoding: of texts that Python 2 wrote; "bytes" leaves them as they are.
    """

    def __init__(self, file: BinaryIO, allowed: Mapping[tuple[str, str], Any], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - what the pickle builds
        """The object for a name in the pickle."""
        if (module, name) not in self._allowed:
            raise RefusedError(f"asks for {module}.{name}, which its data has no need of, and is not opened")
        return self._allowed[module, name]
