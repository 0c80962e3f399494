"""Finds files with the same content. An image in both training and validation data makes the accuracy look too good."""
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from src.files import file_digest


def find_duplicates(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of files with the same bytes, in the given order. Only files whose size occurs twice are read."""
    by_size = _grouped((path.stat().st_size, path) for path in paths)
    alike = [path for group in by_size for path in group]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        digests = tqdm(pool.map(file_digest, alike), total=len(alike), desc="comparing files", disable=None,
                       leave=False)
        return _grouped(zip(digests, alike, strict=True))


def _grouped(pairs: Iterable[tuple[object, Path]]) -> list[list[Path]]:
    """Groups of paths with the same key, of at least two paths."""
    groups: dict[object, list[Path]] = defaultdict(list)
    for key, path in pairs:
        groups[key].append(path)
    return [group for group in groups.values() if len(group) > 1]
