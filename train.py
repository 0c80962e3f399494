"""Train MobileNetV2: from scratch, the whole network from a checkpoint, or the classifier on a frozen backbone.

    python train.py --platform CPU --dataset_path pictures
    python train.py --platform CPU --dataset_path pictures --pretrain_ckpt mobilenetv2.ckpt --filter_head True
    python train.py --platform CPU --dataset_path pictures --pretrain_ckpt mobilenetv2.ckpt --freeze_layer backbone
    python train.py --platform CPU --dataset_path pictures --pretrain_ckpt mobilenetv2.ckpt --folds 5

Every key of default_config.yaml is an option. Checkpoints, `curves.csv`, `curves.png`, `report.html` and
`MODEL_CARD.md` go to --save_checkpoint_path.
"""
import os
import sys
from pathlib import Path

from src.log import reader_log_level

os.environ.update(reader_log_level(os.environ))  # MindSpore reads it when it is imported, below

from mindspore import nn
from tqdm import tqdm

from src.checkpoint.file import Checkpoint, read_checkpoint
from src.checkpoint.names import BEST, LAST
from src.checkpoint.pretrained import open_pretrained
from src.confidence import check_confidence
from src.data.cache_server import dataset_cache
from src.data.framing import Framing
from src.data.groups import find_groups
from src.data.image_check import scan_checked
from src.data.image_folder import ImageFolder
from src.data.sources import test_source, train_source, validation_source
from src.data.split import hold_out, hold_out_fold
from src.data.transforms import Augmentation, train_sizes
from src.dataset import Data, FeatureData, ImageData
from src.distributed.collectives import any_over_ranks, average_parameters, broadcast_parameters
from src.distributed.device import setup_device
from src.distributed.world import World
from src.errors import UserError, run_command
from src.evaluation import evaluate
from src.lr_generator import run_lr
from src.metrics import EvalResult
from src.mobilenetV2 import MobileNetV2, MobileNetV2Backbone
from src.model_utils.config import Config
from src.model_utils.keys import NETWORK_KEYS
from src.modelarts.job import local_or_modelarts
from src.models import define_ema, define_loss, define_net
from src.normalisation import NORMALISATIONS
from src.training.checkpointer import Checkpointer
from src.training.default_recipe import settle_recipe, with_fitting_epochs
from src.training.distillation import DistillationDataset, DistillationLoss, Teacher
from src.training.dry_run import describe_run
from src.training.features import pooled_features
from src.training.folds import with_folds
from src.training.linear_probe import fit_classifier_first
from src.training.monitor import Monitor
from src.training.nonfinite import NonFiniteGuard
from src.training.optimizer import build_optimizer
from src.training.planner import Planner
from src.training.precise_bn import measure_statistics
from src.training.profiler import StepProfiler
from src.training.reporter import Reporter
from src.training.resume import Run
from src.training.run_checks import check_run
from src.training.signals import StopRequest
from src.training.step import TrainStep, batch_norm_statistics, count_steps
from src.training.timing import EVALUATION, Timing
from src.utils import check_classes, eval_parameters, load_parameters, load_weights


@local_or_modelarts(resumes=True)
@with_folds
def main(config: Config) -> None:
    """Train as the command line says."""
    world = setup_device(config, config.device_prefetch)
    config = settle_recipe(config, world)

    # ---- images
    train_folder, eval_folder, test_folder = load_images(config, world)
    classes = train_folder.classes
    config = with_fitting_epochs(config, len(train_folder), world)

    # ---- network: new weights, or those of a checkpoint
    pretrained = load_pretrained(config)
    config = config.adopt(pretrained.config, *NETWORK_KEYS, where=pretrained.path) if pretrained else config
    teacher = Teacher(config, classes) if config.kd_teacher else None
    if config.dry_run:
        if world.is_main_process:
            print(describe_run(config, world, train_folder, eval_folder))
        return
    network, ema = define_networks(config, pretrained, len(classes), world)

    # ---- what is trained: the whole network on images, or the head on the features of the frozen backbone
    train_net, eval_net = network, ema or network
    if config.freeze_layer == "backbone":
        train_net, eval_net = network.head, eval_net.head
    train_data = data_source(config, world, train_folder, network.backbone, training=True)
    eval_data = data_source(config, world, eval_folder, network.backbone, training=False) if eval_folder else None

    # ---- schedule, loss, optimizer
    steps = count_steps(train_data.steps_per_epoch, config)
    lr = run_lr(config, train_data.batch_size * config.grad_accum_steps * world.rank_size, steps)
    optimizer = build_optimizer(train_net, lr, config)
    loss_fn: nn.Cell = define_loss(config, train_folder.labels, len(classes))
    if teacher:
        train_data, loss_fn = DistillationDataset(train_data, teacher), DistillationLoss(loss_fn, config)
    train_step = TrainStep(train_net, loss_fn, optimizer, config, eval_net if ema else None, world)
    train_step.set_train()

    # ---- restore the last checkpoint of this run, if there is one
    run = Run(config, classes, train_folder.digest(), world.rank_size, steps,
              teacher=teacher.digest if teacher else "",
              eval_images=eval_folder.digest() if eval_folder else "",
              pretrained=pretrained.digest if pretrained else "")
    timing = Timing()
    reporter = Reporter(run, network, ema, train_folder, eval_folder, timing, world)
    checkpointer = Checkpointer(run, train_step, network, ema, timing, world)
    planner = Planner(run, train_step, train_data, lr, eval_data, world)
    state = checkpointer.restore()
    reporter.start(state)
    fit_classifier_first(config, state, network, ema, train_folder, eval_folder, world)
    planner.begin(state, eval_net, len(test_folder) if test_folder else 0)

    # ---- the loop
    bar = tqdm(total=run.planned_epochs(state) * steps, initial=state.step, unit="step", dynamic_ncols=True,
               disable=None if world.is_main_process else True)
    monitor = Monitor(state, lr, config, steps, on_line=reporter.log_step)
    guard = NonFiniteGuard(config, batch_norm_statistics(train_step), checkpointer.roll_back)
    profiler = StepProfiler(config, timing, world)
    stopping = False
    with StopRequest() as stop, bar:
        while not run.is_finished(state) and not stopping:
            epoch, first_step = divmod(state.step, steps)
            monitor.epoch_begin(epoch)
            batches = profiler.watch(timing.batches(train_data.epoch(epoch, first_step * config.grad_accum_steps)))
            for step, (loss, applied) in enumerate(train_step.over(batches, steps - first_step), first_step):
                bad_steps = monitor.step_end(step, loss, applied)
                guard.check(bad_steps, f"step {step} of epoch {epoch}, learning rate {lr[state.step]:g}")
                state.step += 1
                bar.update()
                if step + 1 == steps:
                    break
                stopping = monitor.is_fetched and any_over_ranks(stop.is_wanted, world)
                if stopping or checkpointer.is_due(state):
                    guard.repair_statistics(f"step {step} of epoch {epoch}")
                    checkpointer.save(state)
                if stopping:
                    break
            if stopping:
                break

            mean_loss = monitor.epoch_end()
            guard.repair_statistics(f"the end of epoch {epoch}")
            measure_statistics(eval_net, train_folder, config, world)
            average_parameters(batch_norm_statistics(train_step), world)
            with timing.measure(EVALUATION):
                result = evaluate(eval_net, eval_data, world) if eval_data else None
            state.finish_epoch(mean_loss, float(lr[state.step - 1]), result,
                               check_confidence(result, config.unsure_accuracy) if result else None)
            planner.epoch_end(state)
            reporter.log_epoch(result)
            stopping = any_over_ranks(stop.is_wanted, world)
            saved = checkpointer.save(state) if checkpointer.is_due(state) or stopping else None
            if result and world.is_main_process:
                bar.write(f"result: {result} ckpt={saved or 'none'}")

    # ---- the test images, once: a finished run that has its report has scored them
    test_result = None
    if test_folder and run.is_finished(state) and any_over_ranks(reporter.is_due, world):
        with timing.measure(EVALUATION):
            test_result = score_test(config, test_folder, network, ema, world)

    # ---- the end, or a stop before it
    reporter.finalize(checkpointer.is_saved(state), test_result)
    checkpointer.finalize()
    if not run.is_finished(state):
        sys.exit(stop.exit_status)


def load_pretrained(config: Config) -> Checkpoint | None:
    """The checkpoint that training starts from, if one is named."""
    if config.qat and config.freeze_layer == "backbone":
        raise UserError("--qat True trains the weights of all layers, but --freeze_layer backbone keeps those of the "
                        "backbone; leave one of them out")
    if config.pretrain_ckpt:
        checkpoint = open_pretrained(config.pretrain_ckpt)
        if config.boost_mode == "O1" and checkpoint.config.get("boost_mode") != "O1":
            raise UserError(f"{checkpoint.path}: was trained without boost_mode O1, so it needs the batch norms that "
                            "boost_mode O1 leaves out; use --boost_mode O0, or begin with new weights")
        return checkpoint
    if config.freeze_layer == "backbone":
        raise UserError("--freeze_layer backbone trains a classifier on a trained backbone: name one, "
                        "--pretrain_ckpt imagenet, or a file")
    return None


def define_networks(config: Config, pretrained: Checkpoint | None, classes: int,
                    world: World) -> tuple[MobileNetV2, MobileNetV2 | None]:
    """The network to train, and the one with the moving average of its weights, if that is wanted."""
    network = define_net(config, classes, world.rank)
    if pretrained:
        load_weights(network, pretrained, filter_head=config.filter_head or config.freeze_layer == "backbone")
    return network, define_ema(config, network)


def data_source(config: Config, world: World, folder: ImageFolder, backbone: MobileNetV2Backbone,
                training: bool) -> Data:
    """Batches of a folder: of images, or of their features if the backbone is frozen."""
    augmentation, normalisation = Augmentation.of(config), NORMALISATIONS[config.normalisation]
    if config.freeze_layer == "backbone":
        features = pooled_features(backbone, folder, config.image_size, config.batch_size, config.num_workers, world,
                                   normalisation, Framing.of(config))
        data: Data = FeatureData(features, folder.labels, config.batch_size, training=training, seed=config.seed,
                                 rank=world.rank, rank_size=world.rank_size, balanced=config.balanced_sampling)
    else:
        is_normalised = not (training and augmentation.gives_pixels(config.platform))
        size = train_sizes(config)[1] if training else config.image_size
        data = ImageData(folder, size, config.batch_size, training=training, seed=config.seed,
                         augmentation=augmentation, num_workers=config.num_workers, rank=world.rank,
                         rank_size=world.rank_size, cache=dataset_cache(config),
                         normalisation=normalisation if is_normalised else None, framing=Framing.of(config),
                         epochs=config.epoch_size if training else 1, batches_per_step=config.grad_accum_steps,
                         balanced=config.balanced_sampling, first_size=config.train_image_size_start)
    if training and data.batch_size < config.batch_size:
        print(f"batch_size is {data.batch_size}, not {config.batch_size}: there are no more training images; an "
              "epoch is one step, a smaller --batch_size makes more")
    return data


def load_images(config: Config, world: World) -> tuple[ImageFolder, ImageFolder | None, ImageFolder | None]:
    """The images to train on, to validate on and to test on.

    None instead of a folder where there are no such images, or `run_eval` is off. `val_share` holds images out where
    there are none to validate on. A fold is held out of the training images, and others are not used. Checks that the
    classes agree, and tells what there is, and what will go wrong.
    """
    Augmentation.of(config)  # raises UserError for options that do not go together, before an image is read
    source = train_source(config.dataset_path)
    train_folder = scan_checked(source, config, world, training=not config.folds)  # an image counts once in its fold
    if config.num_classes not in {0, len(train_folder.classes)}:
        raise UserError(f"num_classes is {config.num_classes}, but {train_folder.root} has "
                        f"{len(train_folder.classes)} classes; leave num_classes out, or set it to that")
    sources = (validation_source(config.dataset_path, config.eval_dataset_path),
               test_source(config.dataset_path, config.test_dataset_path)
               ) if config.run_eval and not config.folds else (None, None)
    eval_folder, test_folder = (scan_checked(source, config, world, training=False) if source else None
                                for source in sources)
    for folder in eval_folder, test_folder:
        if folder:
            check_classes(train_folder.classes, folder.classes, folder.root)
    groups = find_groups(train_folder.files, source.path, config.group_pattern, config.group_column)
    if config.folds:
        print(f"{train_folder.root}: fold {config.fold} of {config.folds} is held out to validate on, chosen by names "
              f"and seed {config.seed}")
        train_folder, eval_folder = hold_out_fold(train_folder, config.folds, config.fold, config.seed, groups)
    elif config.run_eval and config.val_share and not eval_folder:
        print(f"{train_folder.root}: no validation images; {config.val_share:.0%} of each class are held out to "
              f"validate on, chosen by names and seed {config.seed}")
        train_folder, eval_folder = hold_out(train_folder, config.val_share, config.seed, world, groups)
    print(f"{len(train_folder)} training images of {len(train_folder.classes)} classes in {train_folder.root}; "
          + (f"{len(eval_folder)} to validate on in {eval_folder.root}" if eval_folder else
             f"no validation{' (--val_share 0.2 would hold images out)' if config.run_eval else ''}")
          + (f"; {len(test_folder)} to test on in {test_folder.root}" if test_folder else ""))
    check_run(config, world, train_folder, {"validation": eval_folder, "test": test_folder})
    return train_folder, eval_folder, test_folder


def score_test(config: Config, folder: ImageFolder, network: MobileNetV2,
               ema: MobileNetV2 | None, world: World) -> EvalResult:
    """Score the best weights of the run on the test images; the last ones if no checkpoint has the best.

    The weights of the network that is evaluated, `ema` if there is one, become the best ones.
    """
    data = data_source(config, world, folder, network.backbone, training=False)
    parameters, eval_net = eval_parameters(network, ema), ema or network
    path = Path(config.save_checkpoint_path) / f"{BEST}.ckpt"
    has_best = config.save_checkpoint and any_over_ranks(world.is_main_process and path.is_file(), world)
    if has_best and world.is_main_process:
        load_parameters(parameters, read_checkpoint(path))
    broadcast_parameters(parameters.values(), world)
    result = evaluate(eval_net.head if config.freeze_layer == "backbone" else eval_net, data, world)
    if world.is_main_process:
        print(f"test result: {result} of the {BEST if has_best else LAST} weights")
    return result


if __name__ == "__main__":
    run_command(main)
