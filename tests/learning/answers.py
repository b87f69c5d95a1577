"""A small federation, its clients' answers by hand, and what a server makes of them."""

import math

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

import omc
from omc.learning.aggregators.controlled import Aggregation
from omc.learning.federation import Federation
from omc.learning.uplinks import Dithered, Grid, Rotated
from omc.learning.uplinks.base import fold_in
from tff_sims.rogues import RogueClients

SGD = tff.learning.optimizers.build_sgdm
FEATURES, CLASSES = 24, 6


DATA = [
    (
        np.random.default_rng(seed).normal(size=(7 + seed, FEATURES)).astype(np.float32),
        np.random.default_rng(seed).integers(0, CLASSES, 7 + seed).astype(np.int32),
    )
    for seed in range(8)
]


def datasets():
    return [tf.data.Dataset.from_tensor_slices(pair).batch(4) for pair in DATA]


def model_fn():
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            tf.keras.Input((FEATURES,)),
            layers.Dense(32, "relu", kernel_initializer=tf.keras.initializers.HeUniform(1)),
            layers.Dense(CLASSES, kernel_initializer=tf.keras.initializers.HeUniform(2)),
        ]
    )
    return tff.learning.models.from_keras_model(
        model,
        input_spec=datasets()[0].element_spec,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def federation(uplink="update", aggregator="mean", policy="INT8", widths=None):
    policy = omc.Policy.of(policy)
    parts = (None, None, uplink, None, widths, "codes", aggregator, None)
    return Federation.of(model_fn, policy, *parts)


def honest(parts, rng, scale=0.01, round_number=3):
    """(answer of one client as arrays, what the server reads of it)."""
    changes = [rng.normal(size=v.shape).astype(np.float32) * scale for v in parts.plan.trainable]
    if isinstance(parts.uplink, Dithered):
        tensors = dithered(parts, changes, rng)
    else:
        tensors = []
        for variable, change in zip(parts.plan.trainable, changes):
            if isinstance(parts.uplink, (Rotated, Grid)):
                result = type("Result", (), {"described": variable})()
                seed = tf.constant(rng.integers(0, 2**31, 2), tf.int32)
                tensors.append(parts.uplink.encode_variable(result, change, seed))
            else:
                tensors.append(change if variable.codec is None else first(variable).encode(change))
    read = [np.asarray(v) for v in parts.uplink.decode(parts.plan.trainable, tensors)]
    answer = [np.array(t) for t in tensors]
    if parts.plan.allocates:
        count = sum(p.partial for p in parts.plan.planned)
        answer.append(np.array([4, *[3] * count, *[1] * count], np.uint8))
    return [*answer, np.int32(round_number)], read


def first(variable):
    return getattr(variable.codec, "codecs", [variable.codec])[0]


def dithered(parts, changes, rng):
    from omc.coding import dither
    from omc.coding import graph as coding

    seed = tf.constant(rng.integers(0, 2**31, 2), tf.int32)
    flat = tf.concat([tf.reshape(c, [-1]) for c in changes], axis=0)
    symbols, contexts, _ = dither.quantize(flat, fold_in(seed, 0), tf.constant(0.004))
    return [seed, tf.constant(0.004), coding.encode(symbols, contexts)]


def cohort(parts, count=7):
    rng = np.random.default_rng(count)
    pairs = [honest(parts, rng, scale=0.01 * (k + 1)) for k in range(count)]
    return [answer for answer, _ in pairs], [read for _, read in pairs]


AGGREGATIONS = {}


def aggregate(parts, answers, weights, state=None, round_number=3):
    if id(parts) not in AGGREGATIONS:  # Traced once; with `parts`, so that no other has its id.
        AGGREGATIONS[id(parts)] = parts, Aggregation(parts)
    _, aggregation = AGGREGATIONS[id(parts)]
    state = parts.aggregator.initial() if state is None else state
    aggregation.begin(state, round_number, parts.plan.initial_allocation())
    for answer, weight in zip(answers, weights):
        aggregation.add(answer, weight)
    mean, total, state, measurements = aggregation.finish()
    return [m.numpy() for m in mean], float(total), state, measurements


def norm(values):
    return math.sqrt(sum(float(np.sum(np.square(v.astype(np.float64)))) for v in values))


def run(build, rounds=3, share=0.0, **parts):
    process = build(
        model_fn, parts.pop("policy", "INT8"), SGD(0.1), client_work=RogueClients(share, 1), **parts
    )
    state, metrics = process.initialize(), []
    for _ in range(rounds):
        output = process.next(state, datasets())
        state = output.state
        metrics.append(output.metrics)
    return [np.asarray(w) for w in process.get_model_weights(state).trainable], metrics
