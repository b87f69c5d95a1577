"""What a training step of our own asks of a compiled Keras 2 model."""

import tensorflow as tf

from omc.keras.keras2.optimizers import refuse_legacy, slim


def has_loss(model):
    """Whether a model was compiled, which gives it a loss, if only of its penalties."""
    return getattr(model, "compiled_loss", None) is not None


def loss_of(model, x, y, outputs, sample_weights):
    """The compiled loss with penalties, a scalar tensor; the model's log counts it."""
    return model.compute_loss(x, y, outputs, sample_weights)


def gradients_of(model, loss, sources, tape):
    """Gradients of a loss, under the optimizer's loss scale: a list, one each, some None."""
    return [gradient for gradient, _ in model.optimizer.compute_gradients(loss, sources, tape)]


def logged_loss(model):
    """Mean of what `loss_of` has counted in this epoch."""
    return model.compiled_loss.metrics[0].result()


def build_optimizer(model):
    """Makes the optimizer's slots of all trainable variables.

    Raises:
        InputTypeError: It is a legacy one.
    """
    if isinstance(model.optimizer, tf.keras.optimizers.legacy.Optimizer):
        refuse_legacy(model.optimizer)
    inner = _inner(model)
    if not getattr(inner, "_built", False):
        slim(inner)
        with tf.init_scope():
            inner.build(model.trainable_variables)


def accumulates(model):
    """Whether the optimizer sums gradients up over steps: none of Keras 2 does."""
    return False


def learning_rate(model):
    """The optimizer's rate now."""
    return _inner(model).learning_rate


def iterations(model):
    """Steps that the optimizer has taken."""
    return _inner(model).iterations


def _inner(model):
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)
