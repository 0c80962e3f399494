r"""Names of files and classes as text, escaped in one way wherever this project writes them.

A file name is bytes. Most names are UTF-8. Python keeps other bytes as lone surrogates, which text files, terminals and
other readers of JSON refuse. The escapes, which `unescape_name` reads back:

- `\xe9` is the byte E9 of a character that is not UTF-8, or of a control character, as `\x0a` is of a line break.
- `\x5c` is a backslash that comes before letters that look like an escape. So no two names have the same text.

All other characters stay as they are.
"""
import codecs
import os
import re
import sys
import unicodedata

ESCAPED = "escaped"  # for `errors=` of open() and the like: characters that the encoding lacks are escaped as above

_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_AMBIGUOUS = re.compile(r"\\(?=x[0-9a-f]{2})")
_CONTROL = "\0-\x1f\x7f-\x9f\u2028\u2029"  # the last two break lines, too
_UNPRINTABLE = re.compile(f"[{_CONTROL}\ud800-\udfff]")


def escape_name(name: str | os.PathLike[str]) -> str:
    """A file's, folder's or class's name as one line of text that any encoding of Unicode takes."""
    text = _bytes(os.fspath(name)).decode("utf-8", "surrogateescape")
    return escape_line(_AMBIGUOUS.sub(r"\\x5c", text))


def unescape_name(text: str) -> str:
    """The name that `escape_name` made a text of."""
    return os.fsdecode(_ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), _bytes(text)))


def composed(name: str) -> str:
    """A class's name in Unicode's form NFC. Some file systems store names in NFD, where an accent is a character."""
    return unicodedata.normalize("NFC", name)


def escape_line(text: str) -> str:
    """A sentence with names in it as one line. Backslashes stay as they are, so this is for people to read."""
    return _UNPRINTABLE.sub(lambda character: _hexadecimal(character[0]), text)


def _bytes(name: str, encoding: str = "") -> bytes:
    """In the encoding of the file system, unless another one is named."""
    try:
        return name.encode(encoding or sys.getfilesystemencoding(), "surrogateescape")
    except UnicodeEncodeError:  # not a file's: JSON can have any surrogate, and the locale may know ASCII alone
        return name.encode("utf-8", "surrogatepass")


def _hexadecimal(characters: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in _bytes(characters, "utf-8"))


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _hexadecimal(error.object[error.start:error.end]), error.end


codecs.register_error(ESCAPED, _escape_unencodable)
