"""Mistakes with `omc.allocate`."""

import numpy as np
import tensorflow as tf

import omc
from omc.mixed_precision import Exact, PruningGrowing, Solution, traces
from tests.error_cases.registry import case

L = tf.keras.layers
X = np.ones((8, 4), np.float32)


def plain():
    return tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(30), L.Dense(20)])


def mistake(name, **arguments):
    """Registers a call of `omc.allocate` that goes wrong."""
    case(name)(lambda _: omc.allocate(plain(), **arguments))


mistake("budget below the least possible", bits=1.5)
mistake("stored bytes below the least possible", stored_bytes=10)
mistake("wire bytes below the least possible", wire_bytes=10)
mistake("peak below the least possible", peak_bytes=10, step_peak=lambda p: p.stored_bytes)
mistake("no budget")
mistake("budget of another type", bits="3")
mistake("peak budget without a measurement", peak_bytes=10**9)
mistake("unknown strategy", bits=3, strategy="best")
mistake("unknown sensitivity", bits=3, sensitivity="taste")
mistake("no format to allocate", bits=3, formats=[])
mistake("formats of another type", bits=3, formats="INT2")
mistake("allocation with partial quantization", bits=3, policy=omc.Policy("INT8", fraction=0.5))
mistake("policy that quantizes nothing to allocate", bits=3, policy="FP32")
mistake("coder of another type", bits=3, coded_nbytes=3)
mistake("coder that returns no count of bytes", wire_bytes=9000, coded_nbytes=lambda b, c: 0.5)
mistake("budget that no number of float holds", bits=10**400)
mistake("peak that is no count of bytes", peak_bytes=10**6, step_peak=lambda p: None)
mistake("strategy that returns nothing", bits=3, strategy=lambda problem: None)
mistake("strategy beyond a budget", bits=3, strategy=lambda problem: Solution((6, 6)))
mistake("class of a strategy in place of one", bits=3, strategy=PruningGrowing)
mistake("seed of probes of another type", bits=3, seed="a")
mistake("allocation by an unknown loss", bits=3, data=[(X, np.ones((8, 20)))], loss="foo")
mistake("allocation by data that the model does not take", bits=3, data=[(X[:, :2], X)], loss="mse")
mistake("allocation by labels that the loss does not take", bits=3, data=[(X, X)], loss="mse")
mistake("allocation by no examples", bits=3, data=[(X[:0], X[:0])], loss="mse")
mistake("Hessian without data", bits=3, sensitivity="hessian")
mistake("Hessian without a loss", bits=3, data=[(X, np.ones((8, 20)))])


@case("allocating NaN weights")
def _(_):
    model = plain()
    model.layers[0].kernel.assign(model.layers[0].kernel * np.nan)
    omc.allocate(model, bits=3)


@case("allocating an unbuilt model")
def _(_):
    omc.allocate(tf.keras.Sequential([L.Dense(3)]), bits=3)


@case("Hessian of arrays instead of batches")
def _(_):
    model = plain()
    traces(model, model.variables[:1], X, loss="mse")


@case("no probes")
def _(_):
    model = plain()
    traces(model, model.variables[:1], [(X, np.ones((8, 20)))], loss="mse", probes=0)


@case("widths of another number of variables")
def _(_):
    omc.allocate(plain(), bits=3, strategy=PruningGrowing(start=(1, 2, 3)))


@case("widths to begin with that are no numbers")
def _(_):
    PruningGrowing(start=("a", "b"))


@case("time limit of another type")
def _(_):
    Exact(time_limit="a")


@case("picture of an allocation of another kind")
def _(folder):
    omc.allocate(plain(), bits=3).plot(folder / "widths.xyz")


@case("picture of an allocation in no folder")
def _(folder):
    omc.allocate(plain(), bits=3).plot(folder / "nowhere" / "widths.png")
