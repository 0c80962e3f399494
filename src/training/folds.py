"""Cross-validation: a network for each fold of the training images, which is trained on the other folds.

Each of these runs is an ordinary one with a process of its own, for MindSpore keeps what a run has compiled until its
process ends. So a fold resumes as any run does, and a finished one is not trained again.
"""
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mindspore import nn

from src.checkpoint.file import read_checkpoint
from src.checkpoint.names import LAST
from src.checkpoint.record import TrainingMetadata
from src.data.framing import Framing
from src.data.groups import find_groups
from src.data.image_check import scan_checked
from src.data.image_folder import ImageFolder
from src.data.sources import train_source
from src.data.split import keep_together, plan_folds
from src.dataset import IGNORE_INDEX, Data, FeatureData, ImageData
from src.distributed.device import setup_device
from src.distributed.world import ALONE
from src.errors import UserError
from src.log import logger
from src.mobilenetV2 import MobileNetV2
from src.model_utils.config import Config
from src.model_utils.keys import NETWORK_KEYS
from src.models import define_net
from src.normalisation import NORMALISATIONS
from src.reports.cross_validation import (
    FOLDS,
    LABEL_ERRORS,
    CrossValidation,
    cross_validation_report,
    write_folds,
    write_label_errors,
)
from src.reports.provenance import ROOT, changed_settings, option_words, repeating_command
from src.reports.report import write_report
from src.training.default_recipe import settle_recipe
from src.training.features import pooled_features
from src.training.reporter import REPORT
from src.training.signals import run_and_pass_signals
from src.utils import load_weights

Main = Callable[[Config], None]


def with_folds(main: Main) -> Main:
    """Let a training command also do cross-validation: `folds` asks for it, unless `fold` names one fold to train.

    Args:
        main: the command, which trains one network.
    """
    @functools.wraps(main)
    def wrapped(config: Config) -> None:
        check_folds(config)
        if not config.folds or config.fold:
            main(config)
        elif config.dry_run:
            main(_of_fold(config, 1))
        else:
            cross_validate(config)

    return wrapped


def check_folds(config: Config) -> None:
    """Raise UserError if cross-validation does not go with the other keys."""
    if config.fold > config.folds or config.folds == 1:
        raise UserError(f"folds is {config.folds} and fold is {config.fold}: --folds must be 2 or more, such as 5, and "
                        "--fold one of them, or 0 for all")
    if not config.folds:
        return
    if config.distribute:
        raise UserError("--folds is for small sets, and trains in one process; leave out --distribute and the launcher")
    if not (config.run_eval and config.save_checkpoint):
        raise UserError("--folds scores the checkpoint of each fold; leave out --run_eval False and --save_checkpoint "
                        "False")
    if not config.fold and config.resume not in {"auto", "never"}:
        raise UserError(f"--resume {config.resume}: is one checkpoint, and each fold resumes from its own; use "
                        "--resume auto")


def cross_validate(config: Config) -> None:
    """Train the network of each fold, score all images by them, and write report, figures and likely label errors.

    Ends the process with the exit status of a run that has not come to its end.

    Raises:
        UserError: the images cannot be divided, have changed meanwhile, or a file cannot be written.
    """
    folder = scan_checked(train_source(config.dataset_path), config, ALONE, training=False)
    groups = find_groups(folder.files, train_source(config.dataset_path).path, config.group_pattern,
                         config.group_column)
    fold_of = plan_folds(folder, config.folds, config.seed, keep_together(folder, groups))

    config = settle_recipe(config, ALONE)  # for a run of a fold is told which recipe it has
    for fold in range(1, config.folds + 1):
        own = _of_fold(config, fold)
        logger.info(f"fold {fold} of {config.folds}: {own.save_checkpoint_path}")
        if status := run_and_pass_signals([sys.executable, str(ROOT / "train.py"), *_options(own)]):
            sys.exit(status)

    setup_device(config)
    network, result = _score(config, folder, fold_of)
    output = Path(config.save_checkpoint_path)
    final = config.replace({"folds": 0, "val_share": 0.0, "save_checkpoint_path": str(output / "final")})
    final_command = repeating_command(final, Path(sys.argv[0]))
    write_folds(result, output / FOLDS)
    write_label_errors(result, output / LABEL_ERRORS)
    write_report(cross_validation_report(result, config, network, final_command), output / REPORT)
    logger.info(f"result of {config.folds} folds: {result}")
    logger.info(f"likely label errors: {len(result.label_errors)} of {len(folder)} images, {output / LABEL_ERRORS}")
    logger.info(f"report: {output / REPORT}")
    logger.info("The networks of the folds only measure. To train one on all images:\n" + final_command)


def _of_fold(config: Config, fold: int) -> Config:
    """The configuration of a fold's run. On ModelArts its inputs are here already, and this process uploads."""
    return config.replace({"fold": fold, "save_checkpoint_path": str(_folder_of(config, fold)),
                           "enable_modelarts": False})


def _folder_of(config: Config, fold: int) -> Path:
    return Path(config.save_checkpoint_path) / f"fold_{fold}"


def _options(config: Config) -> list[str]:
    """The command line of a configuration, with all that the user chose: a checkpoint does not replace these keys."""
    values = config.as_dict()
    return option_words({"platform": config.platform, "recipe": config.recipe, **changed_settings(config),
                         **{key: values[key] for key in config.chosen}})


def _score(config: Config, folder: ImageFolder, fold_of: np.ndarray) -> tuple[MobileNetV2, CrossValidation]:
    """The network that scored, and its logits of every image with the weights of the image's fold.

    These are the last weights of the fold's run: the best ones were chosen by the very images that they would score.

    Raises:
        UserError: a checkpoint cannot be read, or is of other images.
    """
    network: MobileNetV2 | None = None
    logits = np.zeros((len(folder), len(folder.classes)), np.float32)
    histories = []
    for fold in range(config.folds):
        checkpoint = read_checkpoint(_folder_of(config, fold + 1) / f"{LAST}.ckpt")
        positions = np.flatnonzero(fold_of == fold)
        part = folder.part(positions)
        training = _training_on(part, checkpoint.training, checkpoint.path)
        if network is None:
            config = config.adopt(checkpoint.config, *NETWORK_KEYS, where=checkpoint.path)
            # Boost mode and fake quantisation are for training. The plain network has the same weights.
            network = define_net(config.replace({"boost_mode": "O0", "qat": False}), len(folder.classes))
        load_weights(network, checkpoint)
        logits[positions] = _logits(config, network, part)
        histories.append(training.history)
    if network is None:
        raise AssertionError("there are no folds")
    return network, CrossValidation(folder, fold_of, logits, histories)


def _training_on(part: ImageFolder, training: TrainingMetadata | None, path: Path) -> TrainingMetadata:
    """What the run of a checkpoint says of itself, if it was validated on the images of `part`."""
    if training is None or training.eval_images != part.digest():
        raise UserError(f"{path}: was validated on other images than its fold has now; start the same command again")
    return training


def _logits(config: Config, network: MobileNetV2, folder: ImageFolder) -> np.ndarray:
    """N x C float32. If the backbone is frozen, its features are those of the folds' runs."""
    normalisation = NORMALISATIONS[config.normalisation]
    scored: nn.Cell = network
    data: Data
    if config.freeze_layer == "backbone":
        features = pooled_features(network.backbone, folder, config.image_size, config.batch_size, config.num_workers,
                                   ALONE, normalisation, Framing.of(config))
        scored, data = network.head, FeatureData(features, folder.labels, config.batch_size, training=False)
    else:
        data = ImageData(folder, config.image_size, config.batch_size, training=False, num_workers=config.num_workers,
                         normalisation=normalisation, framing=Framing.of(config))
    scored.set_train(False)
    return np.concatenate([scored(inputs).asnumpy()[labels.asnumpy() != IGNORE_INDEX].astype(np.float32)
                           for inputs, labels in data.epoch(0)])
