"""The label file of an image folder, for scripts/run_infer_310.sh and postprocess.py.

    python tools/make_label_file.py --dataset_path imagenet/val --output label.txt --model mobilenetv2.mindir

A line per picture: relative/file/name:class index. The index is the class's position among the sorted class names;
with --model these must be the classes that the JSON beside the model names.
"""
import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.errors import UserError, run_command
from src.files import whole_file
from src.pictures.image_folder import ImageFolder, eval_root


def main(argv: Sequence[str] | None = None) -> None:
    """Write as the command line says."""
    parser = argparse.ArgumentParser(description="The label file of an image folder.")
    parser.add_argument("--dataset_path", required=True, help="folder of one folder of pictures per class")
    parser.add_argument("--output", required=True, type=Path, help="label file to write")
    parser.add_argument("--model", type=Path, help="exported model whose classes these must be")
    options = parser.parse_args(argv)

    folder = ImageFolder.scan(eval_root(options.dataset_path))
    if options.model and (classes := model_classes(options.model)) != list(folder.classes):
        different = sorted(set(classes) ^ set(folder.classes))[:3]
        raise UserError(f"{folder.root}: its classes are not those of {options.model}: {', '.join(different)}")
    unusual = [name for name in folder.files if "\n" in name or "\r" in name]
    if unusual:
        raise UserError(f"{folder.root}: a label file has no room for a file name with a line break: {unusual[0]!r}")
    with whole_file(options.output) as temporary:
        temporary.write_text("".join(f"{name}:{label}\n" for name, label in zip(folder.files, folder.labels,
                                                                                strict=True)), encoding="utf-8")
    print(f"{options.output}: {len(folder)} pictures of {len(folder.classes)} classes, relative to {folder.root}")


def model_classes(model: Path) -> list[str]:
    """Names of the classes, from the JSON beside an exported model."""
    path = model.with_name(f"{model.name}.json")
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))["classes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: cannot read the model's classes here") from None
    if not isinstance(classes, list):
        raise UserError(f"{path}: does not name the model's classes")
    return classes


if __name__ == "__main__":
    run_command(main)
