"""Work on many files that the processes of a run share: each takes the portions that no other one is at.

What a process found about a portion is in a file, which is locked meanwhile. So no rank waits in a collective while
another one decodes. The kernel frees the locks of a process that ends. After `PATIENCE` seconds without news a process
does the work of another one itself.
"""
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.files import lock
from src.json_records import are_texts

PORTION = 512  # files that a process takes at a time
POLL = 0.2  # seconds between looks at what other processes do
PATIENCE = 600  # seconds without news after which a process does the work of another one itself

Portion = np.ndarray  # positions of files
Texts = list[list[str]]  # what was found, some texts for each file


class SharedWork:
    """The files to work on, in portions. Processes that have the same files have the same portions.

    Args:
        folder: where all processes have a file for each portion.
        keys: uint64 of all files. A file that changes has another one.
        positions: of the files to work on.
        texts: how many there are for each file.
        purpose: what else the results depend on.
    """

    def __init__(self, folder: Path, keys: np.ndarray, positions: Portion, texts: int, purpose: str = "") -> None:
        self._folder, self._keys, self._texts, self._purpose = folder, keys, texts, purpose
        self.portions = np.split(positions, range(PORTION, len(positions), PORTION))

    def results(self, work: Callable[[Portion], Texts],
                remembered: Callable[[Portion], Texts | None]) -> Iterator[tuple[Portion, Texts]]:
        """Each portion with its results, as soon as they are known.

        Args:
            work: gives the results of a portion.
            remembered: gives them if another process has remembered them since, else None.

        Raises:
            UserError: a file of a portion cannot be written.
        """
        missing = list(self.portions)
        last_news = time.monotonic()
        while missing:
            others = []
            for portion in missing:
                is_late = time.monotonic() > last_news + PATIENCE
                if (found := self._take(portion, work, remembered, is_late)) is None:
                    others.append(portion)
                    continue
                last_news = time.monotonic()
                yield portion, found
            if missing := others:
                time.sleep(POLL)

    def clear(self) -> None:
        """Remove the files of all portions. To be called when the results are remembered."""
        for portion in self.portions:
            self.path(portion).unlink(missing_ok=True)

    def path(self, portion: Portion) -> Path:
        """The file for the results of a portion of files as they are now."""
        content = self._keys[portion].tobytes() + self._purpose.encode()
        return self._folder / hashlib.sha256(content).hexdigest()[:32]

    def _take(self, portion: Portion, work: Callable[[Portion], Texts],
              remembered: Callable[[Portion], Texts | None], is_late: bool) -> Texts | None:
        """The results of a portion, of another process or of this one; None if another process is at it."""
        path = self.path(portion)
        try:
            with path.open("a+b") as file:
                try:
                    is_free = lock(file.fileno())
                except OSError:  # a file system without locks: each process does everything
                    is_free = True
                if not is_free and not is_late:
                    return None
                file.seek(0)
                if (written := self._parse(file.read(), len(portion))) is not None:
                    return written
                # Another process may have remembered the portion and removed its file since.
                if (known := remembered(portion)) is not None:
                    return known
                found = work(portion)
                file.truncate(0)
                file.write(json.dumps(found).encode())
                return found
        except OSError as error:
            raise UserError(f"{path}: cannot write this file: {error.strerror}") from error

    def _parse(self, content: bytes, count: int) -> Texts | None:
        """The results in the file of a portion; None if it is not whole."""
        try:
            entries = json.loads(content)
        except ValueError:
            return None
        is_whole = isinstance(entries, list) and len(entries) == count \
            and all(are_texts(entry, self._texts) for entry in entries)
        return entries if is_whole else None
