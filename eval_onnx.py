"""Evaluate an ONNX file as MindSpore's model zoo does: eval.py's work, and a last line with the accuracy.

    python eval_onnx.py --platform CPU --dataset_path pictures --file_name mobilenetv2.onnx

It writes and prints what eval.py does.
"""
from pathlib import Path

from eval import score
from src.deployment.formats import ENDINGS
from src.errors import UserError, run_command
from src.model_utils.config import get_config


def main() -> None:
    """Evaluate as the command line says."""
    config = get_config()
    path = Path(config.file_name.removesuffix(ENDINGS["ONNX"]) + ENDINGS["ONNX"])
    if not path.is_file():
        raise UserError(f"{path}: no such ONNX file; --file_name names one that export.py --file_format ONNX "
                        "has written")
    result = score(config.replace({"pretrain_ckpt": str(path)}))
    print(f"accuracy: {result.top1:.4f}")


if __name__ == "__main__":
    run_command(main)
