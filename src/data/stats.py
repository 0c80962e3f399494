"""Statistics of an image folder, from the headers of its files: sizes, formats, colours and faults."""
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from src.data.duplicates import find_duplicates
from src.data.image_cache import LEAST_SHORTER_SIDE, copies_folder
from src.data.image_check import check_file, check_files, describe_left_out
from src.data.image_folder import ImageFolder
from src.data.images import open_image, orientation
from src.data.lists import TRAIN, VAL
from src.data.near_duplicates import DISTANCE, OFF, closest_pairs, read_looks
from src.errors import list_some
from src.names import escape_name

LISTED = 10  # most files, groups or classes that a text names of each kind
ALL_LISTED = 60  # most classes for which a text names them all


@dataclass(frozen=True)
class DataStats:
    """The statistics of one folder."""

    folder: ImageFolder
    sizes: np.ndarray  # pixels, as stored: a row of width and height for each file, 0 where they cannot be read
    formats: Counter[str]
    modes: Counter[str]  # colour modes, by Pillow's names
    turned: int  # files with EXIF data that says to rotate them
    faults: Mapping[str, str]  # bad files, and what is wrong with them

    @property
    def counts(self) -> np.ndarray:
        """Number of files of each class."""
        return np.bincount(self.folder.labels, minlength=len(self.folder.classes))

    @property
    def known_sizes(self) -> np.ndarray:
        """Widths and heights, without unreadable files."""
        return self.sizes[self.sizes[:, 0] > 0]


def collect_stats(folder: ImageFolder, decode: bool) -> DataStats:
    """Read the header of every file; with `decode` the whole file, as a run does before it begins."""
    with ThreadPoolExecutor(2 * len(os.sched_getaffinity(0))) as pool:
        looks = list(tqdm(pool.map(_header, (folder.root / name for name in folder.files)), total=len(folder),
                          desc=f"reading {folder.root.name}", disable=None, leave=False))
    headers = [look for look in looks if look is not None]
    if decode:
        findings = check_files(folder, LEAST_SHORTER_SIDE)
    else:
        findings = {name: check_file(folder.root / name, copies_folder(), LEAST_SHORTER_SIDE)
                    for name, look in zip(folder.files, looks, strict=True) if look is None}
    return DataStats(folder, np.array([(0, 0) if look is None else look[0] for look in looks], np.int64),
                  Counter(form for _, form, _, _ in headers), Counter(mode for _, _, mode, _ in headers),
                  sum(turned for _, _, _, turned in headers),
                  {name: finding.fault for name, finding in findings.items() if finding.fault})


def _header(path: Path) -> tuple[tuple[int, int], str, str, bool] | None:
    """Size, format, mode, and whether EXIF says to rotate it; None if the header cannot be read."""
    try:
        with open_image(path) as image:
            return image.size, str(image.format), image.mode, orientation(image) != 1
    except Exception:  # decoders raise many types of error
        return None


@dataclass(frozen=True)
class NearDuplicate:
    """A validation image, and the training image that looks most like it."""

    val: str
    train: str
    bits: int  # of 64 that differ in their hashes


@dataclass(frozen=True)
class Overlap:
    """Images of the validation part that the training part has, too, so that the score is better than it should be.

    Names are `train/<file>` and `val/<file>`.
    """

    copies: Sequence[Sequence[str]]  # groups of the same content
    near: Sequence[NearDuplicate]  # images that look alike, the closest first; without copies


def find_overlap(train: ImageFolder, val: ImageFolder, distance: int = DISTANCE) -> Overlap:
    """Compare the two parts of a data set.

    Args:
        train: the training images.
        val: the validation images.
        distance: bits that may differ in the hashes of images that look alike; -1 to find only the same content.
    """
    names: dict[Path, list[str]] = defaultdict(list)  # a list may have an image in both parts
    for part, folder in ((TRAIN, train), (VAL, val)):
        for file in folder.files:
            names[folder.root / file].append(f"{part}/{file}")
    groups = [[name for path in group for name in names[path]] for group in find_duplicates(names)]
    groups += [both for both in names.values() if len(both) > 1]
    copies = [group for group in groups if len({name.partition("/")[0] for name in group}) > 1]
    copied = {name for group in copies for name in group}
    pairs = closest_pairs(read_looks(val), read_looks(train), distance) if distance != OFF else []
    near = [NearDuplicate(f"{VAL}/{val.files[i]}", f"{TRAIN}/{train.files[j]}", bits) for i, j, bits in pairs]
    return Overlap(copies, [pair for pair in near if pair.val not in copied])


def describe(parts: Mapping[str, DataStats], decoded: bool, overlap: Overlap | None = None) -> str:
    """A text of all statistics. The keys of `parts` are train and val, or the name of the folder."""
    lines = []
    for name, part in parts.items():
        lines += [f"{name}: {len(part.folder)} images of {len(part.folder.classes)} classes in {part.folder.root}",
                  *_describe_part(part, decoded), ""]
    if overlap:
        lines += _compare(parts, overlap)
    return "\n".join([*lines, *_class_table(parts)])


def _describe_part(part: DataStats, decoded: bool) -> list[str]:
    counts, classes = part.counts, part.folder.classes
    least, most = int(counts.argmin()), int(counts.argmax())
    smallest, largest = (escape_name(classes[label]) for label in (least, most))
    lines = [f"  per class    min {counts[least]} ({smallest})  median {np.median(counts):g}  max {counts[most]} "
             f"({largest})  largest/smallest {counts[most] / counts[least]:.1f}"]
    if len(sizes := part.known_sizes):
        rows = {"width": sizes[:, 0], "height": sizes[:, 1], "shorter side": sizes.min(axis=1)}
        lines += [f"  {row:12} min {side.min()}  median {np.median(side):g}  max {side.max()}"
                  for row, side in rows.items()]
        lines += [f"  {row:12} " + "  ".join(f"{kind} {count}" for kind, count in found.most_common())
                  for row, found in (("formats", part.formats), ("colours", part.modes))]
    if part.turned:
        lines.append(f"  turned       {part.turned} have EXIF data that says to turn them; they are used upright")
    lines += [f"  {line}" for line in describe_left_out(part.folder)]
    how = "every image was decoded" if decoded else "headers only; --check decodes every image"
    lines.append(f"  bad          {len(part.faults)} ({how})")
    lines += [f"    {escape_name(name)}: {fault}" for name, fault in list(part.faults.items())[:LISTED]]
    if len(part.faults) > LISTED:
        lines.append(f"    and {len(part.faults) - LISTED} more")
    return lines


def _compare(parts: Mapping[str, DataStats], overlap: Overlap) -> list[str]:
    """Classes that only one part has, and images that are in both."""
    classes = {name: part.folder.classes for name, part in parts.items()}
    lines = [f"classes only in {name}: {list_some(list(map(escape_name, only)), LISTED)}"
             for name, other in ((TRAIN, VAL), (VAL, TRAIN))
             if (only := [one for one in classes[name] if one not in classes[other]])]
    lines.append(f"images in both {TRAIN} and {VAL}: {len(overlap.copies)}"
                 + ("; they make the score better than it is" if overlap.copies else ""))
    lines += ["  " + " = ".join(map(escape_name, group)) for group in overlap.copies[:LISTED]]
    lines.append(f"images of {VAL} that look like one of {TRAIN}: {len(overlap.near)}"
                 + ("; they may make the score better than it is" if overlap.near else ""))
    lines += [f"  {escape_name(pair.val)} ~ {escape_name(pair.train)} ({pair.bits} of 64 bits differ)"
              for pair in overlap.near[:LISTED]]
    return [*lines, ""]


def _class_table(parts: Mapping[str, DataStats]) -> list[str]:
    """A line per class with its number of images in each part; of many classes only the largest and smallest."""
    counts = {name: dict(zip(part.folder.classes, part.counts.tolist(), strict=True)) for name, part in parts.items()}
    totals = Counter[str]()
    for of_part in counts.values():
        totals.update(of_part)
    shown = sorted(totals)
    if len(shown) > ALL_LISTED:
        by_size = [name for name, _ in sorted(totals.items(), key=lambda entry: (-entry[1], entry[0]))]
        shown = [*by_size[:LISTED], "...", *by_size[-LISTED:]]
    width = max(len(escape_name(name)) for name in (*shown, "class"))
    lines = [f"{'class':{width}}" + "".join(f"  {name:>8}" for name in parts)]
    lines += [f"{escape_name(name):{width}}" + ("" if name not in totals else
                                   "".join(f"  {of_part.get(name, 0):8}" for of_part in counts.values()))
              for name in shown]
    return [line.rstrip() for line in lines]
