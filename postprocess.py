"""Computes the accuracy of the results of the Ascend 310 program. Needs numpy alone.

    python postprocess.py --result_path result_Files --label_path label.txt

tools/make_label_file.py writes label.txt. Its lines are `folder/image.jpg:class index`; names that are not UTF-8 have
escapes (src/names.py). The result of that image is result_Files/folder/image.jpg.bin with its float32 logits. If one
result is missing or bad, no accuracy is printed.
"""
import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.errors import UserError, run_command
from src.files import read_names
from src.metrics import top5
from src.names import unescape_name

LISTED = 5  # names that an error shows
LONGEST_LABEL = 9  # digits


def main(argv: Sequence[str] | None = None) -> None:
    """Count as the command line says."""
    parser = argparse.ArgumentParser(description="Accuracy of what the Ascend 310 program computed.")
    parser.add_argument("--result_path", required=True, type=Path, help="folder of the .bin files")
    parser.add_argument("--label_path", required=True, type=Path, help="file of lines relative/file/name:class index")
    parser.add_argument("--config_path", help=argparse.SUPPRESS)  # MindSpore's model zoo gave it; nothing here reads it
    options = parser.parse_args(argv)

    labels = read_labels(options.label_path)
    logits = read_results(options.result_path, labels)
    truth = np.array(list(labels.values()))
    _, right = top5(logits, truth)
    print(f"{len(truth)} images, top-5 {right.any(axis=1).mean():.5f}")
    print(f"'Accuracy': {right[:, 0].mean():.5f}")


def read_labels(path: Path) -> dict[str, int]:
    """Class index of each file.

    Raises:
        UserError: the file cannot be read, has no line, a malformed one, or labels an image twice.
    """
    labels: dict[str, int] = {}
    for number, line in enumerate(read_names(path), 1):
        name, colon, label = line.rpartition(":")
        name, label = unescape_name(name), label.strip()
        if not line.strip():
            continue
        if not colon or not name or not label.isdecimal() or len(label) > LONGEST_LABEL:
            raise UserError(f"{path}, line {number}: expected relative/file/name:class index, not '{line}'")
        if name in labels:
            raise UserError(f"{path}, line {number}: {name} is labelled a second time")
        labels[name] = int(label)
    if not labels:
        raise UserError(f"{path}: labels no image")
    return labels


def read_results(folder: Path, labels: dict[str, int]) -> np.ndarray:
    """N x C float32 logits, in the order of the labels.

    Raises:
        UserError: results are missing, have no label or another length than most, or a label is too large for them. The
            text lists them.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of results")
    found = {path.relative_to(folder).as_posix().removesuffix(".bin"): path for path in folder.rglob("*.bin")
             if path.is_file()}
    try:
        contents = {name: found[name].read_bytes() for name in labels if name in found}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot read this result: {error.strerror}") from error
    sizes = [len(content) for content in contents.values()]
    usual = max(set(sizes), key=sizes.count, default=0)
    odd = [name for name, content in contents.items() if len(content) != usual or usual % 4 or not usual]
    faults = [(label, names) for label, names in (
        ("have no result", [name for name in labels if name not in found]),
        ("are not labelled", sorted(found.keys() - labels.keys())),
        (f"have a result that is not {usual // 4} float32 long", odd),
        (f"have a label beyond the {usual // 4} classes of the results",
         [name for name in labels if usual and labels[name] >= usual // 4]),
    ) if names]
    if faults:
        raise UserError(f"{folder}: {len(found)} results for {len(labels)} labelled images: " + "; ".join(
            f"{len(names)} {label}: {', '.join(names[:LISTED])}{' ...' if len(names) > LISTED else ''}"
            for label, names in faults))
    return np.stack([np.frombuffer(content, "<f4") for content in contents.values()])


if __name__ == "__main__":
    run_command(main)
