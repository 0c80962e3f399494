"""What the check of images found, remembered between runs and shared by the processes that check at the same time.

Processes share work through files in the cache folder: each takes the portions that no other one is at, so that no rank
waits in a collective while another one decodes.
"""
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.cache_folder import cache_folder
from src.data.image_cache import is_copy_for
from src.data.image_folder import ImageFolder
from src.errors import UserError
from src.files import atomic_write, lock
from src.json_records import are_texts, read_text_lists

PORTION = 512  # files that a process takes at a time
POLL = 0.2  # seconds between looks at what other processes do
PATIENCE = 600  # seconds without news after which a process does the work of another one itself


@dataclass(frozen=True)
class Finding:
    """What the check found about an image."""

    fault: str = ""  # why it cannot be used; empty if it can
    reason: str = ""  # why MindSpore reads a copy of it; empty if it reads the image itself
    copy: str = ""  # the path of that copy


Portion = np.ndarray  # positions in a folder


class CheckMemory:
    """What is known about the files of a folder, by their names, sizes and times.

    Of files that are good as they are a sorted array has 8 bytes each, hashes of `ImageFolder.keys`. A JSON file has
    the others. A file that cannot be read counts as empty, so that all images are checked again.

    Args:
        folder: with the files that are asked about.
        shorter_side: pixels, of `longest_shorter_side`; a copy for another one does not count.
    """

    def __init__(self, folder: ImageFolder, shorter_side: int) -> None:
        self._folder, self._keys, self._shorter_side = folder, folder.keys(), shorter_side
        name = hashlib.sha256(os.fsencode(folder.root)).hexdigest()[:32]
        self._good_path, self._others_path = (cache_folder("pictures") / f"{name}{ending}" for ending in
                                              (".npy", ".json"))
        self._shared = cache_folder(f"pictures/{name}.parts")
        self._good, self._others = np.empty(0, np.uint64), dict[str, list[str]]()
        self._versions: tuple[tuple[int, int] | None, ...] = (None, None)  # of the two files, when they were read last

    def look_up(self) -> tuple[dict[str, Finding], Portion]:
        """What is known: the findings that say something, by names, and the positions of files to check."""
        self._read()
        findings, unknown = {}, []
        for position in np.flatnonzero(~_are_in(self._keys, self._good)).tolist():
            finding = self._remembered(position)
            if finding is None:
                unknown.append(position)
            elif finding != Finding():
                findings[self._folder.files[position]] = finding
        return findings, np.array(unknown, np.int64)

    def check(self, unknown: Portion, check: Callable[[Portion], Sequence[Finding]]) -> Iterator[int]:
        """Check files together with the other processes that do so now, and remember the findings.

        Yields how many files have just become known.

        Args:
            unknown: their positions.
            check: gives the findings of some of them.

        Raises:
            UserError: a file of the cache cannot be written.
        """
        portions = np.split(unknown, range(PORTION, len(unknown), PORTION))
        found: dict[int, Sequence[Finding]] = {}
        last_news = time.monotonic()
        while len(found) < len(portions):
            for number, portion in enumerate(portions):
                is_late = time.monotonic() > last_news + PATIENCE
                if number not in found and (findings := self._take(portion, check, is_late)) is not None:
                    found[number], last_news = findings, time.monotonic()
                    yield len(portion)
            if len(found) < len(portions):
                time.sleep(POLL)
        self._remember({position: finding for number, portion in enumerate(portions)
                        for position, finding in zip(portion.tolist(), found[number], strict=True)})
        for portion in portions:
            self._path(portion).unlink(missing_ok=True)

    def _take(self, portion: Portion, check: Callable[[Portion], Sequence[Finding]],
              is_late: bool) -> Sequence[Finding] | None:
        """The findings of a portion, of another process or of this one; None if another process is at it."""
        path = self._path(portion)
        try:
            with path.open("a+b") as file:
                try:
                    is_free = lock(file.fileno())
                except OSError:  # a file system without locks: each process checks everything
                    is_free = True
                if not is_free and not is_late:
                    return None
                file.seek(0)
                if (written := _parse(file.read(), len(portion))) is not None:
                    return written
                # Another process may have remembered the portion and removed its file since.
                self._read()
                remembered = [Finding() if good else self._remembered(position) for position, good in
                              zip(portion.tolist(), _are_in(self._keys[portion], self._good).tolist(), strict=True)]
                known = [finding for finding in remembered if finding is not None]
                if len(known) == len(portion):
                    return known
                findings = check(portion)
                file.truncate(0)
                file.write(json.dumps([dataclasses.astuple(finding) for finding in findings]).encode())
                return findings
        except OSError as error:
            raise UserError(f"{path}: cannot write this file: {error.strerror}") from error

    def _path(self, portion: Portion) -> Path:
        """The file for the findings of a portion of files as they are now."""
        content = self._keys[portion].tobytes() + str(self._shorter_side).encode()
        return self._shared / hashlib.sha256(content).hexdigest()[:32]

    def _remembered(self, position: int) -> Finding | None:
        """The finding about a file that is not good as it is, if it is of the present file and its copy is there."""
        entry = self._others.get(self._folder.files[position])
        if entry is None or entry[0] != self._folder.stamp(position):
            return None
        finding = Finding(*entry[1:])
        return finding if not finding.copy or is_copy_for(Path(finding.copy), self._shorter_side) else None

    def _remember(self, findings: Mapping[int, Finding]) -> None:
        self._read()
        good = [position for position, finding in findings.items() if finding == Finding()]
        self._good = np.union1d(self._good, self._keys[good])
        self._others |= {self._folder.files[position]: [self._folder.stamp(position), *dataclasses.astuple(finding)]
                         for position, finding in findings.items() if finding != Finding()}
        with atomic_write(self._good_path) as temporary, temporary.open("wb") as file:
            np.save(file, self._good)
        with atomic_write(self._others_path) as temporary:
            temporary.write_text(json.dumps(self._others), encoding="utf-8")

    def _read(self) -> None:
        """Read both files, unless they are those that were read last."""
        versions = _version(self._good_path), _version(self._others_path)
        if versions != self._versions:
            self._good = _read_good(self._good_path)
            self._others = read_text_lists(self._others_path, 1 + len(dataclasses.fields(Finding)))
            self._versions = versions


def _version(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _read_good(path: Path) -> np.ndarray:
    try:
        good = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        good = np.empty(0, np.uint64)
    return good if good.dtype == np.uint64 and good.ndim == 1 else np.empty(0, np.uint64)


def _parse(content: bytes, count: int) -> list[Finding] | None:
    """The findings in the file of a portion; None if it is not whole."""
    try:
        entries = json.loads(content)
    except ValueError:
        return None
    whole = isinstance(entries, list) and len(entries) == count \
        and all(are_texts(entry, len(dataclasses.fields(Finding))) for entry in entries)
    return [Finding(*entry) for entry in entries] if whole else None


def _are_in(keys: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which keys are in a sorted array."""
    if not len(among):
        return np.zeros(len(keys), bool)
    return among[np.searchsorted(among, keys).clip(max=len(among) - 1)] == keys
