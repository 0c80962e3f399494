"""Finds images that look alike: one scene taken twice, or one photo in several files.

Each image has a look of 56 bytes: a perceptual hash of 64 bits (the difference hash: of 9 x 8 grey values, whether each
is brighter than the one before it, https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html)
and 4 x 4 mean colours. Two images are near duplicates if at most `DISTANCE` bits of the hash differ and the colours
differ by at most `COLOUR_DISTANCE` on average.

Among 1,136 photos of fruit all pairs with up to 13 different bits were of one scene; by chance, images begin to look
alike at 14.
"""
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from src.data.image_folder import ImageFolder
from src.data.images import open_image, to_rgb
from src.data.look_memory import LookMemory
from src.errors import UserError

DISTANCE = 8  # of 64 bits
OFF, FARTHEST = -1, 16  # distances: no image is like another one; beyond it most pairs are chance
COLOUR_DISTANCE = 24  # of 255
HASH_BYTES, COLOURS = 8, 4  # the colours are COLOURS x COLOURS x RGB
LOOK_BYTES = HASH_BYTES + 3 * COLOURS ** 2
LEAST_CONTRAST = 8  # grey values of 255: below that the hash is chance
SMALL_SIDE = 32  # pixels; the look is computed from an image of this size

Pairs = tuple[np.ndarray, np.ndarray]  # positions of images that look like those at the same place of the other array


def check_distance(distance: int) -> None:
    """Raise UserError for an option --scene_distance that is out of range."""
    if not OFF <= distance <= FARTHEST:
        raise UserError(f"--scene_distance must be {OFF} to {FARTHEST}, not {distance}")


def read_looks(folder: ImageFolder) -> np.ndarray:
    """The look of each image of a folder: N x 56 uint8, zeros where an image has none.

    An image has no look if it cannot be read, or is of one colour. Looks are remembered with each file's size and time.
    Processes that read the looks of one folder at the same time share the work, and wait in no collective.

    Raises:
        UserError: a file of the cache cannot be written.
    """
    memory = LookMemory(folder, 2 * LOOK_BYTES)
    unknown = np.array([position for position, look in enumerate(memory.look_up()) if look is None], np.int64)
    if len(unknown):
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, \
                tqdm(total=len(unknown), desc="comparing images", disable=None, leave=False) as bar:
            for count in memory.find(unknown, lambda paths: pool.map(_look, paths)):
                bar.update(count)
    looks = b"".join(bytes.fromhex(look or "") or bytes(LOOK_BYTES) for look in memory.look_up())
    return np.frombuffer(looks, np.uint8).reshape(-1, LOOK_BYTES)


def _look(path: Path) -> str:
    """The look of an image in hexadecimal digits; empty if it has none."""
    try:
        with open_image(path) as image:
            small = to_rgb(image, SMALL_SIDE)
    except Exception:  # decoders raise many types of error, and the image check tells them
        return ""
    grey = np.asarray(small.convert("L").resize((9, 8), Image.Resampling.BOX), np.int64)
    if np.ptp(grey) < LEAST_CONTRAST:
        return ""
    colours = small.resize((COLOURS, COLOURS), Image.Resampling.BOX)
    return (np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes() + colours.tobytes()).hex()


def near_pairs(looks: np.ndarray, distance: int = DISTANCE) -> Iterator[Pairs]:
    """Pairs of images that look alike, some of them several times, in pieces of at most N pairs.

    Two hashes that differ in at most `distance` bits agree in one of `distance + 1` parts of their bits. So only images
    that agree in a part are compared, which are neighbours when the images are sorted by it.

    Args:
        looks: N x 56, of `read_looks`.
        distance: bits, from 0 to `FARTHEST`.
    """
    known = np.flatnonzero(looks.any(axis=1))
    hashes, colours = _hashes(looks[known]), looks[known, HASH_BYTES:].astype(np.int16)
    edges = np.linspace(0, 8 * HASH_BYTES, distance + 2).round().astype(np.uint64)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        parts = hashes >> low & ~np.uint64(0) >> np.uint64(8 * HASH_BYTES) - (high - low)
        order = np.argsort(parts, kind="stable")
        parts, ordered = parts[order], hashes[order]
        first, end = np.arange(len(order)), np.searchsorted(parts, parts, "right")
        for step in itertools.count(1):
            is_within = first + step < end
            first, end = first[is_within], end[is_within]
            if not len(first):
                break
            near = first[_count_bits(ordered[first] ^ ordered[first + step]) <= distance]
            if not len(near):
                continue
            one, other = order[near], order[near + step]
            alike = np.abs(colours[one] - colours[other]).mean(axis=1) <= COLOUR_DISTANCE
            yield known[one[alike]], known[other[alike]]


def scenes(looks: np.ndarray, distance: int = DISTANCE) -> np.ndarray:
    """The scene of each image, N numbers: images that look alike, directly or by others between, have the same one."""
    found = np.arange(len(looks))
    for one, other in near_pairs(looks, distance):
        if (found[one] != found[other]).any():
            found = _connect(len(found), found[one], found[other])[found]
    return found


def join_all(groupings: Sequence[np.ndarray]) -> np.ndarray:
    """One number for each of N images. Images that have the same number in any of the groupings, N each, share it."""
    size = len(groupings[0])
    nodes, links, end = [], [], size
    for grouping in groupings:
        _, numbers = np.unique(grouping, return_inverse=True)
        nodes.append(numbers + end)
        links.append(np.arange(size))
        end += size
    return _connect(end, np.concatenate(nodes), np.concatenate(links))[:size]


def _connect(nodes: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The connected component of each node of a graph, whose links go from `one` to `other`."""
    from scipy.sparse import coo_array  # imported here: it takes a while
    from scipy.sparse.csgraph import connected_components
    return connected_components(coo_array((np.ones(len(one), bool), (one, other)), shape=(nodes, nodes)),
                                directed=False)[1]


def closest_pairs(looks: np.ndarray, others: np.ndarray, distance: int = DISTANCE) -> list[tuple[int, int, int]]:
    """For each image that looks like one of the others: its position, that of the closest one, and the distance.

    Args:
        looks: N x 56.
        others: M x 56.
        distance: bits, from 0 to `FARTHEST`.

    Returns:
        Up to N triples, the closest ones first.
    """
    both, size = np.concatenate([looks, others]), len(looks)
    hashes = _hashes(both)
    best = np.full(size, (distance + 1) * len(both), np.int64)  # distance * (N + M) + position of the other image
    for one, other in near_pairs(both, distance):
        mine, its = np.minimum(one, other), np.maximum(one, other)
        across = (mine < size) & (its >= size)
        mine, its = mine[across], its[across]
        np.minimum.at(best, mine, _count_bits(hashes[mine] ^ hashes[its]).astype(np.int64) * len(both) + its)
    found = np.flatnonzero(best < (distance + 1) * len(both))
    found = found[np.argsort(best[found] // len(both), kind="stable")]
    return [(int(position), int(best[position] % len(both)) - size, int(best[position] // len(both)))
            for position in found]


@functools.cache
def _bit_counts() -> np.ndarray:
    """The number of bits in each value of 16 bits."""
    return np.unpackbits(np.arange(2 ** 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
        axis=1, dtype=np.uint8)


def _count_bits(values: np.ndarray) -> np.ndarray:
    """The number of bits that are set in each of N uint64, uint8."""
    counts = _bit_counts()[values.view(np.uint16).reshape(-1, 4)]
    return counts[:, 0] + counts[:, 1] + counts[:, 2] + counts[:, 3]  # far faster than a sum over so short an axis


def _hashes(looks: np.ndarray) -> np.ndarray:
    """The hash of each look, N uint64."""
    return np.ascontiguousarray(looks[:, :HASH_BYTES]).view(np.uint64).ravel()
