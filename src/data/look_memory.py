"""The looks of images, remembered between runs and shared by the processes that compute them at the same time."""
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from src.cache_folder import cache_folder
from src.data.image_folder import ImageFolder
from src.data.shared_work import Portion, SharedWork, Texts
from src.files import atomic_write, file_version
from src.json_records import read_text_lists


class LookMemory:
    """What is known about the looks of a folder's files, by their names, sizes and times.

    A memory that cannot be read counts as empty, so that all looks are computed again.

    Args:
        folder: with the files that are asked about.
        digits: of a look, which is a text of hexadecimal digits, or empty.
    """

    def __init__(self, folder: ImageFolder, digits: int) -> None:
        self._folder, self._digits = folder, digits
        name = hashlib.sha256(os.fsencode(folder.root)).hexdigest()[:32]
        self._path, self._shared = cache_folder("looks") / f"{name}.json", cache_folder(f"looks/{name}.parts")
        self._entries: dict[str, list[str]] = {}  # stamp and look of each file
        self._version: tuple[int, int] | None = None  # of the file, when it was read last
        self._read()

    def look_up(self) -> list[str | None]:
        """The look of each file; None where it is not known."""
        return [self._remembered(position) for position in range(len(self._folder))]

    def find(self, unknown: Portion, look: Callable[[Sequence[Path]], Iterable[str]]) -> Iterator[int]:
        """Compute looks together with the other processes that do so now, and remember them.

        Yields how many have just become known.

        Args:
            unknown: the positions of the files.
            look: gives the looks of the files at some paths.

        Raises:
            UserError: a file of the cache cannot be written.
        """
        def texts(portion: Portion) -> Texts:
            return [[found] for found in look([self._folder.root / self._folder.files[position]
                                               for position in portion.tolist()])]

        shared = self.share(unknown)
        found: dict[int, str] = {}
        for portion, looks in shared.results(texts, self._recall):
            found |= {position: entry[0] for position, entry in zip(portion.tolist(), looks, strict=True)}
            yield len(portion)
        self._remember(found)
        shared.clear()

    def share(self, unknown: Portion) -> SharedWork:
        """The files in portions, which all processes that look at the folder have in common."""
        return SharedWork(self._shared, self._folder.keys(), unknown, texts=1)

    def _recall(self, portion: Portion) -> Texts | None:
        """The looks of a portion, if another process has remembered all of them since."""
        self._read()
        looks = [[look] for position in portion.tolist() if (look := self._remembered(position)) is not None]
        return looks if len(looks) == len(portion) else None

    def _remembered(self, position: int) -> str | None:
        """The look of a file, if it is of the present one."""
        entry = self._entries.get(self._folder.files[position])
        return entry[1] if entry and entry[0] == self._folder.stamp(position) else None

    def _remember(self, looks: Mapping[int, str]) -> None:
        self._read()
        self._entries |= {self._folder.files[position]: [self._folder.stamp(position), look]
                          for position, look in looks.items()}
        with atomic_write(self._path) as temporary:
            temporary.write_text(json.dumps(self._entries), encoding="utf-8")

    def _read(self) -> None:
        """Read the file, unless it is the one that was read last."""
        version = file_version(self._path)
        if version != self._version:
            entries = read_text_lists(self._path, 2)
            is_whole = all(len(look) in {0, self._digits} for _, look in entries.values())
            self._entries, self._version = entries if is_whole else {}, version
