"""Evaluate a checkpoint or an exported file (MINDIR, ONNX, TFLite, ncnn) on a folder of images, each exactly once.

    python eval.py --platform CPU --dataset_path pictures --pretrain_ckpt checkpoint/best.ckpt
    python eval.py --platform CPU --dataset_path pictures --pretrain_ckpt mobilenetv2.onnx --report report.html

Image size and width are those of the file, unless options set them. `metrics.json` and `scored.csv`, a row for each
image, go to --predictions.
"""
import os
from pathlib import Path

from src.log import reader_log_level

os.environ.update(reader_log_level(os.environ))  # MindSpore reads it when it is imported, below

from src.confidence import check_confidence
from src.data.framing import Framing
from src.data.image_check import scan_checked
from src.data.sources import eval_source
from src.dataset import ImageData
from src.deployment.model_file import open_model
from src.distributed.device import setup_device
from src.errors import run_command
from src.evaluation import evaluate
from src.metrics import EvalResult
from src.model_utils.config import Config
from src.modelarts.job import local_or_modelarts
from src.reports.evaluation_files import write_metrics, write_scored
from src.reports.evaluation_report import evaluation_report, report_path
from src.reports.figures import write_confusion
from src.reports.report import write_report
from src.utils import check_classes


@local_or_modelarts
def main(config: Config) -> None:
    """Evaluate as the command line says."""
    score(config)


def score(config: Config) -> EvalResult:
    """Evaluate, and write and print what a configuration asks for. Returns the result, the same on all ranks."""
    world = setup_device(config)

    # ---- the model, and images of its classes
    model = open_model(config)
    config = model.config
    folder = scan_checked(eval_source(config.dataset_path), config, world, training=False)
    check_classes(model.classes, folder.classes, folder.root)

    # ---- evaluate
    network = model.network(config.num_classes or len(folder.classes))
    data = ImageData(folder, config.image_size, config.batch_size, training=False, num_workers=config.num_workers,
                     rank=world.rank, rank_size=world.rank_size, normalisation=model.normalisation,
                     framing=Framing.with_views(config))
    result = evaluate(network, data, world)
    if not world.is_main_process:
        return result
    confidence = check_confidence(result, config.unsure_accuracy, model.confidence)
    out = Path(config.predictions)
    write_metrics(result, folder, model, confidence, out / "metrics.json")
    write_scored(result, folder, confidence, out / "scored.csv")
    print(f"metrics: {out / 'metrics.json'}; each image: {out / 'scored.csv'}")
    print(f"result: {result} ckpt={config.pretrain_ckpt}")
    if config.confusion_matrix:
        write_confusion(result.confusion, folder.classes, Path(config.confusion_matrix))
    if path := report_path(config):
        write_report(evaluation_report(model, folder, result, confidence, network, world), path)
        print(f"report: {path}")
    return result


if __name__ == "__main__":
    run_command(main)
