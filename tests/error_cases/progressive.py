"""Mistakes with `omc.progressive`."""

import functools

import numpy as np
import tensorflow as tf

import omc
from omc.progressive import Part, Receiver, split
from tests.error_cases.registry import case

L = tf.keras.layers


def plain(width=6):
    tf.keras.utils.set_random_seed(0)
    return tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(width), L.Dense(20)])


@functools.cache
def parts(stages=("INT4", "INT8", "FP32")):
    return split(plain(), list(stages))


def mistake(name, function):
    """Registers a function of no arguments that goes wrong."""
    case(name)(lambda _: function())


mistake("stages of another type", lambda: split(plain(), "INT4"))
mistake("stages that do not grow", lambda: split(plain(), ["INT8", "INT4"]))
mistake("unknown format of a stage", lambda: split(plain(), ["INT9"]))
mistake(
    "stages that end elsewhere than a wrapped model",
    lambda: split(omc.wrap(plain(), "INT8"), ["INT4", "FP32"]),
)
mistake("splitting something else", lambda: split("model", ["INT4"]))
mistake("splitting an unbuilt model", lambda: split(tf.keras.Sequential([L.Dense(3)]), ["INT4"]))
mistake("part that is no bytes", lambda: Part.from_bytes("text"))
mistake("damaged part", lambda: Part.from_bytes(bytes(parts()[0])[:-1]))
mistake("path of a part of another type", lambda: omc.progressive.load(7))
mistake("part for another architecture", lambda: Receiver(plain(7)).apply(parts()[0]))
mistake("part out of order", lambda: Receiver(plain()).apply(parts()[1]))
mistake("applying something else", lambda: Receiver(plain()).apply(7))
mistake("receiving into something else", lambda: Receiver("model"))
mistake("receiving into a wrapped model", lambda: Receiver(omc.wrap(plain(), "INT8")))
mistake("folder of parts of another type", lambda: Receiver(plain(), directory=7))


@case("stage at a width that is not prepared")
def _(_):
    inputs = tf.keras.Input((4,))
    x = L.Dense(6)(L.Dense(6)(L.Dense(6)(inputs)))
    model = omc.nest(tf.keras.Model(inputs, x), (8, 4), np.ones((8, 4), np.float32))
    split(model, ["INT5", "INT8"])


@case("splitting NaN weights")
def _(_):
    model = plain()
    model.layers[0].kernel.assign(model.layers[0].kernel * np.nan)
    split(model, ["INT4"])


@case("part that is not there")
def _(folder):
    omc.progressive.load(folder / "absent.part")


@case("delta for a model that was trained since")
def _(_):
    receiver = Receiver(plain())
    receiver.apply(parts()[0])
    model = receiver.model
    model.compile("sgd", "mse")
    model.fit(tf.ones((8, 4)), tf.ones((8, 20)), verbose=0)
    receiver.apply(parts()[1])


@case("folder of parts that is a file")
def _(folder):
    (folder / "given").write_bytes(b"")
    Receiver(plain(), directory=folder / "given")
