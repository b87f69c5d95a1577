"""Penalties on weights (L1, L2), for which a weight is dense only while one is computed."""

import tensorflow as tf

from omc.keras.rematerialization import compressed, repeated


def penalty(function, *args, **kwargs):
    """function(*args), the loss that a regularizer adds; compressed arguments are dense only in it.

    Args:
        function: Gives a tensor; called again in backward.
        *args: Its arguments, compressed variables among them.
        **kwargs: More arguments.
    """
    mine = compressed(args)
    if not mine or any(variable.lent for variable in mine):
        return function(*args, **kwargs)
    # One penalty after the other, or in a graph all their weights would be dense at once.
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    before = getattr(graph, "_omc_penalty", None)
    loss = repeated(function, args, kwargs, decoded=mine, after=before, early=True)
    if graph is not None and tf.is_tensor(loss):
        graph._omc_penalty = loss
    return loss
