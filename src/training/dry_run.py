"""Describes a training run without training: nothing is computed and nothing is written."""
import os
from pathlib import Path

from mindspore import nn

from src.checkpoint.names import BEST, LAST, stem
from src.data.image_folder import ImageFolder
from src.data.transforms import Augmentation, train_sizes
from src.dataset import shard
from src.distributed.world import World
from src.lr_generator import run_lr
from src.mobilenetV2 import ConvBN, MobileNetV2
from src.model_utils.config import Config
from src.training.step import count_steps

FLOAT32, FLOAT16 = 4, 2  # bytes
# What launchers and users tell MindSpore and CANN by the environment.
SHOWN_VARIABLES = ("RANK_ID", "RANK_SIZE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT")
PLATFORM_VARIABLES = {
    "Ascend": ("ASCEND_RT_VISIBLE_DEVICES", "DEVICE_ID", "RANK_TABLE_FILE", "HCCL_CONNECT_TIMEOUT",
               "HCCL_EXEC_TIMEOUT"),
    "GPU": ("CUDA_VISIBLE_DEVICES",),
    "CPU": ("OMP_NUM_THREADS", "CPU_KERNELS_MARCH", "CXX"),
}


def describe_run(config: Config, world: World, train_folder: ImageFolder, eval_folder: ImageFolder | None) -> str:
    """A table of a run: platform, data, network, schedule, memory and files."""
    frozen = config.freeze_layer == "backbone"
    _, batch_size, batches = shard(len(train_folder), config.batch_size, True, world.rank, world.rank_size)
    steps, accumulated = count_steps(batches, config), config.grad_accum_steps
    step_images = batch_size * accumulated * world.rank_size
    network = MobileNetV2(len(train_folder.classes), config.width_mult)
    smallest_size, largest_size = train_sizes(config)
    memory = _memory(config, network, len(train_folder), batch_size, largest_size)
    train_net = network.head if frozen else network
    lr = run_lr(config, step_images, steps)
    folder = Path(config.save_checkpoint_path)
    checkpoints = (f"{folder}/{stem(frozen)}-<epoch>_{steps}.ckpt, {LAST}.ckpt"
                   + (f", {BEST}.ckpt" if eval_folder else "") if config.save_checkpoint else "none")
    rows = {
        "recipe": config.recipe,
        "platform": f"{config.platform}, {world.rank_size} rank{'s' * (world.rank_size > 1)}",
        "precision": _precision(config),
        "compiler": f"cpu_kernels {config.cpu_kernels}" if config.platform == "CPU" else
                    f"jit_level {config.jit_level}",
        "environment": _environment(config.platform),
        "images": f"{len(train_folder)} of {len(train_folder.classes)} classes in {train_folder.root}",
        "validation": f"{len(eval_folder)} in {eval_folder.root}" if eval_folder else "none",
        "batch": f"{batch_size} x {world.rank_size}{f' x {accumulated}' * (accumulated > 1)} = {step_images} of "
                 + (f"{smallest_size} to " if smallest_size < largest_size else "") + f"{largest_size} pixels",
        "feed": _feed(config, batch_size, largest_size),
        "steps": f"{steps} per epoch, {config.epoch_size} epochs, {len(lr)} in all"
                 + f", or as many as fit {config.max_minutes:g} minutes" * (config.max_minutes > 0),
        "network": f"MobileNetV2 {config.width_mult}, {_count(network):,} parameters, "
                   f"{multiply_adds(network, config.image_size) / 1e6:,.1f} million multiply-adds an image",
        "trained": f"{'the classifier' if frozen else 'everything'}, {_count(train_net):,} parameters, "
                   f"from {config.pretrain_ckpt or 'new weights'}",
        "teacher": f"{config.kd_teacher}, {config.kd_weight:g} of the loss, at temperature {config.kd_temperature:g}"
                   if config.kd_teacher else "none",
        "learning rate": f"{lr[0]:.6g} at first, {lr.max():.6g} at most, {lr[-1]:.6g} at last",
        "optimizer": _optimizer(config),
        "memory": f"about {memory / 2 ** 20:,.0f} MB for weights, "
                  "gradients, momenta and what the backward pass needs, on each rank",
        "checkpoints": checkpoints,
    }
    return "\n".join(f"{key:14} {value}" for key, value in rows.items())


def _environment(platform: str) -> str:
    names = (*PLATFORM_VARIABLES[platform], *SHOWN_VARIABLES)
    return ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ) or "nothing that counts here"


def _precision(config: Config) -> str:
    """What the forward and backward pass compute in."""
    if config.amp_level == "O0":
        return "O0, float32 throughout"
    adaptive = f", adapted every {config.loss_scale_window} steps" if config.loss_scale_window else ""
    return (f"{config.amp_level}, float16{' but batch norm' if config.amp_level == 'O2' else ''}, weights in float32; "
            f"loss scale {config.loss_scale:g}{adaptive}")


def _optimizer(config: Config) -> str:
    """The optimizer with the numbers of its rule."""
    if config.optimizer == "adamw":
        rule = f"AdamW, betas {config.adam_beta1:g} and {config.adam_beta2:g}, epsilon {config.adam_eps:g}"
    else:
        rule = f"{'Nesterov ' * config.nesterov}momentum {config.momentum:g}"
    where = "" if config.norm_bias_decay else ", none on batch norms and biases"
    depth = f"; each layer's rate is {config.layer_decay:g} of the next one's" * (config.layer_decay != 1)
    return f"{rule}; weight decay {config.weight_decay:g}{where}{depth}"


def _feed(config: Config, batch_size: int, image_size: int) -> str:
    """The bytes of images that go to the device for each batch, and when."""
    ahead = f"a batch ahead on the device: {'on' if config.device_prefetch else 'off'}"
    if config.freeze_layer == "backbone":
        return f"features in memory, {ahead}"
    is_uint8 = Augmentation.of(config).gives_pixels(config.platform)
    size = batch_size * 3 * image_size ** 2 * (1 if is_uint8 else FLOAT32) / 1e6
    return (f"{size:,.1f} MB a batch, {size * config.grad_accum_steps:,.1f} MB a step to each rank, "
            f"{'uint8 pixels' if is_uint8 else 'float32, normalised'}, {ahead}")


def multiply_adds(network: MobileNetV2, image_size: int) -> int:
    """Multiply-adds for one image, as the paper counts them: of the convolutions and the classifier."""
    classifier = network.head.classifier
    return classifier.in_channels * classifier.out_channels + sum(
        pixels * conv.out_channels * conv.in_channels // conv.group * conv.kernel_size[0] * conv.kernel_size[1]
        for conv, pixels in _convolutions(network, image_size))


def _convolutions(network: MobileNetV2, image_size: int) -> list[tuple[nn.Conv2d, int]]:
    """Each convolution in the order of computation, and the pixels of its output."""
    side, found = image_size, []
    for _, cell in network.cells_and_names():
        if isinstance(cell, ConvBN):
            side //= cell.conv.stride[0]
            found.append((cell.conv, side * side))
    return found


def _count(cell: nn.Cell) -> int:
    return sum(parameter.size for parameter in cell.trainable_params())


def _memory(config: Config, network: MobileNetV2, images: int, batch_size: int, image_size: int) -> int:
    """Estimated memory in bytes, without what the device itself needs.

    The backward pass needs the output of each convolution, before and after its batch norm. With a frozen backbone only
    its features stay in memory.
    """
    weights = _count(network) * FLOAT32 * (1 + (config.ema_decay > 0))
    # Gradients, momenta, AdamW's second moments, sums of gradients.
    copies = 2 + (config.optimizer == "adamw") + (config.grad_accum_steps > 1)
    if config.freeze_layer == "backbone":
        return weights + copies * _count(network.head) * FLOAT32 + images * network.backbone.out_channels * FLOAT32
    activations = sum(conv.out_channels * pixels for conv, pixels in _convolutions(network, image_size))
    width = FLOAT32 if config.amp_level == "O0" else FLOAT16
    return weights + copies * _count(network) * FLOAT32 + 2 * batch_size * activations * width
