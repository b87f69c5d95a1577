"""Traces of the Hessian, a variable each, by Hutchinson's estimator (as HAWQ-v2, NeurIPS 2020)."""

import tensorflow as tf

from omc import checks
from omc.errors import InputError
from omc.keras import host
from omc.mixed_precision.objectives import checked_batches, examples_of, loss_function, typed


def traces(model, variables, data, loss=None, probes=16, seed=0):
    """Hutchinson's estimates of tr(d^2 loss / d w^2), w one variable at a time.

        t_l = mean over probes v of v^T H_l v,   v_i = -1 or 1 with equal probability
        H_l v = d(g_l . v) / d w_l,              g_l = d loss / d w_l

    Every probe goes through all batches, with a draw of its own for each; batches count by their
    examples. The model runs as it does in `predict`: no dropout, BatchNorm's moving statistics.

    The variables may be plain or `CompressedVariable`s, whose reads can be differentiated twice;
    then the Hessian is that at the stored values. It is work for a server: while one product is
    computed, activations and the kernels behind the variable are dense.

    Args:
        model: A built `tf.keras.Model`, plain or wrapped.
        variables: Trainable float variables of it.
        data: Iterable of batches (x, y) or (x, y, sample_weight), a tf.data.Dataset for example.
        loss: Keras loss or its name, or a function (y, prediction) -> losses; None for what the
            model was compiled with, penalties of weights included.
        probes: Number of draws of v, int; the estimate's standard error falls by their root.
        seed: Seed of the draws, int; each variable has draws of its own.

    Returns:
        List of floats. A trace may be negative: the model need not be at a minimum.

    Raises:
        InputError: No loss, `probes` below 1, no batches or endless ones, a trace that is NaN or
            Inf.
        InputTypeError: `data` is no iterable of such batches.
    """
    probes = checks.integer("probes", probes, "an integer of 1 or more", 1)
    seed = checks.integer("seed", seed)
    batches = checked_batches(data)
    value = loss_function(model, loss)
    sizes = [examples_of(batch) for batch in batches]
    found = []
    for index, variable in enumerate(map(host.value_of, variables)):
        total = 0.0
        for probe in range(probes):
            for place, (batch, size) in enumerate(zip(batches, sizes)):
                v = _rademacher(variable.shape, (seed, index, probe, place))
                with typed():
                    total += size * float(_product(value, batch, variable, v))
        trace = total / (probes * sum(sizes))
        if not abs(trace) < float("inf"):
            got = f"a Hessian with trace {trace} for {variable.name!r}"
            tip = "smaller inputs, or a float32 loss from logits."
            raise InputError("data", "batches with a finite loss", got, tip)
        found.append(trace)
    if loss is None:
        model.reset_metrics()  # Keras counts every loss that it computes.
    return found


def _product(value, batch, variable, v):
    """v^T H v for one batch; 0 where the loss does not depend on the variable, or linearly."""
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(variable)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(variable)
            losses = value(*batch)
        gradient = inner.gradient(losses, variable)
        if gradient is None:
            return 0.0
        along = tf.reduce_sum(tf.convert_to_tensor(gradient) * v)  # Of embeddings it is sparse.
    product = outer.gradient(along, variable)
    return 0.0 if product is None else tf.reduce_sum(tf.convert_to_tensor(product) * v)


def _rademacher(shape, words):
    seed = tf.constant([words[0] % 2**31, 0], tf.int32)
    for word in words[1:]:
        seed = tf.random.experimental.stateless_fold_in(seed, word, alg="philox")
    draws = tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32, alg="philox")
    return tf.cast(2 * draws - 1, tf.float32)
