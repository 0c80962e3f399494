"""Train MobileNetV2: from scratch, the whole network from a checkpoint, or the classifier on a frozen backbone.

    python train.py --platform CPU --dataset_path pictures
    python train.py --platform CPU --dataset_path pictures --pretrain_ckpt mobilenetv2.ckpt --filter_head True
    python train.py --platform CPU --dataset_path pictures --pretrain_ckpt mobilenetv2.ckpt --freeze_layer backbone

Every key of default_config.yaml is an option. Checkpoints, `curves.csv` and `curves.png` go to --save_checkpoint_path.
"""
from pathlib import Path

from mindspore import nn
from tqdm import tqdm

from src.checkpoint import CheckpointFolder, read_checkpoint
from src.collectives import average_parameters, broadcast_parameters
from src.dataset import Augmentation, Data, FeatureData, ImageData
from src.device import World, setup_device
from src.errors import UserError, run_command
from src.evaluation import evaluate
from src.features import pooled_features
from src.image_folder import ImageFolder, train_root, validation_root
from src.lr_generator import run_lr
from src.model_utils.config import Config, get_config
from src.models import CrossEntropyWithLabelSmooth, Monitor, define_average, define_net
from src.report import History, write_curves
from src.train_step import TrainStep, batch_norm_statistics, build_optimizer, training_state
from src.utils import check_classes, load_weights, scored_parameters


def main() -> None:
    """Train as the command line says."""
    config = get_config()
    world = setup_device(config)

    # ---- pictures
    train_folder = ImageFolder.scan(train_root(config.dataset_path))
    eval_folder = validation_folder(config, train_folder)
    classes = train_folder.classes
    print(f"{len(train_folder)} training pictures of {len(classes)} classes in {train_folder.root}; "
          + (f"{len(eval_folder)} to validate on in {eval_folder.root}" if eval_folder else "no validation"))

    # ---- network: new weights, or those of a checkpoint
    frozen = config.freeze_layer == "backbone"
    if frozen and not config.pretrain_ckpt:
        raise UserError("--freeze_layer backbone trains a classifier on a trained backbone: name one, "
                        "--pretrain_ckpt CHECKPOINT")
    pretrained = read_checkpoint(Path(config.pretrain_ckpt)) if config.pretrain_ckpt else None
    if pretrained:
        config = config.adopt(pretrained.config, "width_mult")
    network = define_net(config, len(classes), world.rank)
    if pretrained:
        load_weights(network, pretrained, filter_head=config.filter_head or frozen)
    average = define_average(config, network)

    # ---- what is trained on what: the whole network on pictures, or the head on what the backbone makes of them
    trained, scored = network, average or network
    if frozen:
        trained, scored = network.head, scored.head
    train_data = data_source(config, world, train_folder, network.backbone, training=True)
    eval_data = data_source(config, world, eval_folder, network.backbone, training=False) if eval_folder else None
    if train_data.batch_size < config.batch_size:
        print(f"batch_size is {train_data.batch_size}, not {config.batch_size}: there are no more training pictures")

    # ---- schedule, loss, optimizer
    steps = train_data.steps_per_epoch
    lr = run_lr(config, train_data.batch_size * world.rank_size, steps)
    optimizer = build_optimizer(trained, lr, config)
    train_step = TrainStep(trained, CrossEntropyWithLabelSmooth(config.label_smooth), optimizer, config,
                           scored if average else None, world.rank_size)
    train_step.set_train()
    broadcast_parameters(train_step.get_parameters(), world)

    # ---- the loop
    checkpoints = CheckpointFolder(Path(config.save_checkpoint_path), config.keep_checkpoint_max)
    if world.is_first:
        checkpoints.set_aside_earlier_run()
    stem = "mobilenetv2_head" if frozen else "mobilenetv2"
    history: History = []
    best = -1.0
    bar = tqdm(total=config.epoch_size * steps, unit="step", dynamic_ncols=True,
               disable=None if world.is_first else True)
    monitor = Monitor(lr, config.epoch_size, steps, config.log_steps, write=bar.write)
    for epoch in range(1, config.epoch_size + 1):
        monitor.epoch_begin(epoch - 1)
        for step, batch in enumerate(train_data.epoch(epoch - 1)):
            loss, _ = train_step(*batch)
            monitor.step_end(step, loss)
            bar.update()
        row = {"epoch": epoch, "loss": monitor.epoch_end(), "lr": float(lr[epoch * steps - 1])}
        name = f"{stem}-{epoch}_{steps}"
        average_parameters(batch_norm_statistics(train_step), world)
        if eval_data:
            score = evaluate(scored, eval_data, world)
            if world.is_first:
                bar.write(f"result: {score} ckpt={checkpoints.path / name}.ckpt")
            row |= {"val_loss": score.loss, "top1": score.top1, "top5": score.top5}
        history.append(row)
        is_best = row.get("top1", -1.0) > best
        best = max(best, row.get("top1", -1.0))
        if not world.is_first:
            continue
        if config.save_checkpoint and (is_best or epoch % config.save_checkpoint_epochs == 0
                                       or epoch == config.epoch_size):
            about = {"config": config.as_dict(), "classes": classes, "epoch": epoch, "step": epoch * steps,
                     "metrics": row, "best_top1": best, "history": history}
            checkpoints.save(name, scored_parameters(network, average), training_state(train_step), about, is_best)
        write_curves(history, checkpoints.path)
    bar.close()


def data_source(config: Config, world: World, folder: ImageFolder, backbone: nn.Cell, training: bool) -> Data:
    """Batches of a folder: pictures, or the frozen backbone's features of them."""
    if config.freeze_layer == "backbone":
        features = pooled_features(backbone, folder, config.image_size, config.batch_size, config.num_workers, world)
        return FeatureData(features, folder.labels, config.batch_size, training=training, seed=config.seed,
                           rank=world.rank, rank_size=world.rank_size)
    return ImageData(folder, config.image_size, config.batch_size, training=training, seed=config.seed,
                     augmentation=Augmentation(config.crop_scale, config.flip, config.color_jitter),
                     num_workers=config.num_workers, rank=world.rank, rank_size=world.rank_size)


def validation_folder(config: Config, train_folder: ImageFolder) -> ImageFolder | None:
    """The pictures to validate on, if that is wanted and there are any; checks that the classes agree."""
    if config.num_classes not in {0, len(train_folder.classes)}:
        raise UserError(f"num_classes is {config.num_classes}, but {train_folder.root} has "
                        f"{len(train_folder.classes)} classes; leave num_classes out, or set it to that")
    root = validation_root(config.dataset_path, config.eval_dataset_path) if config.run_eval else None
    if root is None:
        return None
    folder = ImageFolder.scan(root)
    check_classes(train_folder.classes, folder.classes, folder.root)
    return folder


if __name__ == "__main__":
    run_command(main)
