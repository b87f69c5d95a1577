"""Mistakes with clients' widths in a federation."""

import tensorflow as tf
import tensorflow_federated as tff

from omc.alternative_codecs import AlternativeCodec
from omc.codecs import Codec
from omc.formats import Format
from omc.learning import Widths, build_weighted_fed_avg
from tests.error_cases.registry import case

L = tf.keras.layers


def model_fn():
    return tff.learning.models.from_keras_model(
        tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(30), L.Dense(20)]),
        input_spec=(tf.TensorSpec([None, 4]), tf.TensorSpec([None, 20])),
        loss=tf.keras.losses.MeanSquaredError(),
    )


def mistake(name, function, *arguments, **named):
    """Registers a call that goes wrong."""
    case(name)(lambda _: function(*arguments, **named))


def process(**arguments):
    return build_weighted_fed_avg(model_fn, "INT8", **{"uplink": "update", **arguments})


mistake("widths of clients of another type", process, widths="84")
mistake("width of clients that the format lacks", process, widths=(9, 4))
mistake("whole weights at widths below the policy's", process, widths=(8, 4), uplink="weights")
mistake("shares of another number than widths", Widths, (8, 4), shares=(1, 1, 1))
mistake("client with a width that is none", Widths, (8, 4), assigned={7: 3})
mistake(
    "alternatives of equal length", AlternativeCodec, (Codec(Format.parse("INT8"), (4, 4)),) * 2
)
