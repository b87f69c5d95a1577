"""Mistakes with `omc.progressive`."""

import functools

import numpy as np
import tensorflow as tf

import omc
from omc.progressive import Download, Part, Receiver, commands, split
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
mistake(
    "splitting with data that the model does not take",
    lambda: split(plain(), ["INT4", "FP32"], calibration=np.ones((8, 3), np.float32)),
)
mistake(
    "splitting a nested model with data for statistics",
    lambda: split(
        omc.nest(plain(), (8, 4), np.ones((8, 4), np.float32), fixed=()),
        ["INT4", "INT8"],
        calibration=np.ones((8, 4), np.float32),
    ),
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


# What was learned between two parts.
mistake("keeping what was learned without a folder", lambda: Receiver(plain(), trained="keep"))
mistake("stage to go to without a folder", lambda: Receiver(plain(), stage="INT4"))
mistake("unknown way with a trained model", lambda: Receiver(plain(), trained="forget"))


def kept(folder):
    """A receiver that keeps what it learns, with the base."""
    receiver = Receiver(plain(), folder / "given", trained="keep")
    receiver.apply(parts()[0])
    return receiver


@case("weights that diverged between two parts")
def _(folder):
    receiver = kept(folder)
    buffer = receiver.model.layers[0].kernel.buffer
    codes = buffer.numpy()
    codes[-8:] = 255  # A scale and an offset of NaN.
    buffer.assign(codes)
    receiver.apply(parts()[1])


@case("parts that were altered under a receiver")
def _(folder):
    receiver = kept(folder)
    kernel = receiver.model.layers[0].kernel
    kernel.assign(kernel.numpy() * 2)
    (path,) = (folder / "given").glob("*.part")
    with open(path, "r+b") as file:
        file.seek(-100, 2)
        file.write(b"altered!")
    receiver.apply(parts()[1])


# Other versions.
@functools.cache
def update():
    return split(plain(), ["INT8"], known=parts()[:2])[0]


mistake("known parts of another type", lambda: split(plain(), ["INT8"], known=parts()[0]))
mistake("known parts that make no chain", lambda: split(plain(), ["INT8"], known=parts()[1:]))
mistake("known parts of another architecture", lambda: split(plain(7), ["INT8"], known=parts()))


@case("update of a version that the receiver lacks")
def _(_):
    receiver = Receiver(plain())
    receiver.apply(parts()[0])
    receiver.apply(update())


# Chunks.
mistake("size of chunks of another type", lambda: parts()[0].chunks("64k"))
mistake("size of chunks out of range", lambda: parts()[0].chunks(0))
mistake("begin of chunks out of range", lambda: parts()[0].chunks(start=1 << 40))
mistake("folder of a download of another type", lambda: Download(7))


def begun(folder):
    download = Download(folder / "given")
    download.feed(next(parts()[0].chunks(100)))
    return download


case("chunk of another type")(lambda folder: begun(folder).feed("text"))
case("damaged chunk")(lambda folder: begun(folder).feed(next(parts()[0].chunks(start=100))[:-1]))
case("chunk of another part")(lambda folder: begun(folder).feed(next(parts()[1].chunks())))
case("chunk with a gap before it")(
    lambda folder: begun(folder).feed(next(parts()[0].chunks(start=101)))
)
case("part of which chunks are missing")(lambda folder: begun(folder).finish())


# Commands.
@case("parts of a folder that has none")
def _(folder):
    commands.show([str(folder)])


@case("stage that no part leads to")
def _(folder):
    parts()[0].save(folder / "given")
    commands.apply([str(folder / "given")], str(folder / "model.omc"), stage="INT8")


@case("model to write with another ending")
def _(folder):
    commands.apply([str(folder)], str(folder / "model.h5"))


@case("artifact to split without its architecture")
def _(folder):
    commands.split(str(folder / "model.omc"), "INT4", str(folder / "parts"))


@case("model to split that Keras cannot read")
def _(folder):
    commands.split(str(folder / "absent.keras"), "INT4", str(folder / "parts"))


mistake("architecture that is no model", lambda: commands.built("math:sqrt2"))
mistake("architecture that is something else", lambda: commands.built("os:getcwd"))
