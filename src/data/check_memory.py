"""What the check of images found, remembered between runs and shared by the processes that check at the same time."""
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.cache_folder import cache_folder
from src.data.image_cache import is_copy_for
from src.data.image_folder import ImageFolder
from src.data.shared_work import Portion, SharedWork, Texts
from src.files import atomic_write, file_version
from src.json_records import read_text_lists


@dataclass(frozen=True)
class Finding:
    """What the check found about an image."""

    fault: str = ""  # why it cannot be used; empty if it can
    reason: str = ""  # why MindSpore reads a copy of it; empty if it reads the image itself
    copy: str = ""  # the path of that copy


FINDING_TEXTS = len(dataclasses.fields(Finding))


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
        shared = self.share(unknown)
        found: dict[int, Finding] = {}
        for portion, texts in shared.results(lambda portion: _to_texts(check(portion)), self._recall):
            found |= {position: Finding(*entry) for position, entry in zip(portion.tolist(), texts, strict=True)}
            yield len(portion)
        self._remember(found)
        shared.clear()

    def share(self, unknown: Portion) -> SharedWork:
        """The check of files in portions, which all processes that check the folder have in common."""
        return SharedWork(self._shared, self._keys, unknown, FINDING_TEXTS, str(self._shorter_side))

    def _recall(self, portion: Portion) -> Texts | None:
        """The findings about a portion, if another process has remembered all of them since."""
        self._read()
        findings = [Finding() if good else self._remembered(position) for position, good in
                    zip(portion.tolist(), _are_in(self._keys[portion], self._good).tolist(), strict=True)]
        known = [finding for finding in findings if finding is not None]
        return _to_texts(known) if len(known) == len(portion) else None

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
        versions = file_version(self._good_path), file_version(self._others_path)
        if versions != self._versions:
            self._good = _read_good(self._good_path)
            self._others = read_text_lists(self._others_path, 1 + FINDING_TEXTS)
            self._versions = versions


def _read_good(path: Path) -> np.ndarray:
    try:
        good = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        good = np.empty(0, np.uint64)
    return good if good.dtype == np.uint64 and good.ndim == 1 else np.empty(0, np.uint64)


def _to_texts(findings: Sequence[Finding]) -> Texts:
    return [list(dataclasses.astuple(finding)) for finding in findings]


def _are_in(keys: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which keys are in a sorted array."""
    if not len(among):
        return np.zeros(len(keys), bool)
    return among[np.searchsorted(among, keys).clip(max=len(among) - 1)] == keys
