"""Fits the classifier on the features of the frozen backbone, before the whole network is trained.

The gradients of new weights in the classifier would change the backbone's features before they are of any use. Kumar et
al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", section 3.4,
https://arxiv.org/abs/2202.10054.
"""
import time

from mindspore import nn, ops

from src.data.framing import Framing
from src.data.image_folder import ImageFolder
from src.dataset import FeatureData
from src.distributed.world import World
from src.evaluation import evaluate
from src.log import logger
from src.lr_generator import get_lr
from src.mobilenetV2 import MobileNetV2, MobileNetV2Head
from src.model_utils.config import Config
from src.models import CrossEntropyWithLabelSmooth
from src.normalisation import NORMALISATIONS
from src.training.features import pooled_features
from src.training.optimizer import build_optimizer
from src.training.state import TrainingState
from src.training.step import TrainStep

# The features are in memory and a step takes a millisecond, so there is time for many.
LEAST_EPOCHS, LEAST_STEPS = 20, 500
LR_MAX = 0.02  # for BASE_BATCH images
BASE_BATCH = 32
# The loss is convex and has no need of what makes the training of the whole network go well.
PLAIN_STEPS = {"amp_level": "O0", "ema_decay": 0.0, "grad_accum_steps": 1, "grad_clip_norm": 0.0}


def fit_classifier_first(config: Config, state: TrainingState, network: MobileNetV2, ema: MobileNetV2 | None,
                         train_folder: ImageFolder, eval_folder: ImageFolder | None, world: World) -> None:
    """`fit_classifier`, if that is wanted: before the first step of a run that trains the whole of a trained network.

    With `qat` the features are those of rounded weights, and the classifier has been trained before.
    """
    if config.linear_probe and config.pretrain_ckpt and config.freeze_layer == "none" and not config.qat \
            and state.step == 0:
        fit_classifier(config, network, ema, train_folder, eval_folder, world)


def fit_classifier(config: Config, network: MobileNetV2, ema: MobileNetV2 | None, train_folder: ImageFolder,
                   eval_folder: ImageFolder | None, world: World) -> None:
    """Train the classifier of a network alone, and tell what it reaches.

    All ranks must have the same weights, and have the same ones afterwards.

    Args:
        config: of the run.
        network: its classifier is changed. The features are those of its backbone.
        ema: the network with the moving average of the weights, if there is one. Its classifier becomes the same.
        train_folder: the images to fit it on, as evaluation sees them.
        eval_folder: the images to validate on, if there are any.
        world: of the run.
    """
    begin = time.perf_counter()
    head = MobileNetV2Head(network.backbone.out_channels, len(train_folder.classes), dropout=0.0)
    _copy(network.head.classifier, head.classifier)
    train_data = _features(config, network, train_folder, world, training=True)
    epochs = max(LEAST_EPOCHS, -(-LEAST_STEPS // train_data.steps_per_epoch))
    lr = get_lr(0.0, LR_MAX * train_data.batch_size * world.rank_size / BASE_BATCH, 0.0, 1.0, epochs,
                train_data.steps_per_epoch)
    plain = config.replace(PLAIN_STEPS)
    step = TrainStep(head, CrossEntropyWithLabelSmooth(config.label_smooth), build_optimizer(head, lr, plain), plain,
                     world=world)
    step.set_train()
    for epoch in range(epochs):
        for _ in step.over(train_data.epoch(epoch)):
            pass
    for fitted in (network, ema):
        if fitted is not None:
            _copy(head.classifier, fitted.head.classifier)
    reached = [f"{evaluate(head, _features(config, network, folder, world, training=False), world).top1:.2%} of "
               f"{len(folder)} {kind} images" for kind, folder in (("training", train_folder),
                                                                   ("validation", eval_folder)) if folder]
    if world.is_main_process:
        logger.info(f"classifier fitted on the features of the backbone, in {time.perf_counter() - begin:.1f} s: "
                    f"{', '.join(reached)}")


def _features(config: Config, network: MobileNetV2, folder: ImageFolder, world: World, training: bool) -> FeatureData:
    features = pooled_features(network.backbone, folder, config.image_size, config.batch_size, config.num_workers,
                               world, NORMALISATIONS[config.normalisation], Framing.of(config))
    return FeatureData(features, folder.labels, config.batch_size, training=training, seed=config.seed,
                       rank=world.rank, rank_size=world.rank_size)


def _copy(source: nn.Dense, target: nn.Dense) -> None:
    """Copy weights in place: `set_data` does not change a compiled step."""
    ops.assign(target.weight, source.weight)
    ops.assign(target.bias, source.bias)
