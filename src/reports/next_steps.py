"""What to do with a network after its training: commands for the report."""
import sys
from pathlib import Path

from src.model_utils.config import Config
from src.reports.provenance import changed_settings, shell_line


def next_steps(config: Config, weights: Path) -> dict[str, str]:
    """Shell lines, by what they are for.

    Args:
        config: of the run.
        weights: the checkpoint to go on with.
    """
    def line(script: str, **settings: object) -> str:
        return shell_line(Path(sys.argv[0]).with_name(script), {"platform": config.platform, **settings})

    steps = {
        "Classify your own images. FOLDER has them; the answers are in predictions/.":
            line("infer.py", model=weights, images="FOLDER"),
        "Score it on images that had no part in the training. FOLDER has a folder for each class.":
            line("eval.py", dataset_path="FOLDER", pretrain_ckpt=weights, report=True),
        "Try it in a browser; with --host=0.0.0.0 also from a phone. This needs requirements-serve.txt.":
            line("infer.py", model=weights, serve=True),
        "Use it in other programs: as an ONNX file, with classes and preprocessing in the JSON beside it.":
            line("export.py", ckpt_file=weights, file_format="ONNX", file_name="mobilenetv2"),
    }
    if config.freeze_layer == "backbone":
        whole = {**changed_settings(config), "recipe": "finetune", "freeze_layer": "none", "filter_head": True,
                 "save_checkpoint_path": f"{config.save_checkpoint_path}_whole"}
        steps["Train the whole network: it takes longer, and is usually more accurate than the classifier alone."] = \
            line("train.py", **whole)
    return steps
