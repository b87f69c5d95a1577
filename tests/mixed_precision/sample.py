"""A small model whose kernels want different formats, and what is measured of it."""

import numpy as np
import tensorflow as tf

from omc.keras.host import variables_of
from omc.mixed_precision import Allocator

L = tf.keras.layers


def build(seed=0):
    tf.keras.utils.set_random_seed(seed)
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 1)),
            L.Conv2D(6, 3),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dense(12, "relu"),
            L.Dense(5),
        ]
    )
    # Kernels of unlike spread and shape, so that formats differ.
    kernels = [v for v in variables_of(model) if "kernel" in v.name]
    for kernel, factor in zip(kernels, (3.0, 1.0, 0.2)):
        kernel.assign(factor * tf.sign(kernel) * tf.abs(kernel) ** (1 + factor))
    return model


MODEL = build()
ALLOCATOR = Allocator(MODEL)
BATCH = [(np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("f4"), np.arange(8) % 5)]
CROSS_ENTROPY = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LEAST = ALLOCATOR.allocate(bits=2).stored_bytes
MOST = ALLOCATOR.allocate(bits=8).stored_bytes
