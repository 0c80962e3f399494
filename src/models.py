"""The network of a run, the network with the moving average (EMA) of its weights, and the loss."""
import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.cpu_kernels import accelerate
from src.fake_quantization import make_quantization_aware
from src.log import logger
from src.mobilenetV2 import MobileNetV2
from src.model_utils.config import Config

EMA_PREFIX = "ema."
HASH_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2 ** 32)  # of "lowbias32", a 32-bit mixing function, as signed numbers
LEAST_MISSING = 1e-6  # of the probability 1, in the focal loss
LOW_BITS = 0xFFFFFF  # 24 bits: what a float32 holds exactly


def plain_network(config: Config, num_classes: int) -> MobileNetV2:
    """The network of a configuration in stock cells, for any platform and for export."""
    return MobileNetV2(num_classes, config.width_mult, config.dropout, config.padding, config.bn_eps)


def define_net(config: Config, num_classes: int, rank: int = 0) -> MobileNetV2:
    """The network of a configuration, with new weights drawn from its seed, accelerated for its platform."""
    ms.set_seed(config.seed)
    network = plain_network(config, num_classes)
    if config.platform == "CPU" and config.dropout > 0:
        network.head.dropout = ResumableDropout(config.dropout, seed=config.seed * 1009 + rank)
    if message := _prepare(network, config):
        logger.info(message)
    return network


def define_ema(config: Config, network: MobileNetV2) -> MobileNetV2 | None:
    """The network for the moving average of the weights, which starts as a copy; None without `ema_decay`.

    The names of its parameters begin with `EMA_PREFIX`: all parameters of a graph need different names.
    """
    if config.ema_decay == 0:
        return None
    ema = plain_network(config, network.head.classifier.out_channels)
    values = network.parameters_dict()
    for parameter in ema.get_parameters():
        parameter.set_data(values[parameter.name].value())
    ema.update_parameters_name(EMA_PREFIX)
    _prepare(ema, config)
    return ema


def _prepare(network: MobileNetV2, config: Config) -> str:
    """Switch on fake quantisation, the CPU kernels or the boost mode; returns a message for the user, or an empty one.

    The kernels come last: they look at the cells that they replace.
    """
    if config.qat:
        make_quantization_aware(network)
    if config.boost_mode == "O1":
        _boost(network)
    if config.platform != "CPU":
        return ""
    return accelerate(network, "off" if config.boost_mode == "O1" else config.cpu_kernels)


def _boost(network: MobileNetV2) -> None:
    """Let MindSpore's boost mode less_bn leave out the batch norms after the expansions.

    These batch norms are set to the identity and are not trained, so the result is the same with and without them. A
    checkpoint therefore needs no boost mode for evaluation or export.
    """
    for block in network.backbone.blocks:
        if block.expand is not None:
            norm = block.expand.bn
            norm.gamma.set_data(ops.full_like(norm.gamma, math.sqrt(1 + norm.eps)))
            norm.gamma.requires_grad = norm.beta.requires_grad = False
    network.set_boost("less_bn")
    network.add_flags(defer_inline=True)  # without it, inlining the network into the graph of the step loses the flag


class ResumableDropout(nn.Cell):
    """Dropout whose state is a parameter, so that a resumed run draws the same numbers as a run without a stop.

    The state of MindSpore's `nn.Dropout` is inside the kernel and cannot be saved. This one is a counter-based
    generator: it hashes the number of the call and of the element, with operators that wrap around at 32 bits on CPU.
    """

    def __init__(self, p: float, seed: int) -> None:
        super().__init__()
        self.p = p
        self.calls = Parameter(Tensor(0, ms.int32), name="calls", requires_grad=False)
        self.seed = Tensor(seed % 2 ** 31, ms.int32)
        self.low_bits = Tensor(LOW_BITS, ms.int32)
        self.multipliers = [Tensor(m, ms.int32) for m in HASH_MULTIPLIERS]

    def construct(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        call = ops.assign_add(self.calls, Tensor(1, ms.int32))
        bits = self._mix(ops.arange(x.size).astype(ms.int32) + self._mix(self._mix(call) + self.seed))
        uniform = ops.bitwise_and(bits, self.low_bits).astype(ms.float32) / (LOW_BITS + 1)
        return x * (uniform >= self.p).astype(x.dtype).reshape(x.shape) / (1 - self.p)

    def _mix(self, bits: Tensor) -> Tensor:
        for multiplier in self.multipliers:
            bits = ops.bitwise_xor(bits, ops.bitwise_right_shift(bits, Tensor(16, ms.int32))) * multiplier
        return ops.bitwise_xor(bits, ops.bitwise_right_shift(bits, Tensor(15, ms.int32)))


class CrossEntropyWithLabelSmooth(nn.Cell):
    """Mean cross entropy of N x C logits and N int32 labels, the target softened to 1 - s + s/C and s/C.

    Mixed images have N x C float32 targets that sum to 1 instead of labels; they become (1 - s) target + s/C.
    Szegedy et al., "Rethinking the Inception Architecture", section 7, https://arxiv.org/abs/1512.00567.

    With weights or a gamma the cross entropy of each image is multiplied by (sum of y w) (1 - p)^gamma, where p is the
    sum of y softmax(logits), and y is the label as C shares: mixed, but not softened, so that smoothing pulls no image
    to the classes of large weight. The mean is over the images, not over their weights. For labels without smoothing
    this is the focal loss of Lin et al., equation 5, https://arxiv.org/abs/1708.02002.

    Args:
        smooth_factor: s.
        class_weights: w, C float32; None for 1 everywhere.
        focal_gamma: gamma; 0 for the plain cross entropy.
    """

    def __init__(self, smooth_factor: float, class_weights: np.ndarray | None = None, focal_gamma: float = 0.0) -> None:
        super().__init__()
        self.smooth_factor, self.focal_gamma = smooth_factor, focal_gamma
        self.has_class_weights = class_weights is not None
        self.class_weights = Tensor(class_weights, ms.float32) if class_weights is not None else None

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        # Not ops.cross_entropy: its sum depends on the number of threads that MindSpore tries, so a resumed run would
        # report other losses than a run without a stop.
        images, classes = logits.shape
        others = self.smooth_factor / classes
        if labels.ndim == 2:
            targets = labels * (1 - self.smooth_factor) + others
        else:
            targets = ops.one_hot(labels, classes, Tensor(1 - self.smooth_factor + others, ms.float32),
                                  Tensor(others, ms.float32))
        log_probabilities = ops.log_softmax(logits.astype(ms.float32), axis=1)
        losses = targets * log_probabilities
        if self.has_class_weights or self.focal_gamma > 0:
            losses = losses * self._image_weights(log_probabilities, labels)
        return -losses.sum() / images

    def _image_weights(self, log_probabilities: Tensor, labels: Tensor) -> Tensor:
        """N x 1: what the cross entropy of each image is multiplied by."""
        shares = labels if labels.ndim == 2 else ops.one_hot(labels, log_probabilities.shape[1],
                                                             Tensor(1, ms.float32), Tensor(0, ms.float32))
        weights = (shares * self.class_weights).sum(axis=1, keepdims=True) if self.has_class_weights else 1.0
        if self.focal_gamma > 0:
            missing = 1 - (shares * ops.exp(log_probabilities)).sum(axis=1, keepdims=True)
            # At 0 the gradient of a power below 1 is infinite.
            weights = weights * ops.maximum(missing, LEAST_MISSING) ** self.focal_gamma
        return weights


def define_loss(config: Config, labels: np.ndarray, classes: int) -> CrossEntropyWithLabelSmooth:
    """The loss of a configuration, for training images of these labels."""
    weights = balanced_class_weights(labels, classes) if config.class_weights == "balanced" else None
    return CrossEntropyWithLabelSmooth(config.label_smooth, weights, config.focal_gamma)


def balanced_class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """C float32: images / (classes x images of the class), so that all classes together weigh the same.

    The mean over the images is 1. As scikit-learn's `compute_class_weight`, a class without images does not count
    among the classes; its weight is 0.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0).astype(np.float32)
