"""Every key of the configuration, declared once: name, type, default, help, bounds, commands, effect on a result.

A key is a field of `Keys`. Its values stand in `default_config.yaml`, with the reasons for them.
"""
import dataclasses
import math
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from src.errors import UserError

BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
LARGEST = {int: 2 ** 63 - 1, float: 3.4e38}  # the largest numbers that libraries take: int64 and float32
TYPE_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
RULES = {
    "min": (operator.ge, "at least"),
    "max": (operator.le, "at most"),
    "below": (operator.lt, "less than"),
    "multiple_of": (lambda value, bound: value % bound == 0, "a multiple of"),
}

# The commands that read keys.
TRAIN, EVAL, EXPORT, INFER = "train.py", "eval.py", "export.py", "infer.py"
COMMANDS = (TRAIN, EVAL, EXPORT, INFER)
METADATA = "key"  # where a field of `Keys` has its `Key`

Value = TypeVar("Value", bool, int, float, str)


@dataclass(frozen=True)
class Key:
    """What is declared of a key.

    Args:
        default: also gives the type.
        group: the heading of the key in `--help` and in the documents.
        help: a sentence or two.
        commands: those that read the key. The others accept it and ignore it.
        affects_result: whether two training runs that differ in this key alone may have different weights. A run
            resumes from a checkpoint only if these keys have the same values.
        aliases: other names, in YAML files, on the command line and in the metadata of checkpoints.
        choices: the allowed words; any if there are none.
        bounds: a number for some of `RULES`.
    """

    default: bool | int | float | str
    group: str
    help: str
    commands: tuple[str, ...]
    affects_result: bool
    aliases: tuple[str, ...]
    choices: tuple[str, ...]
    bounds: Mapping[str, float]

    def check(self, name: str, value: object, where: str) -> Any:  # noqa: ANN401 - of the type of `default`
        """`value` in the key's type.

        Args:
            name: of the key.
            value: from YAML, JSON or the command line.
            where: it stands, for the error.

        Raises:
            UserError: it has another type, or is out of bounds.
        """
        try:
            typed = _convert(value, type(self.default))
        except (TypeError, ValueError, OverflowError):
            shown = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)
            raise UserError(f"{where}: {name} must be {TYPE_NAMES[type(self.default)]}, not {shown}") from None
        if self.choices:
            choice = next((choice for choice in self.choices if choice.lower() == typed.lower()), None)
            if choice is None:
                raise UserError(f"{where}: {name} must be one of {', '.join(self.choices)}, not {typed!r}")
            return choice
        for rule, bound in self.bounds.items():
            keeps, words = RULES[rule]
            if not keeps(typed, bound):
                raise UserError(f"{where}: {name} must be {words} {bound}, not {typed}")
        return typed


def key(default: Value, group: str, help: str, *, commands: tuple[str, ...] = (TRAIN,), affects_result: bool = True,
        aliases: tuple[str, ...] = (), choices: tuple[str, ...] = (), **bounds: float) -> Value:
    """A field of `Keys`; the arguments are those of `Key`. A key that train.py does not read affects no result."""
    declared = Key(default, group, help, commands, affects_result and TRAIN in commands, aliases, choices, bounds)
    return dataclasses.field(default=default, metadata={METADATA: declared})


RUN = "where and how it runs"
DATA = "data"
AUGMENTATION = "augmentation in training"
NETWORK = "network"
START = "checkpoint and resume"
SCHEDULE = "schedule"
OPTIMIZER = "optimizer"
LOSS = "loss"
PRECISION = "precision"
OUTPUT = "validation, log, checkpoints, reports"
EXPORTED = "export"
PREDICTION = "prediction"
SERVING = "the page to try a model on (docs/serving.md)"
MODELARTS = "on ModelArts (docs/modelarts.md)"


# The keys that are properties of a network: those of a checkpoint are taken over with it.
NETWORK_KEYS = ("width_mult", "padding", "bn_eps", "normalisation", "crop_mode", "crop_pct", "interpolation")


@dataclass(frozen=True)
class Keys:
    """The values of all keys. See `Key` for what is declared of each."""

    platform: str = key("Ascend", RUN, "What the network runs on.",
                        commands=COMMANDS, aliases=("device_target",), choices=("Ascend", "GPU", "CPU"))
    distribute: bool = key(False, RUN, "Work together with the other processes that the launcher started.",
                           commands=(TRAIN, EVAL), affects_result=False,  # the number of ranks is compared
                           aliases=("run_distribute",))
    recipe: str = key("plain", RUN, "Named settings for training, at the end of default_config.yaml. What you set "
                                    "yourself is stronger. On CPU finetune is the default for a network that starts "
                                    "from pretrain_ckpt, if neither freeze_layer nor qat is set.",
                      choices=("plain", "best", "finetune"), affects_result=False)  # the keys that it sets are compared
    seed: int = key(1, RUN, "Seed of the initial weights, the data order, the augmentation and the dropout; in "
                            "export.py of the choice of calibration images.",
                    commands=(TRAIN, EXPORT), min=0, max=2 ** 32 - 1)
    dry_run: bool = key(False, RUN, "Print what a run would do, and do nothing.", affects_result=False)
    jit_level: str = key("O1", RUN, "How far MindSpore's compiler goes on Ascend and GPU: O1 fuses small operators, O0 "
                                    "does not, O2 is the older GE backend of Ascend.",
                         commands=COMMANDS, choices=("O0", "O1", "O2"))
    dataset_sink_mode: bool = key(False, RUN, "Accepted for scripts that set it. Batches are fed one by one on every "
                                              "platform: see docs/devices.md.", affects_result=False)
    device_prefetch: bool = key(False, RUN, "Copy the next batch to an Ascend card while a step computes. MindSpore "
                                            "then runs in PyNative mode with compiled networks. Tried on CPU only, "
                                            "where it gives the same bits: see docs/devices.md.", affects_result=False)
    cpu_kernels: str = key("auto", RUN, "Fast kernels on CPU: auto uses them where they can be built, on fails where "
                                        "they cannot, off uses MindSpore's own.",
                           commands=(TRAIN, EVAL, INFER), choices=("auto", "on", "off"))
    onnx_threads: int = key(0, RUN, "Cores that ONNX Runtime, LiteRT and ncnn use; 0 for all.",
                            commands=COMMANDS, affects_result=False, min=0)

    # Where images are does not affect a result: their digests are compared.
    dataset_path: str = key("", DATA, "A folder with train/ and val/, a folder with one folder of images per class, a "
                                      "list of images with labels (CSV, text, ModelArts manifest), or a zip or tar "
                                      "file of a folder.",
                            commands=(TRAIN, EVAL, EXPORT), affects_result=False)
    eval_dataset_path: str = key("", DATA, "Images to validate on during training; empty for val/ beside train/.",
                                 affects_result=False)
    test_dataset_path: str = key("", DATA, "Images to score once, at the end of training; empty for test/ beside "
                                           "train/.", affects_result=False)
    val_share: float = key(0.0, DATA, "Share of the training images of each class to validate on instead, where the "
                                      "data set has no validation images; 0 for none. Images that look alike stay on "
                                      "one side.",
                           affects_result=False, min=0.0, below=1.0)
    folds: int = key(0, DATA, "Cross-validation for small sets: the training images are divided into so many folds of "
                              "equal classes, and a network is trained for each, on the other folds. It says how sure "
                              "the accuracy is, and which labels may be wrong; 0 for none.",
                     affects_result=False, min=0, max=100)
    fold: int = key(0, DATA, "Train the network of one of these folds alone, from 1; 0 for all of them.",
                    affects_result=False, min=0, max=100)
    group_pattern: str = key("", DATA, "Regular expression: images in whose names it finds the same are not divided by "
                                       "val_share and folds, such as all photos of one plant.", affects_result=False)
    group_column: str = key("", DATA, "The same by a column of the list that dataset_path names.",
                            affects_result=False)
    num_classes: int = key(0, DATA, "Classes of the network; 0 for as many as the training folder or the model has.",
                           commands=COMMANDS, affects_result=False, min=0)
    image_size: int = key(224, DATA, "Height and width of the network's input in pixels.",
                          commands=COMMANDS, aliases=("image_height", "image_width"), min=32, max=8192, multiple_of=32)
    batch_size: int = key(256, DATA, "Images in a batch, on each rank.", commands=COMMANDS, min=1)
    balanced_sampling: bool = key(False, DATA, "An epoch draws as many training images as before, but from all "
                                               "classes equally often. For uneven classes.")
    num_workers: int = key(32, DATA, "Threads that decode and augment images, at most as many as there are cores.",
                           commands=COMMANDS, affects_result=False, min=1)  # but `Run.remarks` tells
    bad_images: str = key("error", DATA, "Images that cannot be read: error stops, skip leaves them out, replace takes "
                                         "another image of the class, ignore does not check.",
                          commands=(TRAIN, EVAL, EXPORT), affects_result=False,
                          choices=("error", "skip", "replace", "ignore"))
    left_out_file: str = key("", DATA, "Text file for the names of all files that are bad or left out, with the "
                                       "reasons; empty for none.",
                             commands=(TRAIN, EVAL, EXPORT), affects_result=False)
    image_cache_gb: float = key(20.0, DATA, "Most that rewritten copies of images may take on the disk, in GB. "
                                            "docs/data.md says which images need a copy.",
                                commands=COMMANDS, affects_result=False, min=0.0)
    enable_cache: bool = key(False, DATA, "Keep the encoded images in a dataset-cache server, which "
                                          "run_train_nfs_cache.sh starts.", affects_result=False)
    cache_session_id: int = key(0, DATA, "Session of that server, as dataset-cache -g prints it.",
                                affects_result=False, min=0, max=2 ** 32 - 1)

    crop_scale: float = key(0.08, AUGMENTATION, "Least share of an image's area that a random crop keeps.",
                            min=0.01, max=1.0)
    flip: float = key(0.5, AUGMENTATION, "Probability of a mirrored view; 0 for text and digits.", min=0.0, max=1.0)
    color_jitter: float = key(0.4, AUGMENTATION, "Brightness, contrast and saturation change by up to this share.",
                              min=0.0, max=1.0)
    auto_augment: str = key("none", AUGMENTATION, "Policy of random changes of colour and shape. It replaces "
                                                  "color_jitter, which then has no effect.",
                            choices=("none", "autoaugment", "randaugment", "trivialaugment"))
    random_erasing: float = key(0.0, AUGMENTATION, "Probability that a rectangle of an image is set to the mean "
                                                   "colour; 0 for never.", min=0.0, max=1.0)
    mixup_alpha: float = key(0.0, AUGMENTATION, "Mixup: images and their labels are blended in pairs, with weights "
                                                "from Beta(alpha, alpha); 0 for none.", min=0.0)
    cutmix_alpha: float = key(0.0, AUGMENTATION, "CutMix: a box of another image is pasted in, its area from "
                                                 "Beta(alpha, alpha); 0 for none. Together with mixup_alpha, each "
                                                 "batch gets one of the two at random.", min=0.0)
    train_image_size: int = key(0, AUGMENTATION, "Height and width of the images in training, in pixels; 0 for "
                                                 "image_size. A random crop shows objects larger than they are in "
                                                 "evaluation, so a somewhat smaller size is faster and often no worse.",
                                min=0, max=8192, multiple_of=32)
    train_image_size_start: int = key(0, AUGMENTATION, "Height and width of the images in the first epoch. They grow "
                                                       "in steps of 32 to train_image_size in the last one; 0 for no "
                                                       "growth.", min=0, max=8192, multiple_of=32)
    multi_scale_min: int = key(0, AUGMENTATION, "Each batch has a random size of multi_scale_min, + 32, ..., "
                                                "multi_scale_max pixels instead of train_image_size; 0 for "
                                                "none.",
                               min=0, max=8192, multiple_of=32)
    multi_scale_max: int = key(0, AUGMENTATION, "See multi_scale_min. batch_size stays the same, so memory must "
                                                "suffice for this size. Each size is compiled when it first comes up: "
                                                "seconds on CPU, minutes on Ascend.",
                               min=0, max=8192, multiple_of=32)
    aug_repeats: int = key(1, AUGMENTATION, "Views of an image in an epoch, which then has as many times fewer images; "
                                            "1 for none.", aliases=("repeated_augmentation",), min=1)

    width_mult: float = key(1.0, NETWORK, "The paper's width multiplier.", commands=COMMANDS, min=0.35, max=1.4)
    padding: str = key("symmetric", NETWORK, "Zeros around images of even sides before a convolution of stride 2: "
                                             "symmetric has them on all sides, as in PyTorch's networks, same only "
                                             "behind and below, as in TensorFlow's.",
                       commands=COMMANDS, choices=("symmetric", "same"))
    bn_eps: float = key(1e-5, NETWORK, "What batch normalisation adds to the variance; 0.001 in TensorFlow's networks.",
                        commands=COMMANDS, min=1e-12, max=1.0)
    normalisation: str = key("imagenet", NETWORK, "Values of the network's input: imagenet subtracts the mean colour "
                                                  "of ImageNet and divides by its deviation, inception makes -1 to 1, "
                                                  "as for TensorFlow's networks.",
                             commands=COMMANDS, choices=("imagenet", "inception"))
    crop_mode: str = key("center", NETWORK, "How evaluation and prediction make a square of an image: center crops the "
                                            "middle, pad shows the whole image on a ground of the mean colour, squash "
                                            "shows it stretched.",
                         commands=COMMANDS, choices=("center", "pad", "squash"))
    crop_pct: float = key(0.875, NETWORK, "Share of an image's shorter side that the crop of crop_mode center keeps.",
                          commands=COMMANDS, min=0.25, max=1.0)  # copies of images have 4 times the network's size
    interpolation: str = key("bilinear", NETWORK, "How evaluation and prediction resize images.",
                             commands=COMMANDS, choices=("bilinear", "bicubic"))
    dropout: float = key(0.0, NETWORK, "Share of the pooled features that are set to zero in training.",
                         min=0.0, below=1.0)

    pretrain_ckpt: str = key("", START, "Checkpoint to start from (train.py), to score (eval.py), to export "
                                        "(export.py) or to predict with (infer.py), or weights of another project: see "
                                        "docs/weights.md. eval.py and infer.py take .mindir, .onnx, .tflite and "
                                        "ncnn's .param files, too.",
                             commands=COMMANDS, aliases=("checkpoint", "ckpt_file", "model"))
    freeze_layer: str = key("none", START, "none trains the whole network, backbone trains the classifier only.",
                            choices=("none", "backbone"))
    filter_head: bool = key(False, START, "Take only the backbone from pretrain_ckpt, for other classes than it was "
                                          "trained on.")
    linear_probe: bool = key(False, START, "Fit the classifier on the features of the backbone first, in seconds, then "
                                           "train the whole network from there. It needs pretrain_ckpt, and has no "
                                           "effect with qat.")
    resume: str = key("auto", START, "auto resumes an interrupted run of the same configuration, and ends at once if "
                                     "it is finished. never begins anew. Or name a checkpoint to resume from.",
                      affects_result=False)

    epoch_size: int = key(200, SCHEDULE, "Passes over the training images.", min=1, max=100000)
    max_minutes: float = key(0.0, SCHEDULE, "Minutes that the run may take, from the start of the process to its end; "
                                            "0 for any time. As many epochs are planned as fit, at most 60 or "
                                            "the epoch_size that you set, "
                                            "and the learning rate falls to its end in them. If not even 3 epochs fit, "
                                            "training takes smaller images, but where you set train_image_size.",
                             min=0.0)
    patience: int = key(0, SCHEDULE, "End the run when so many epochs in turn were not better than the best one by "
                                     "best_metric; 0 for never. The learning rates are those of epoch_size.", min=0)
    warmup_epochs: float = key(4.0, SCHEDULE, "Epochs in which the learning rate rises; may be a fraction.", min=0.0)
    lr_init: float = key(0.0, SCHEDULE, "Learning rate of the first step.", min=0.0)
    lr_max: float = key(0.4, SCHEDULE, "Learning rate after the warm-up.", min=0.0)
    lr_end: float = key(0.0, SCHEDULE, "Learning rate of the last step.", min=0.0)
    lr_base_batch: int = key(2048, SCHEDULE, "Global batch that the learning rates are meant for. They are scaled in "
                                             "proportion to this run's global batch; 0 takes them as they are.", min=0)

    optimizer: str = key("momentum", OPTIMIZER, "momentum is SGD with momentum; adamw is Adam with decoupled weight "
                                                "decay, for which lr_max and weight_decay have other sizes: see "
                                                "docs/recipes.md.", choices=("momentum", "adamw"))
    momentum: float = key(0.9, OPTIMIZER, "Momentum of the optimizer momentum.", min=0.0, below=1.0)
    nesterov: bool = key(False, OPTIMIZER, "Use Nesterov's momentum, with the optimizer momentum.")
    adam_beta1: float = key(0.9, OPTIMIZER, "Decay per step of adamw's mean gradient.", min=0.0, below=1.0)
    adam_beta2: float = key(0.999, OPTIMIZER, "Decay per step of adamw's mean squared gradient.", min=0.0, below=1.0)
    adam_eps: float = key(1e-8, OPTIMIZER, "Added to the root of adamw's mean squared gradient, by which it divides.",
                          min=1e-12)
    layer_decay: float = key(1.0, OPTIMIZER, "Learning rates per depth: each layer's rate is that of the layer behind "
                                             "it times this. The classifier has the rate of the schedule; 1 gives all "
                                             "layers the same.", min=0.0, max=1.0)
    weight_decay: float = key(4e-5, OPTIMIZER, "Weight decay of the convolutions and of the classifier's matrix.",
                              min=0.0)
    norm_bias_decay: bool = key(True, OPTIMIZER, "Decay the gammas and betas of batch norm and the classifier's bias, "
                                                 "too.")
    grad_clip_norm: float = key(0.0, OPTIMIZER, "Largest norm of all gradients of a step together. Larger ones are "
                                                "scaled down to it; 0 for never.", aliases=("clip_norm",), min=0.0)
    grad_accum_steps: int = key(1, OPTIMIZER, "Batches whose mean gradient makes one step. A step is an update of the "
                                              "weights in the log, checkpoints, schedule and averages. It has "
                                              "batch_size x ranks x this many images; batch norm sees batch_size.",
                                aliases=("accumulate_steps",), min=1)
    ema_decay: float = key(0.0, OPTIMIZER, "Decay per step of the averaged weights (EMA), which are then scored and "
                                           "saved, such as 0.9999. In the first n steps it is (1 + n) / (10 + n) if "
                                           "that is less; 0 for none.", min=0.0, below=1.0)
    precise_bn: bool = key(False, OPTIMIZER, "Before an epoch's evaluation, measure batch norm's means and variances "
                                             "anew on up to 1024 training images, with the weights that are scored. "
                                             "For runs of few or small steps.")

    label_smooth: float = key(0.1, LOSS, "Label smoothing: share of the target that is spread over all classes.",
                              min=0.0, below=1.0)
    class_weights: str = key("none", LOSS, "balanced weights each training image by images / (classes x images of its "
                                           "class), so that all classes count the same. For uneven classes.",
                             choices=("none", "balanced"))
    focal_gamma: float = key(0.0, LOSS, "Focal loss: the loss of an image is multiplied by (1 - p)^gamma, where p is "
                                        "the probability of its label; usual is 2, 0 for none.", min=0.0, max=10.0)
    kd_teacher: str = key("", LOSS, "Distillation: a larger network to learn from besides the labels, as a checkpoint, "
                                    "exported file; empty for none.",
                          affects_result=False)  # its digest is compared
    kd_weight: float = key(0.5, LOSS, "Share of the teacher's part of the loss. The labels have the rest.",
                           min=0.0, max=1.0)
    kd_temperature: float = key(3.0, LOSS, "Temperature of the teacher's part: the higher, the more the teacher's "
                                           "unlikely classes count.", min=1.0)

    amp_level: str = key("O3", PRECISION, "Precision: O0 is float32 throughout, O2 is float16 except batch norm, O3 is "
                                          "float16. Weights are float32.",
                         choices=("O0", "O2", "O3"))
    loss_scale: float = key(1024.0, PRECISION, "Factor on the loss under float16, so that small gradients do not "
                                               "vanish.", min=1.0, max=2.0 ** 24)
    loss_scale_window: int = key(0, PRECISION, "Double loss_scale after so many good steps and halve it after an "
                                               "overflow; 0 keeps it.", min=0)
    boost_mode: str = key("O0", PRECISION, "O1 lets MindSpore leave out the batch norms after the expansions (its "
                                           "boost mode less_bn).", choices=("O0", "O1"))
    qat: bool = key(False, PRECISION, "Quantisation-aware training: compute with weights rounded as export.py "
                                      "--quantize int8 rounds them. For some epochs from a trained checkpoint.")
    on_nan: str = key("stop", PRECISION, "What to do after a loss or gradient that is not finite under float32: stop, "
                                         "skip the step, or rollback to the last checkpoint.",
                      affects_result=False, choices=("stop", "skip", "rollback"))

    # What a run writes does not affect its result.
    run_eval: bool = key(True, OUTPUT, "Score the validation images after every epoch.", affects_result=False)
    best_metric: str = key("top1", OUTPUT, "What tells which epoch is the best: top1, balanced_accuracy (every class "
                                           "counts the same), macro_f1 or val_loss.",
                           affects_result=False, choices=("top1", "balanced_accuracy", "macro_f1", "val_loss"))
    unsure_accuracy: float = key(0.95, OUTPUT, "Share of right answers that is wanted of the images that are not "
                                               "unsure: it sets the probability below which infer.py calls an image "
                                               "unsure.",
                                 commands=(TRAIN, EVAL), affects_result=False, min=0.0, max=1.0)
    log_steps: int = key(100, OUTPUT, "A line in the log at least every so many steps.", affects_result=False, min=1)
    save_checkpoint: bool = key(True, OUTPUT, "Keep checkpoints.", affects_result=False)
    save_checkpoint_path: str = key("./checkpoint", OUTPUT, "Folder of the checkpoints.", affects_result=False)
    save_checkpoint_epochs: int = key(1, OUTPUT, "A checkpoint every so many epochs.", affects_result=False, min=1)
    save_checkpoint_steps: int = key(0, OUTPUT, "Also a checkpoint every so many steps within an epoch; 0 for none.",
                                     affects_result=False, min=0)
    keep_checkpoint_max: int = key(10, OUTPUT, "How many of the latest checkpoints to keep, besides best and last.",
                                   affects_result=False, min=1)
    keep_checkpoint_best: int = key(1, OUTPUT, "Also keep the checkpoints of so many best epochs.",
                                    affects_result=False, min=0)
    keep_checkpoint_every: int = key(0, OUTPUT, "Also keep the checkpoint of every so many epochs; 0 for none.",
                                     affects_result=False, min=0)
    confusion_matrix: str = key("", OUTPUT, "PNG file to draw the confusion matrix to; empty for none.",
                                commands=(EVAL,))
    report: str = key("", OUTPUT, "HTML file to write a report to, or True for report.html; empty for none.",
                      commands=(EVAL,))
    tensorboard: bool = key(False, OUTPUT, "Also write event files for TensorBoard.", affects_result=False)
    tracking: str = key("none", OUTPUT, "Also give the curves, the keys and the model card to mlflow or wandb (Weights "
                                        "& Biases, offline unless WANDB_MODE says otherwise). See docs/reports.md.",
                        affects_result=False, choices=("none", "mlflow", "wandb"))
    enable_profiling: bool = key(False, OUTPUT, "Run MindSpore's profiler on some steps, and print where the time "
                                                "goes.", affects_result=False)
    profiling_steps: int = key(10, OUTPUT, "How many steps to profile. They are after the first step and before the "
                                           "epoch's evaluation.", affects_result=False, min=1)

    file_format: str = key("MINDIR", EXPORTED, "Format to write. AIR can be written on Ascend only. COREML, "
                                               "LITE, NCNN and TFLITE need a converter: see docs/deployment.md. "
                                               "WEB is a folder for a web server: see docs/serving.md. "
                                               "MODELARTS is a folder for a service: see docs/modelarts.md.",
                           commands=(EXPORT,),
                           choices=("AIR", "COREML", "LITE", "MINDIR", "MODELARTS", "NCNN", "ONNX", "TFLITE", "WEB"))
    file_name: str = key("mobilenetv2", EXPORTED, "File to write, with or without its ending.", commands=(EXPORT,))
    export_batch_size: int = key(1, EXPORTED, "Images that the graph takes at a time; 0 for any number.",
                                 commands=(EXPORT,), min=0)
    export_normalise: bool = key(False, EXPORTED, "Put the normalisation into the graph, which then takes pixels of 0 "
                                                  "to 255.", commands=(EXPORT,))
    export_softmax: bool = key(False, EXPORTED, "Put a softmax into the graph, which then gives probabilities.",
                               commands=(EXPORT,))
    quantize: str = key("none", EXPORTED, "int8 writes a network of eight-bit numbers, a quarter of the size. It "
                                          "needs file_format ONNX or TFLITE, and calibration.",
                        commands=(EXPORT,), choices=("none", "int8"))
    calibration: str = key("", EXPORTED, "Images to measure the ranges of an int8 network's numbers on: a folder, or a "
                                         "text file that lists images. Labels are not needed.", commands=(EXPORT,))
    calibration_images: int = key(200, EXPORTED, "How many of them to take, chosen by seed.", commands=(EXPORT,), min=1)
    web_runtime: str = key("", EXPORTED, "For file_format WEB: a local file of the npm package onnxruntime-web, of the "
                                         "pinned version; empty to fetch it.", commands=(EXPORT,))

    images: str = key("", PREDICTION, "An image, a folder, or a text file that lists images.",
                      commands=(INFER,), aliases=("pictures",))
    predictions: str = key("./predictions", PREDICTION, "Folder for predictions.csv, .json and .png of infer.py, and "
                                                        "for metrics.json and scored.csv of eval.py.",
                           commands=(EVAL, INFER))
    tta: str = key("none", PREDICTION, "Test-time augmentation: the mean over views of an image. flip adds the mirror "
                                       "image, five_crop adds the four corners. export.py writes it to the JSON.",
                   commands=(EVAL, EXPORT, INFER), choices=("none", "flip", "five_crop"))
    top_k: int = key(5, PREDICTION, "How many of the most likely classes to name.", commands=(INFER,), min=1)
    sort_into: str = key("", PREDICTION, "Folder for copies of the images, in a folder for each predicted class, and "
                                         "one for those that are unsure; empty for none.", commands=(INFER,))
    explain: bool = key(False, PREDICTION, "Also draw where in each image the network saw its class, in the folder "
                                           "explained/ beside the predictions. It needs a checkpoint.",
                        commands=(INFER,))

    serve: bool = key(False, SERVING, "Serve a web page to try the model on, and an HTTP interface, until Ctrl-C.",
                      commands=(INFER,))
    host: str = key("127.0.0.1", SERVING, "Address to listen on. For any other than this machine's own, clients need "
                                          "the token that is printed at the start.", commands=(INFER,))
    port: int = key(8000, SERVING, "Port to listen on; 0 for any free one.", commands=(INFER,), min=0, max=65535)
    upload_mb: float = key(20.0, SERVING, "Largest image that is taken, in MB of 1e6 bytes.", commands=(INFER,),
                           min=0.001, max=1000.0)
    upload_megapixels: float = key(100.0, SERVING, "Largest image that is taken, in megapixels.", commands=(INFER,),
                                   min=0.001, max=1000.0)
    request_seconds: float = key(30.0, SERVING, "Longest time for an upload, and for its answer after that.",
                                 commands=(INFER,), min=0.1, max=3600.0)
    queue_length: int = key(256, SERVING, "Requests that are worked on at the same time. More are refused, and told to "
                                          "come again.", commands=(INFER,), min=1, max=10000)

    enable_modelarts: bool = key(False, MODELARTS, "This is a job on ModelArts: fetch the data first, upload the "
                                                   "output at the end.", commands=COMMANDS, affects_result=False)
    data_url: str = key("", MODELARTS, "obs:// URL or local folder of the images, or of a zip file of them.",
                        commands=COMMANDS, affects_result=False)
    train_url: str = key("", MODELARTS, "obs:// URL or local folder for the output. Training resumes what is there.",
                         commands=COMMANDS, affects_result=False)
    checkpoint_url: str = key("", MODELARTS, "obs:// URL or local path of a checkpoint or of a folder of them.",
                              commands=COMMANDS, affects_result=False)
    data_path: str = key("/cache/data", MODELARTS, "Local folder that data_url is copied to.",
                         commands=COMMANDS, affects_result=False)
    output_path: str = key("/cache/train", MODELARTS, "Local folder of the output, which is uploaded to train_url.",
                           commands=COMMANDS, affects_result=False)
    load_path: str = key("/cache/checkpoint_path", MODELARTS, "Local folder that checkpoint_url is copied to.",
                         commands=COMMANDS, affects_result=False)
    need_modelarts_dataset_unzip: bool = key(False, MODELARTS, "The images are in a zip file in data_url.",
                                             commands=COMMANDS, affects_result=False)
    modelarts_dataset_unzip_name: str = key("", MODELARTS, "Name of that zip file; empty if there is only one.",
                                            commands=COMMANDS, affects_result=False)
    copy_local: bool = key(False, MODELARTS, "Also copy a data_url and checkpoint_url that are local, instead of using "
                                             "them in place.", commands=COMMANDS, affects_result=False)
    copy_tries: int = key(5, MODELARTS, "How often to try a copy.", commands=COMMANDS, affects_result=False, min=1)
    copy_retry_seconds: float = key(5.0, MODELARTS, "Seconds before the second try. The time doubles before each "
                                                    "further one.", commands=COMMANDS, affects_result=False, min=0.0)
    copy_wait_seconds: float = key(7200.0, MODELARTS, "How long the processes of a machine wait for the one that "
                                                      "copies.", commands=COMMANDS, affects_result=False, min=0.0)


KEYS: dict[str, Key] = {field.name: field.metadata[METADATA] for field in dataclasses.fields(Keys)}
ALIASES: dict[str, str] = {alias: name for name, declared in KEYS.items() for alias in declared.aliases}


def with_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that an earlier version stored, with the present names of keys that have been renamed."""
    return {ALIASES.get(name, name): value for name, value in values.items()}


def _convert(value: object, wanted: type) -> Any:  # noqa: ANN401 - as `wanted` says
    """`value` from YAML or the command line in the wanted type; ValueError or TypeError where that loses meaning."""
    if wanted is str:
        if isinstance(value, bool):  # YAML reads a bare on/off as a boolean, where a key means the word
            return "on" if value else "off"
        if isinstance(value, dict | list) or "\0" in str(value):
            raise TypeError
        os.fsencode(str(value))  # many of them are names of files
        return "" if value is None else str(value)
    if wanted is bool:
        return value if isinstance(value, bool) else _boolean(value)
    if isinstance(value, bool):
        raise TypeError
    number = wanted(value)
    if not math.isfinite(number) or (isinstance(value, float) and number != value) or abs(number) > LARGEST[wanted]:
        raise ValueError
    return number


def _boolean(value: object) -> bool:
    word = str(value).strip().lower()
    if word not in BOOLEANS:
        raise ValueError
    return BOOLEANS[word]
