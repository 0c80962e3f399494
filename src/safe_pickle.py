"""Reads pickles from untrusted files.

A pickle can call any function of any module while it is read. So the readers here allow only the few names that the
data needs. At any other name one of them refuses the file, the other one goes on with an object that does nothing.
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


class PassedOver:
    """Stands for an object of a class that is not allowed. It takes whatever the pickle gives it, and keeps nothing."""

    name = ""  # module and name of the class

    def __new__(cls, *_args: object, **_kwargs: object) -> "PassedOver":
        """An instance, from any arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __call__(self, *_args: object, **_kwargs: object) -> "PassedOver":
        return self

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _item: object) -> None:
        """What a list has."""

    extend = add = update = append


class TolerantUnpickler(RestrictedUnpickler):
    """Reads the allowed names; an object of any other one becomes a `PassedOver`."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - what the pickle builds
        """The object for a name in the pickle, or a class of `PassedOver`."""
        if (module, name) in self._allowed:
            return super().find_class(module, name)
        return type("PassedOver", (PassedOver,), {"name": f"{module}.{name}"})
