"""Refuses, before a byte is written, what Keras or OMC could not read back of a nested model.

Keras knows one set of a BatchNorm's weights, and no tables of quantizers: a file of the whole
model, a copy by one, could not be loaded. Importing this module has Keras' writers ask first.
"""

import functools

import tensorflow as tf

from omc.errors import ModelError
from omc.keras.adapters import WRITERS
from omc.keras.nesting import nesting_of
from omc.keras.owners import every_layer


def nested_within(model):
    """The first nested model among a model and what it holds, or None."""
    if not isinstance(model, tf.keras.Model):
        return None
    models = (part for part in every_layer(model) if isinstance(part, tf.keras.Model))
    return next((part for part in models if nesting_of(part) is not None), None)


def check_saved_alone(model):
    """Refuses an artifact of a model that holds a nested one, whose widths it would not have.

    Raises:
        ModelError: Another model in it is nested.
    """
    inner = nested_within(model)
    if inner is not None and inner is not model:
        raise ModelError(
            "model",
            "a model that is nested itself, or not at all",
            f"{model.name!r}, which holds {inner.name!r}, a nested one",
            f"omc.save the model {inner.name!r} by itself, and the outer one before omc.nest.",
        )


def _asking_first(write):
    @functools.wraps(write)
    def asking(model, *args, **kwargs):
        inner = nested_within(model)
        if inner is not None:
            raise ModelError(
                "model",
                "a model of one width, for Keras' own files, copies and pickles",
                f"{inner.name!r}, whose other widths Keras could not load again",
                "use omc.save(model, 'm.omc') and omc.load, or model.save_weights, for a model "
                "that is nested alike; copy before omc.nest.",
            )
        return write(model, *args, **kwargs)

    return asking


for _module, _name in WRITERS:
    setattr(_module, _name, _asking_first(getattr(_module, _name)))
