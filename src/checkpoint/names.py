"""The file names of checkpoints.

Numbered ones are `mobilenetv2-<epoch>_<step in the epoch>.ckpt`, both from 1; with a frozen backbone
`mobilenetv2_head-...`. `last.ckpt` is the newest one, `best.ckpt` the one with the best top-1. Each has a JSON with the
same stem.
"""
from pathlib import Path

BEST, LAST = "best", "last"
NUMBERED = "mobilenetv2*-*_*.ckpt"  # a pattern


def stem(head_only: bool) -> str:
    """The beginning of the names of a run's numbered checkpoints."""
    return "mobilenetv2_head" if head_only else "mobilenetv2"


def numbered(head_only: bool, epoch: int, step: int) -> str:
    """The file name of a checkpoint at a step of an epoch, both from 1."""
    return f"{stem(head_only)}-{epoch}_{step}.ckpt"


def newest_first(folder: Path) -> list[Path]:
    """The numbered checkpoints of a folder, the latest first."""
    found = []
    for path in folder.glob(NUMBERED):
        epoch, _, step = path.stem.rpartition("-")[2].partition("_")
        if epoch.isdigit() and step.isdigit():
            found.append((int(epoch), int(step), path))
    return [path for _, _, path in sorted(found, reverse=True)]


def metadata_path(checkpoint: Path) -> Path:
    """The path of a checkpoint's JSON."""
    return checkpoint.with_suffix(".json")
