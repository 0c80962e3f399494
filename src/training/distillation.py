"""Knowledge distillation: the logits of a trained teacher, for the same images that the student sees, as second target.

Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531.
"""
import dataclasses
from collections.abc import Iterator

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.compiled import compiled
from src.data.transforms import train_sizes
from src.dataset import Batch, Data
from src.deployment.model_file import open_model
from src.errors import UserError
from src.files import file_digest
from src.model_utils.config import Config
from src.normalisation import NORMALISATIONS, per_channel
from src.utils import check_classes


class DistillationLoss(nn.Cell):
    """(1 - w) * hard loss + w * T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the images.

    T^2 keeps the gradients of the two parts in proportion at any temperature (section 2 of the paper). Takes N x C
    logits and N x 2C float32 targets as `DistillationDataset` makes them.

    Args:
        hard_loss: maps N x C logits and N x C float32 targets to a scalar.
        config: `kd_weight` is w, the weight of the teacher's part; `kd_temperature` is T.
    """

    def __init__(self, hard_loss: nn.Cell, config: Config) -> None:
        super().__init__()
        self.hard_loss, self.weight, self.temperature = hard_loss, config.kd_weight, config.kd_temperature

    def construct(self, logits: Tensor, targets: Tensor) -> Tensor:
        images, classes = logits.shape
        student = ops.log_softmax(logits.astype(ms.float32) / self.temperature, axis=1)
        teacher = ops.log_softmax(targets[:, classes:] / self.temperature, axis=1)
        divergence = (ops.exp(teacher) * (teacher - student)).sum() / images
        hard = self.hard_loss(logits, targets[:, :classes])
        return (1 - self.weight) * hard + self.weight * self.temperature ** 2 * divergence


class Teacher:
    """The network that `kd_teacher` names, in evaluation mode: a checkpoint of any width, a MINDIR or an ONNX file.

    Args:
        config: the student's.
        classes: the student's.

    Raises:
        UserError: the file cannot be read or has other classes; or the backbone is frozen, so that there are no images
            for the teacher.
    """

    def __init__(self, config: Config, classes: tuple[str, ...]) -> None:
        if config.freeze_layer == "backbone":
            raise UserError("--kd_teacher needs the images of each step, but --freeze_layer backbone trains on "
                            "stored features without images; leave out one of the two")
        # The options of the command line are for the student, so the teacher's file may override all of them.
        self._model = open_model(dataclasses.replace(config, pretrain_ckpt=config.kd_teacher, chosen=frozenset()))
        check_classes(self._model.classes, classes, f"{config.kd_teacher} as a teacher")
        self.num_classes = len(classes)
        self._students = NORMALISATIONS[config.normalisation]
        self._sizes = sorted(set(train_sizes(config)))
        self.digest = file_digest(self._model.path)

    def prepare(self, batch_size: int) -> None:
        """Load the network, and try it on blank images of all sizes that training uses.

        Raises:
            UserError: the teacher does not take images of this size, or has another number of classes.
        """
        self._network = compiled(self._model.network())
        for size in self._sizes:
            try:
                logits = self(Tensor(np.zeros((batch_size, 3, size, size), np.float32)))
            except UserError as error:
                raise UserError(f"{error}; a teacher sees the student's images: set --train_image_size to its size, "
                                "export it for this one, or name its checkpoint, which takes any") from error
            if logits.shape[1:] != (self.num_classes,):
                raise UserError(f"{self._model.path}: as a teacher it must know the {self.num_classes} classes of "
                                f"the images, and it knows {logits.shape[1]}")

    def __call__(self, images: Tensor) -> Tensor:
        """N x C logits of N x 3 x H x W images: normalised for the student, or pixels as uint8."""
        own, is_pixels = self._model.normalisation, images.dtype == ms.uint8
        if is_pixels or own != self._students:
            pixels = images.asnumpy().astype(np.float32)
            if not is_pixels:
                pixels = pixels * per_channel(self._students.pixel_std) + per_channel(self._students.pixel_mean)
            images = Tensor((pixels - per_channel(own.pixel_mean)) / per_channel(own.pixel_std) if own else pixels)
        return self._network(images)


class DistillationDataset:
    """The batches of training data with N x 2C targets: the class probabilities of the labels, then the logits.

    The logits are the teacher's, who sees the same augmented and mixed images as the student.

    Raises:
        UserError: the teacher does not fit the data.
    """

    def __init__(self, data: Data, teacher: Teacher) -> None:
        self.images, self.batch_size, self.steps_per_epoch = data.images, data.batch_size, data.steps_per_epoch
        teacher.prepare(self.batch_size)
        self._data, self._teacher = data, teacher
        self._one_hot = np.eye(teacher.num_classes, dtype=np.float32)

    def replan(self, first_size: int, image_size: int, epochs: int) -> None:
        """As that of the training data."""
        self._data.replan(first_size, image_size, epochs)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0), from a step on: images and float32 targets."""
        for images, labels in self._data.epoch(epoch, first_step):
            probabilities = labels.asnumpy() if labels.ndim == 2 else self._one_hot[labels.asnumpy()]
            yield images, Tensor(np.concatenate([probabilities, self._teacher(images).asnumpy()], axis=1))
