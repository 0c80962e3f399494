"""What makes a run useless or its score wrong, told before it takes time: one line each, with what to change."""
import math
from collections.abc import Iterator, Mapping

import numpy as np

from src.checkpoint.record import History
from src.data.image_folder import ImageFolder
from src.data.transforms import train_sizes
from src.dataset import shard
from src.distributed.world import World
from src.errors import UserError, list_some
from src.files import file_digest
from src.log import logger
from src.lr_generator import lr_scale
from src.metrics import wilson_interval
from src.model_utils.config import Config
from src.names import escape_name

LISTED = 5  # classes or files that a line names
UNEVEN = 5  # times the images of the smallest class
STRIDE = 32  # pixels of an image to one of the last feature map
FEW_VALUES = 4  # of a channel in a batch: batch norm's statistics of fewer are mostly noise
FEW_IMAGES = 100  # to validate on: the interval is then 16 points wide at an accuracy of 80 %
LIKELY = 0.8  # an accuracy to show the width of the interval
MOST_COMPARED = 200_000_000  # bytes of files that are read to find the same content: about a second
# Of lr_max / lr_base_batch. The paper's rate is 0.4 for 2048 images, the CPU profile's 0.005 for 32: 0.0002 for each.
LEAST_RATE, USUAL_RATE, MOST_RATE = 1e-8, 0.4 / 2048, 0.01
# AdamW's is about how far each weight moves in a step, whatever the batch: PyTorch's is 0.001.
MOST_ADAMW_RATE = 0.003
FEW_STEPS = 20  # after fewer a loss tells little
LEARNT = 0.99  # of the loss of guessing: a mean loss above it is no better


def check_run(config: Config, world: World, train_folder: ImageFolder,
              others: Mapping[str, ImageFolder | None]) -> None:
    """Write a warning for each trap that the options and the images are in.

    Args:
        config: of the run.
        world: of the run; rank 0 alone warns.
        train_folder: the images to train on.
        others: those to score, by what they are: "validation", "test".

    Raises:
        UserError: nothing can be learnt, or two options contradict each other.
    """
    refuse_contradictions(config)
    values = _batch_norm_values(config, world, len(train_folder))
    if values == 1:
        raise UserError("batch norm has one value of each channel in a batch (1 image, a last feature map of 1x1), "
                        "so nothing can be learnt; raise --batch_size or --image_size")
    if not world.is_main_process:
        return
    if values and values < FEW_VALUES:
        logger.warning(f"batch norm has only {values} values of each channel in a batch, whose mean and variance are "
                       "noise; raise --batch_size or --image_size")
    for line in (*class_traps(config, train_folder), *rate_traps(config, world), *feed_traps(config)):
        logger.warning(line)
    for what, folder in others.items():
        for line in score_traps(what, folder, train_folder) if folder else ():
            logger.warning(line)


def refuse_contradictions(config: Config) -> None:
    """Raises UserError for options that do not go together."""
    if config.class_weights != "none" and config.balanced_sampling:
        raise UserError(f"--class_weights {config.class_weights} and --balanced_sampling True both make rare classes "
                        "count more, together too much; leave one of them out")
    if config.precise_bn and config.freeze_layer == "backbone":
        raise UserError("--precise_bn True measures the backbone's statistics anew, but --freeze_layer backbone keeps "
                        "them; leave one of them out")
    if config.precise_bn and config.boost_mode == "O1":
        raise UserError("--precise_bn True needs the batch norms that --boost_mode O1 leaves out; give one of them")


def _batch_norm_values(config: Config, world: World, images: int) -> int:
    """Values of a channel in the smallest last feature maps of a batch; 0 if no batch norm is trained."""
    if config.freeze_layer == "backbone":
        return 0
    _, batch_size, _ = shard(images, config.batch_size, True, world.rank, world.rank_size)
    return batch_size * (train_sizes(config)[0] // STRIDE) ** 2


def class_traps(config: Config, folder: ImageFolder) -> Iterator[str]:
    """Lines about training images that are too few of some classes, or too uneven."""
    counts = np.bincount(folder.labels, minlength=len(folder.classes))
    for count, what, advice in ((0, "no training image", "it cannot be learnt; add images, or remove the class"),
                                (1, "one training image", "it can hardly be learnt; add images")):
        if alone := [escape_name(folder.classes[label]) for label in np.flatnonzero(counts == count)]:
            yield f"{folder.root}: {what} of {list_some(alone, LISTED)}: {advice}"
    largest, smallest = int(counts.argmax()), int(np.where(counts > 0, counts, len(folder) + 1).argmin())
    is_treated = config.class_weights != "none" or config.balanced_sampling
    if counts[largest] >= UNEVEN * counts[smallest] and not is_treated:
        most, least = (f"{escape_name(folder.classes[label])} has {counts[label]}" for label in (largest, smallest))
        yield (f"{folder.root}: uneven classes: {most} training images, {least}; if rare classes matter as much, use "
               "--balanced_sampling True or --class_weights balanced, and look at balanced_acc")


def rate_traps(config: Config, world: World) -> Iterator[str]:
    """A line about a learning rate that is far from all that are known to work."""
    base = config.lr_base_batch or config.batch_size  # 0 takes the rate as it is
    rate = config.lr_max / base
    if config.optimizer == "adamw":
        reached = config.lr_max * lr_scale(config, config.batch_size * world.rank_size * config.grad_accum_steps)
        if reached > MOST_ADAMW_RATE:
            yield (f"--optimizer adamw with a learning rate that rises to {reached:.2g} is far too high for most runs, "
                   "and momentum's --lr_max and --weight_decay do not suit it; 0.001 and 0.01 are usual")
    elif not LEAST_RATE <= rate <= MOST_RATE:
        yield (f"--lr_max {config.lr_max:g} for a step of {base} images is far too "
               f"{'high' if rate > MOST_RATE else 'low'} for most runs; {USUAL_RATE * base:.1g} is usual")


def feed_traps(config: Config) -> Iterator[str]:
    """A line if a sink is asked for. MindSpore itself trains without one on a CPU, and does not say so."""
    if config.dataset_sink_mode:
        yield ("--dataset_sink_mode True changes nothing: batches are fed one by one, and made while a step runs; "
               "leave it out (docs/devices.md says why)")


def score_traps(what: str, folder: ImageFolder, train_folder: ImageFolder) -> Iterator[str]:
    """Lines about images to score that are too few to tell anything, or are trained on."""
    images = len(folder)
    if images < FEW_IMAGES:
        right = round(LIKELY * images)
        low, high = wilson_interval(right, images)
        yield (f"{folder.root}: only {images} {what} images: {right} right of {images} would mean an accuracy of "
               f"{low:.0%} to {high:.0%} (95 % interval); small differences tell nothing, use more images")
    if shared := shared_images(train_folder, folder):
        yield (f"{folder.root}: {'all' if len(shared) == images else len(shared)} of the {images} {what} images are "
               f"trained on, too ({list_some(list(map(escape_name, shared)), LISTED)}), so the accuracy will be too "
               "good; remove them on one side, or hold other images out: --val_share 0.2")


def shared_images(train_folder: ImageFolder, other: ImageFolder) -> list[str]:
    """The files of `other` that are training images, too: the same file or, where that is quick, the same content.

    Only files whose size occurs on both sides are read, and none if these are more than `MOST_COMPARED` bytes.
    """
    trained = {f"{train_folder.root}/{file}" for file in train_folder.files}
    same = {position for position, file in enumerate(other.files) if f"{other.root}/{file}" in trained}
    sizes, train_sizes = other.stats[:, 0], train_folder.stats[:, 0]
    alike = [position for position in np.flatnonzero(np.isin(sizes, train_sizes) & (sizes > 0)).tolist()
             if position not in same]
    train_alike = np.flatnonzero(np.isin(train_sizes, sizes[alike]))
    if sizes[alike].sum() + train_sizes[train_alike].sum() <= MOST_COMPARED:
        digests = {_digest(train_folder, position) for position in train_alike} - {None}
        same |= {position for position in alike if _digest(other, position) in digests}
    return [other.files[position] for position in sorted(same)]


def _digest(folder: ImageFolder, position: int) -> str | None:
    """Of an image's content; None if it cannot be read, which is told elsewhere."""
    try:
        return file_digest(folder.root / folder.files[position])
    except OSError:
        return None


def nothing_learnt(config: Config, history: History, classes: int, steps_per_epoch: int) -> str | None:
    """A line if the epoch that has just ended should have a loss below that of guessing, and has not; else None.

    That is asked once: after the first whole epoch behind the warm-up, and `FEW_STEPS` steps. With a teacher the loss
    of guessing is not known.
    """
    first = max(math.ceil(config.warmup_epochs) + 1, math.ceil(FEW_STEPS / steps_per_epoch))
    if len(history) != first or config.kd_teacher:
        return None
    loss, guessing = history[-1]["loss"], math.log(classes) * (1 - 1 / classes) ** config.focal_gamma
    if not loss > LEARNT * guessing:
        return None
    return (f"after {first} epochs the mean loss is {loss:.3f}, and that of guessing is {guessing:.3f}: nothing is "
            "learnt; try another --lr_max, ten times lower or higher, and see whether images are in the right classes")
