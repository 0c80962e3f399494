"""TensorFlow's speed with the MobileNetV2 of Keras, as a graph; run by tools/compare_frameworks.py.

Keras pads on other sides and has another epsilon in its batch normalisation, so its logits are not this project's. XLA
(`jit_compile`) stays off: on CPU it makes this network ten times slower.
"""
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors alone
import keras
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.errors import UserError, run_command
from tools.peers.work import Work, work_options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    work = Work.of(work_options(__doc__).parse_args(argv))
    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    array = np.ascontiguousarray(work.images.transpose(0, 2, 3, 1))
    network = keras.applications.MobileNetV2(input_shape=array.shape[1:], weights=None, classifier_activation=None,
                                             classes=work.settings["classes"])
    parameters = sum(int(np.prod(value.shape)) for value in network.trainable_variables)
    if parameters != work.settings["trainable_parameters"]:
        raise UserError(f"not the same work: it has {parameters} parameters to train, this project's network "
                        f"{work.settings['trainable_parameters']}")
    images = tf.constant(array)

    if work.mode == "train":
        targets = tf.one_hot(work.labels, work.settings["classes"])
        loss_fn = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=work.settings["label_smooth"])
        optimizer = keras.optimizers.SGD(work.settings["learning_rate"], work.settings["momentum"],
                                         weight_decay=work.settings["weight_decay"])
        optimizer.build(network.trainable_variables)

        @tf.function
        def step() -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = loss_fn(targets, network(images, training=True))
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
            return loss

        def run() -> np.ndarray:
            return step().numpy()
    else:
        @tf.function
        def evaluate(batch: tf.Tensor) -> tf.Tensor:
            return network(batch, training=False)

        def run() -> np.ndarray:
            return evaluate(images if work.mode == "eval" else tf.constant(array)).numpy()
    packages = ("tensorflow-cpu" if sys.platform == "linux" and os.uname().machine == "x86_64" else "tensorflow",
                "keras", "numpy")
    work.report(run, packages, "Keras's own padding and epsilon: only the number of parameters is compared")


if __name__ == "__main__":
    run_command(main)
