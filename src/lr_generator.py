"""The learning rate of every step: a line up, then half a cosine down."""
from collections.abc import Sequence

import numpy as np

from src.model_utils.config import Config

LONGEST_WARMUP = 0.1  # of the epochs of a plan


def get_lr(lr_init: float, lr_max: float, lr_end: float, warmup_epochs: float, total_epochs: int,
           steps_per_epoch: int, changes: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    """Learning rates of all steps of a run, float32, `total_epochs * steps_per_epoch` of them.

    The first step of a warm-up has `lr_init`, the first step after it `lr_max`; the last step of the run is the last
    before the cosine would reach `lr_end` (Loshchilov and Hutter, "SGDR", https://arxiv.org/abs/1608.03983).

    `changes` are pairs of epochs that are over and `total_epochs` from there on, which stretch or shorten the rest of
    the cosine.
    """
    total = total_epochs * steps_per_epoch
    warmup = min(total, round(warmup_epochs * steps_per_epoch))
    rising = lr_init + (lr_max - lr_init) * np.arange(warmup) / max(1, warmup)
    progress = np.arange(total - warmup) / max(1, total - warmup)
    for epochs_over, epochs in changes:
        total = epochs * steps_per_epoch
        over, end = max(0, epochs_over * steps_per_epoch - warmup), max(0, total - warmup)
        reached = progress[over] if over < len(progress) else 0.0
        rest = np.arange(end - over) / max(1, end - over)
        progress = np.concatenate([progress[:over], reached + (1 - reached) * rest])
    falling = lr_end + (lr_max - lr_end) * (1 + np.cos(np.pi * progress)) / 2
    return np.concatenate([rising, falling])[:total].astype(np.float32)


def lr_scale(config: Config, global_batch: int) -> float:
    """What the configured learning rates are multiplied by for a step of `global_batch` images: the linear rule.

    An `lr_base_batch` of 0 takes the rates as they are.

    Goyal et al., "Accurate, Large Minibatch SGD", section 2.1, https://arxiv.org/abs/1706.02677.
    """
    return global_batch / config.lr_base_batch if config.lr_base_batch else 1.0


def run_lr(config: Config, global_batch: int, steps_per_epoch: int,
           plans: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    """Learning rates of the steps of a configured run, scaled to its global batch by `lr_scale`.

    `plans` are pairs of epochs that are over and epochs of the run from there on, instead of `epoch_size`. A plan from
    the beginning has a warm-up of a tenth of its epochs at most.
    """
    scale = lr_scale(config, global_batch)
    warmup_epochs, epochs = config.warmup_epochs, config.epoch_size
    if plans and plans[0][0] == 0:
        epochs = plans[0][1]
        warmup_epochs = min(warmup_epochs, LONGEST_WARMUP * epochs)
        plans = plans[1:]
    return get_lr(config.lr_init * scale, config.lr_max * scale, config.lr_end * scale, warmup_epochs, epochs,
                  steps_per_epoch, plans)
