"""What a training step of our own asks of a compiled Keras 3 model."""

import tensorflow as tf


def has_loss(model):
    """Whether a model was compiled with a loss, or has one of its own."""
    own = type(model).compute_loss is not tf.keras.Model.compute_loss
    return model.compiled and bool(model._compile_loss is not None or own or model.losses)


def loss_of(model, x, y, outputs, sample_weights):
    """The compiled loss with penalties, a scalar tensor; the model's log counts it."""
    loss = model._compute_loss(x, y, outputs, sample_weights, training=True)
    examples = tf.shape(tf.nest.flatten(x)[0])[0]
    model._loss_tracker.update_state(loss, sample_weight=examples)
    return loss


def gradients_of(model, loss, sources, tape):
    """Gradients of a loss for the model's optimizer, which takes its loss scale out again: a list.

    Those of what is no weight of the model have the scale taken out here.
    """
    factor = model.optimizer.scale_loss(tf.constant(1.0))
    with tape:
        scaled = loss * tf.cast(factor, loss.dtype)
    found = tape.gradient(scaled, sources)
    weights = {id(weight) for weight in model.trainable_variables}
    return [
        gradient if gradient is None or id(source) in weights else gradient / factor
        for source, gradient in zip(sources, found)
    ]


def logged_loss(model):
    """Mean of what `loss_of` has counted in this epoch."""
    return model._loss_tracker.result()


def build_optimizer(model):
    """Makes the optimizer's slots of all trainable variables."""
    if not model.optimizer.built:
        with tf.init_scope():
            model.optimizer.build(model.trainable_variables)


def accumulates(model):
    """Whether the optimizer sums gradients up over steps, and moves weights after several."""
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return bool(optimizer.gradient_accumulation_steps or inner.gradient_accumulation_steps)


def learning_rate(model):
    """The optimizer's rate now."""
    return model.optimizer.learning_rate


def iterations(model):
    """Steps that the optimizer has taken."""
    return model.optimizer.iterations
