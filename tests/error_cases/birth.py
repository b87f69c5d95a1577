"""Mistakes with models that are built compressed."""

from unittest import mock

import numpy as np
import tensorflow as tf

import omc
from tests.error_cases.registry import case

L = tf.keras.layers


def dense(**options):
    return tf.keras.Sequential([tf.keras.Input((64,)), L.Dense(64, **options), L.Dense(64)])


@case("compressed block without a model")
def _(_folder):
    with omc.init_compressed("INT8"):
        pass


@case("compressed block in another")
def _(_folder):
    with omc.init_compressed("INT8"), omc.init_compressed("INT8"):
        pass


@case("initial weights that are NaN")
def _(_folder):
    with omc.init_compressed("INT8"):
        dense(kernel_initializer=tf.constant_initializer(np.nan))


@case("compressed block without room for dense weights")
def _(_folder):
    full = mock.patch("tempfile.TemporaryFile", side_effect=OSError(28, "No space left on device"))
    with full, omc.init_compressed(omc.Policy("INT8", fraction=0.5)):
        dense()
