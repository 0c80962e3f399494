"""Writes the label file of an image folder, for scripts/run_infer_310.sh and postprocess.py.

    python tools/make_label_file.py --dataset_path imagenet/val --output label.txt --model mobilenetv2.mindir

A line per image: relative/file/name:class index. The index is the class's position among the sorted class names;
with --model these must be the classes that the JSON beside the model names. Names that are not UTF-8 are written with
escapes (src/names.py), which postprocess.py reads.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.data.sources import eval_source
from src.deployment.description import description_path, read_description
from src.errors import UserError, run_command
from src.files import atomic_write
from src.names import escape_name


def main(argv: Sequence[str] | None = None) -> None:
    """Write as the command line says."""
    parser = argparse.ArgumentParser(description="The label file of an image folder.")
    parser.add_argument("--dataset_path", required=True, help="folder of one folder of images per class")
    parser.add_argument("--output", required=True, type=Path, help="label file to write")
    parser.add_argument("--model", type=Path, help="exported model whose classes these must be")
    options = parser.parse_args(argv)

    folder = eval_source(options.dataset_path).scan()
    if options.model and (classes := model_classes(options.model)) != folder.classes:
        different = sorted(set(classes) ^ set(folder.classes))[:3]
        raise UserError(f"{folder.root}: its classes are not those of {options.model}: {', '.join(different)}")
    with atomic_write(options.output) as temporary:
        temporary.write_text("".join(f"{escape_name(name)}:{label}\n" for name, label in zip(
            folder.files, folder.labels, strict=True)), encoding="utf-8")
    print(f"{options.output}: {len(folder)} images of {len(folder.classes)} classes, relative to {folder.root}")


def model_classes(model: Path) -> tuple[str, ...]:
    """Names of the classes, from the JSON beside an exported model."""
    description = read_description(model)
    if description is None or description.classes is None:
        raise UserError(f"{description_path(model)}: does not name the model's classes")
    return description.classes


if __name__ == "__main__":
    run_command(main)
