"""Make the description that MindSpore Hub asks for, of a checkpoint and of the model card beside it.

    python tools/describe_for_hub.py --checkpoint checkpoint/best.ckpt --output mobilenetv2_flowers.md

What only the publisher knows stays TO BE FILLED IN: docs/hub.md says how to go on.
"""
import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.checkpoint.file import read_checkpoint
from src.errors import UserError, run_command
from src.files import atomic_write, file_digest
from src.names import ESCAPED
from src.reports.model_card import FILE as MODEL_CARD

TEMPLATE = Path(__file__).resolve().parents[1] / "hub" / "mobilenetv2_imagenet2012.md"
USAGE = "## Usage\n"  # the card stands before it


def main(argv: Sequence[str] | None = None) -> None:
    """Write the description that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.ckpt of a run")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write, named as the asset")
    options = parser.parse_args(argv)

    checkpoint = read_checkpoint(options.checkpoint)
    card = options.checkpoint.with_name(MODEL_CARD)
    if checkpoint.training is None or not card.is_file():
        raise UserError(f"{options.checkpoint}: has no {MODEL_CARD} beside it; train.py writes one at the end of a run")
    size, asset = checkpoint.config["image_size"], options.output.stem
    fields: dict[str, object] = {
        "input-shape": [size, size, 3], "train-dataset": Path(checkpoint.config["dataset_path"]).name,
        "update-time": time.strftime("%Y-%m-%d"), "asset-sha256": file_digest(options.checkpoint), "asset-id": asset}
    if "top1" in checkpoint.training.metrics:
        fields["accuracy"] = round(checkpoint.training.metrics["top1"], 4)
    text = describe(TEMPLATE.read_text(encoding="utf-8"), fields, asset, len(checkpoint.classes or ()),
                    card.read_text(encoding="utf-8"))
    with atomic_write(options.output) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=ESCAPED)
    print(f"{options.output}: fill in what is TO BE FILLED IN")


def describe(template: str, fields: Mapping[str, object], asset: str, classes: int, card: str) -> str:
    """The description.

    Args:
        template: the description of another checkpoint.
        fields: values for its head. One that it lacks comes before `asset`.
        asset: its name.
        classes: how many the network knows.
        card: the model card. Its parts come as they are, without its head and its title.
    """
    title, head, body = template.split("\n---\n")
    lines = head.splitlines()
    for name, value in fields.items():
        wanted = f"{name}: {json.dumps(value, ensure_ascii=False)}"
        at = next((number for number, line in enumerate(lines) if line.lstrip().startswith(f"{name}: ")), None)
        if at is None:
            lines[lines.index("asset:"):lines.index("asset:")] = [wanted, ""]
        else:
            lines[at] = lines[at][:lines[at].index(name)] + wanted
    parts = card[card.index("\n## "):].strip().replace("\n## ", "\n### ").removeprefix("## ")
    body = body.replace(TEMPLATE.stem, asset).replace("num_classes=1000", f"num_classes={classes}")
    return "\n---\n".join((title, "\n".join(lines), body.replace(USAGE, f"## Model card\n\n### {parts}\n\n{USAGE}")))


if __name__ == "__main__":
    run_command(main)
