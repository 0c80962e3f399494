"""Classify pictures with a checkpoint, a MINDIR or an ONNX file; ONNX is by far the fastest on CPU.

    python infer.py --platform CPU --model mobilenetv2.onnx --images holiday/ --predictions out

Pictures are a picture, a folder or a text file that lists some. Writes out/predictions.csv, .json and .png (a contact
sheet of the first ones). A picture that cannot be read is named and left out; the exit status is then 1. Names that are
not UTF-8 are written with escapes (src/names.py), and may stand so in a list.
"""
import sys
from pathlib import Path

from tqdm import tqdm

from src.deployment.contact_sheet import draw_contact_sheet
from src.deployment.model_file import open_model
from src.deployment.prediction import (
    PictureStream,
    Prediction,
    decoding_workers,
    likeliest,
    list_pictures,
    write_csv,
    write_predictions,
)
from src.distributed.device import setup_device
from src.errors import UserError, run_command
from src.model_utils.config import Config
from src.modelarts.job import local_or_modelarts
from src.names import escape_name


@local_or_modelarts
def main(config: Config) -> None:
    """Classify as the command line says."""
    setup_device(config)

    # ---- the model and the pictures
    model = open_model(config)
    config = model.config
    pictures = list_pictures(config.images)
    batch_size = min(config.batch_size, len(pictures))
    predict = model.predictor(batch_size, config.num_classes)
    workers = decoding_workers(config.num_workers, config.onnx_threads)
    stream = PictureStream(pictures, config.image_size, batch_size, workers, model.normalise)

    # ---- classify, while the next pictures are decoded
    found: dict[int, Prediction] = {}
    with tqdm(total=len(pictures), unit="picture", dynamic_ncols=True, disable=None) as bar:
        for positions, images in stream:
            logits = predict(images)
            classes = model.class_names(logits.shape[1])
            for position, row in zip(positions.tolist(), logits, strict=True):
                found[position] = likeliest(pictures[position], row, classes, config.top_k)
            bar.update(len(images))

    # ---- results
    for position, fault in sorted(stream.faults.items()):
        print(f"{escape_name(pictures[position])}: {fault}", file=sys.stderr)
    if not found:
        raise UserError(f"{config.images}: none of {len(pictures)} pictures could be read "
                        f"({pictures[0]}: {stream.faults[0]})")
    predictions = [found.get(position) or Prediction(path, fault=stream.faults[position])
                   for position, path in enumerate(pictures)]
    out = Path(config.predictions)
    write_csv(predictions, out / "predictions.csv")
    write_predictions(predictions, model.path, out / "predictions.json")
    draw_contact_sheet(predictions, out / "predictions.png")
    print(f"{len(found)} of {len(pictures)} pictures classified: {out}/predictions.csv, .json, .png")
    if stream.faults:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
