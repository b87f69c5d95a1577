"""Traces of the Hessian, a variable each, by Hutchinson's estimator (as HAWQ-v2, NeurIPS 2020)."""

from collections.abc import Iterable

import tensorflow as tf

from omc.errors import InputError, InputTypeError


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
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise InputError("probes", "an integer of 1 or more", probes)
    batches = _checked(data)
    value = _loss_function(model, loss)
    sizes = [int(tf.shape(tf.nest.flatten(batch[0])[0])[0]) for batch in batches]
    found = []
    for index, variable in enumerate(variables):
        total = 0.0
        for probe in range(probes):
            for place, (batch, size) in enumerate(zip(batches, sizes)):
                v = _rademacher(variable.shape, (seed, index, probe, place))
                total += size * float(_product(value, batch, variable, v))
        trace = total / (probes * sum(sizes))
        if not abs(trace) < float("inf"):
            got = f"a Hessian with trace {trace} for {variable.name!r}"
            raise InputError("data", "batches with a finite loss", got)
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


def _loss_function(model, loss):
    """(x, y, sample_weight=None) -> scalar loss."""
    if loss is None:
        if getattr(model, "compiled_loss", None) is None:
            tip = "model.compile(optimizer, loss) first, or pass loss."
            raise InputError("loss", "a loss, for the Hessian", "none, nor a compiled model", tip)

        def compiled(x, y, weight=None):
            return model.compute_loss(x, y, model(x, training=False), weight)

        return compiled
    function = tf.keras.losses.get(loss)

    def own(x, y, weight=None):
        prediction = model(x, training=False)
        if isinstance(function, tf.keras.losses.Loss):
            return tf.reduce_mean(function(y, prediction, sample_weight=weight))
        losses = function(y, prediction)
        return tf.reduce_mean(losses if weight is None else losses * tf.cast(weight, losses.dtype))

    return own


def _checked(data):
    """List of batches, each a tuple of tensors or of structures of them."""
    if data is None:
        raise InputError("data", "batches (x, y), for the Hessian", "none")
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise InputError("data", "a few batches", "an endless dataset", "data.take(8), say.")
    batches = list(data) if isinstance(data, Iterable) else [data]
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            got = type(batch).__name__
            tip = "for arrays: [(x, y)], or a dataset of them in batches."
            raise InputTypeError("data", "an iterable of batches (x, y)", got, tip)
    if not batches:
        raise InputError("data", "at least one batch", "none")
    return [tf.nest.map_structure(_tensor, tuple(batch)) for batch in batches]


def _tensor(value):
    return value if value is None else tf.convert_to_tensor(value)  # As fit() hands them on.
