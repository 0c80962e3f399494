"""Score a checkpoint on a folder of pictures, each exactly once.

    python eval.py --platform CPU --dataset_path pictures --pretrain_ckpt checkpoint/best.ckpt

Image size and width are those that the checkpoint was trained with, unless options say otherwise.
"""
from pathlib import Path

from src.checkpoint import read_checkpoint
from src.dataset import ImageData
from src.device import setup_device
from src.errors import UserError, run_command
from src.evaluation import evaluate
from src.image_folder import eval_root
from src.model_utils.config import Config
from src.model_utils.modelarts import local_or_modelarts
from src.models import define_net
from src.picture_check import scan_checked
from src.report import write_confusion
from src.utils import check_classes, load_weights


@local_or_modelarts
def main(config: Config) -> None:
    """Score as the command line says."""
    world = setup_device(config)

    # ---- the checkpoint, and pictures of its classes
    if not config.pretrain_ckpt:
        raise UserError("no model named: give --pretrain_ckpt CHECKPOINT")
    checkpoint = read_checkpoint(Path(config.pretrain_ckpt))
    config = config.adopt(checkpoint.config, "image_size", "width_mult", "boost_mode")
    folder = scan_checked(eval_root(config.dataset_path), config, world, training=False)
    check_classes(checkpoint.classes, folder.classes, folder.root)

    # ---- network
    network = define_net(config, config.num_classes or len(folder.classes))
    load_weights(network, checkpoint)

    # ---- score
    data = ImageData(folder, config.image_size, config.batch_size, training=False, num_workers=config.num_workers,
                     rank=world.rank, rank_size=world.rank_size)
    score = evaluate(network, data, world)
    if not world.is_first:
        return
    print(f"result: {score} ckpt={config.pretrain_ckpt}")
    if config.confusion_matrix:
        write_confusion(score.confusion, folder.classes, Path(config.confusion_matrix))


if __name__ == "__main__":
    run_command(main)
