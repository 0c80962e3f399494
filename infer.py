"""Classify images with a checkpoint or an exported file: MINDIR, ONNX, TFLite or ncnn. ONNX is the fastest on CPU.

    python infer.py --platform CPU --model mobilenetv2.onnx --images holiday/ --predictions out
    python infer.py --platform CPU --model checkpoint/best.ckpt --serve True

--images names an image, a folder, or a text file that lists images. The command writes out/predictions.csv, .json and
.png (a contact sheet of the first images). It names an image that it cannot read, leaves it out, and ends with exit
status 1. An image is unsure if its probability is below the threshold that training has found. --sort_into FOLDER makes
copies in a folder for each class, --explain True draws what speaks for the class. Names that are not UTF-8 are written
with escapes (src/names.py). A list may have such escapes, too.

--serve True serves a page to try the model on instead: docs/serving.md.
"""
import sys
from pathlib import Path

from tqdm import tqdm

from src.data.framing import Framing, mean_over_views
from src.data.image_cache import limit_cache
from src.data.image_check import describe_copies
from src.deployment.activation_maps import FOLDER, with_feature_maps, write_explanations
from src.deployment.contact_sheet import draw_contact_sheet
from src.deployment.model_file import open_model
from src.deployment.prediction import (
    ImageStream,
    Prediction,
    decoding_workers,
    likeliest,
    list_images,
    write_csv,
    write_predictions,
)
from src.deployment.sorted_copies import check_target, sort_into
from src.distributed.device import setup_device
from src.errors import UserError, run_command
from src.model_utils.config import Config
from src.modelarts.job import local_or_modelarts
from src.names import escape_name
from src.serving.start import serve


@local_or_modelarts
def main(config: Config) -> None:
    """Classify as the command line says."""
    setup_device(config)
    if config.serve:
        serve(config)
        return

    # ---- the model and the images
    model = open_model(config)
    config = model.config
    paths = list_images(config.images)
    batch_size = min(config.batch_size, len(paths))
    network = model.network(config.num_classes)
    explained = with_feature_maps(model, network) if config.explain else None
    if config.sort_into:
        check_target(Path(config.sort_into), Path(config.images))
    predict = model.predictor(batch_size, network)
    workers = decoding_workers(config.num_workers, config.onnx_threads)
    stream = ImageStream(paths, config.image_size, batch_size, workers, model.normalisation,
                         Framing.with_views(config))

    # ---- classify, while the next images are decoded
    found: dict[int, Prediction] = {}
    with tqdm(total=len(paths), unit="image", dynamic_ncols=True, disable=None) as bar:
        for positions, images in stream:
            logits = mean_over_views(predict, images)
            classes = model.class_names(logits.shape[1])
            for position, row in zip(positions.tolist(), logits, strict=True):
                found[position] = likeliest(paths[position], row, classes, config.top_k, model.confidence)
            bar.update(len(images))

    # ---- results
    for position, fault in sorted(stream.faults.items()):
        print(f"{escape_name(paths[position])}: {fault}", file=sys.stderr)
    if not found:
        raise UserError(f"{config.images}: none of {len(paths)} images could be read "
                        f"({paths[0]}: {stream.faults[0]})")
    predictions = [found.get(position) or Prediction(path, fault=stream.faults[position])
                   for position, path in enumerate(paths)]
    out = Path(config.predictions)
    write_csv(predictions, out / "predictions.csv")
    write_predictions(predictions, model.path, out / "predictions.json")
    draw_contact_sheet(predictions, out / "predictions.png")
    print(f"{len(found)} of {len(paths)} images classified: {out}/predictions.csv, .json, .png")
    if explained:
        written = write_explanations(explained, config, predictions, out / FOLDER)
        print(f"{written} pictures of what speaks for the class: {out / FOLDER}")
    if config.sort_into:
        print(sort_into(predictions, Path(config.sort_into)))
    if any(finding.copy for finding in stream.findings.values()):
        size = limit_cache((), config.image_cache_gb)
        print(describe_copies(stream.findings.values(), size, config.image_cache_gb))
    if stream.faults:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
