"""Fetches a file from the network: resumed where it broke off, checked by its digest, there whole or not at all."""
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tqdm import tqdm

from src.errors import UserError, first_line
from src.files import file_digest
from src.turns import one_at_a_time

TRIES = 5
PAUSE = 1.0  # seconds before the second try; twice as long before each further one
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 2 ** 16  # bytes
LARGEST = 2 ** 30  # bytes: a server may send without an end
PARTIAL = ".part"  # ending of an unfinished file
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}  # states of a server that may pass
RANGE_IS_WRONG = 416


class _BrokenOffError(Exception):
    """The connection ended before the file did."""


def fetch(url: str, path: Path, sha256: str) -> None:
    """Fetch `url` to `path`, with a progress bar. Nothing is done if the file is there already.

    Of several processes one fetches, and the others wait for it. What is there of an unfinished file is kept, as
    `path` with the ending `.part`, and the next call goes on from it.

    Args:
        url: http or https.
        path: where to put it; its folder exists.
        sha256: the hexadecimal SHA-256 of the file, or its first digits.

    Raises:
        UserError: the file cannot be fetched, or is another one. The text names the URL and the place for the file.
            Or another process that fetches it made no progress for too long.
    """
    if path.is_file():
        return
    partial = path.with_name(path.name + PARTIAL)
    try:
        with one_at_a_time(path.with_name(f".{path.name}.lock"), f"fetches {url}") as progress:
            if path.is_file():  # fetched meanwhile
                return
            with partial.open("ab") as file:
                resumed = file.tell() > 0
                _fetch_all(url, file, progress)
                if resumed and not file_digest(partial).startswith(sha256):  # the beginning was of another file
                    _empty(file)
                    _fetch_all(url, file, progress)
                found = file_digest(partial)
                if not found.startswith(sha256):
                    _empty(file)
                    raise UserError(f"{url}: sent another file than its publisher's: the SHA-256 begins with "
                                    f"{found[:len(sha256)]}, not {sha256}; {_by_hand(path)}")
                os.fsync(file.fileno())
                partial.replace(path)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}; {_by_hand(path)}") from error
    except _BrokenOffError as error:
        raise UserError(f"{url}: broke off {TRIES} times, {error}; the same command goes on from there, or "
                        f"{_by_hand(path)}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        text = first_line(reason) if isinstance(reason, BaseException) else str(reason)
        raise UserError(f"{url}: cannot be fetched, no network? ({text}); {_by_hand(path)}") from error
    except OSError as error:
        raise UserError(f"{partial}: cannot write this file: {error.strerror or error}") from error


def check_digest(path: Path, sha256: str) -> None:
    """Raise UserError if the SHA-256 of a file does not begin with these digits."""
    try:
        found = file_digest(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read this file: {error.strerror}") from error
    if not found.startswith(sha256):
        raise UserError(f"{path}: is not the published file: its SHA-256 begins with {found[:len(sha256)]}, not "
                        f"{sha256}; remove it, and it is fetched again")


def _by_hand(path: Path) -> str:
    return f"fetch the file in another way, and put it into {path.parent} as {path.name}"


def _fetch_all(url: str, file: IO[bytes], progress: Callable[[], None]) -> None:
    """Append what is missing of the file, over several connections if need be."""
    for attempt in range(1, TRIES + 1):
        try:
            _fetch_rest(url, file, progress)
            return
        except urllib.error.HTTPError as error:
            if error.code not in TEMPORARY or attempt == TRIES:
                raise
        except (_BrokenOffError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError):
            if attempt == TRIES:
                raise
        time.sleep(PAUSE * 2 ** (attempt - 1))


def _fetch_rest(url: str, file: IO[bytes], progress: Callable[[], None]) -> None:
    """Append what one connection gives from the present end of the file on.

    Raises:
        _BrokenOffError: it ended before the file did.
    """
    start = file.tell()
    headers = {"User-Agent": "mobilenetv2-mindspore", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - URLs are those of this project
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != RANGE_IS_WRONG:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":  # there is nothing after the last byte
            return
        _empty(file)  # longer than the file
        raise _BrokenOffError("at its beginning") from error
    with response:
        if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            _empty(file)  # the server begins anew
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, dynamic_ncols=True, disable=None,
                  desc=url.rpartition("/")[2]) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                progress()
                if file.tell() > LARGEST:
                    _empty(file)
                    raise UserError(f"{url}: sends more than {LARGEST} bytes, which is not the file")
        file.flush()
    if total is not None and file.tell() < total:
        raise _BrokenOffError(f"at last after {file.tell()} of {total} bytes")


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()
