"""What a width of a nested model learns from the next higher one: cross-entropy of their outputs.

Below the highest width the loss of `omc.keras.joint_training` is

    (1 - d) * loss(labels) + d * mean of H(t, y),    H(t, y) = - sum_k t_k log y_k

over the examples and positions that Keras' mask leaves, with the classes' probabilities t of the
higher width and y of this one; of sigmoids, each output's binary cross-entropy.
"""

import tensorflow as tf

from omc.errors import InputError

SOFTMAX, SIGMOID, LOGITS = "softmax", "sigmoid", "logits"

_TINY = 1e-7  # Keras' epsilon.
_OF_PROBABILITIES = {  # Losses by the names that Keras gives their functions and objects.
    "categorical_crossentropy": SOFTMAX,
    "sparse_categorical_crossentropy": SOFTMAX,
    "categorical_focal_crossentropy": SOFTMAX,
    "kl_divergence": SOFTMAX,
    "binary_crossentropy": SIGMOID,
    "binary_focal_crossentropy": SIGMOID,
}
_LOSSES = tf.keras.losses


def cross_entropy(model, teacher, outputs, sample_weights):
    """Mean cross-entropy of outputs against another width's, both over the last axis.

    Args:
        model: The compiled `tf.keras.Model` that they are of.
        teacher: Outputs of the higher width, a tensor; no gradient goes there.
        outputs: Outputs of the lower width, a tensor.
        sample_weights: Weights of the examples or of positions in them, or None.

    Returns:
        float32 [].

    Raises:
        InputError: Several outputs, or one number that is no sigmoid.
    """
    if not tf.is_tensor(outputs):
        tip = "pass distillation=0 to omc.nest for models with several outputs."
        raise InputError("distillation", "one tensor of outputs", type(outputs).__name__, tip)
    mask = getattr(outputs, "_keras_mask", None)
    teacher, outputs = tf.cast(teacher, tf.float32), tf.cast(outputs, tf.float32)
    kind = kind_of_outputs(model)
    if kind == SIGMOID:
        losses = _LOSSES.binary_crossentropy(tf.stop_gradient(teacher), outputs)
    else:
        if outputs.shape[-1] == 1:
            tip = "pass distillation=0 to omc.nest, or give the last layer a sigmoid."
            raise InputError("distillation", "outputs with two classes or more", "one", tip)
        if kind == SOFTMAX:
            teacher, outputs = (tf.math.log(p + _TINY) for p in (teacher, outputs))
        losses = tf.nn.softmax_cross_entropy_with_logits(
            labels=tf.stop_gradient(tf.nn.softmax(teacher)), logits=outputs
        )
    if mask is not None and mask.shape.rank == losses.shape.rank:
        mask = tf.cast(mask, losses.dtype)  # As Keras weighs: the mean is over what it leaves.
        size = tf.cast(tf.size(mask), losses.dtype)
        losses *= mask * tf.math.divide_no_nan(size, tf.reduce_sum(mask))
    if sample_weights is not None:
        sample_weights = tf.cast(sample_weights, losses.dtype)
        while sample_weights.shape.rank > losses.shape.rank and sample_weights.shape[-1] == 1:
            sample_weights = tf.squeeze(sample_weights, [-1])
        while sample_weights.shape.rank < losses.shape.rank:
            sample_weights = sample_weights[..., tf.newaxis]
        losses *= sample_weights
    return tf.reduce_mean(losses)


def kind_of_outputs(model):
    """What a compiled model puts out: SOFTMAX, SIGMOID or LOGITS.

    The last layer's activation says so, and else the loss, where it is one of probabilities: a
    model that is no chain of layers has no last one.

    Args:
        model: A compiled `tf.keras.Model`.
    """
    return _of_layers(model) or _of_loss(getattr(model, "loss", None)) or LOGITS


def _of_layers(model):
    """SOFTMAX or SIGMOID, where the last layer has it, or is a model that has; else None."""
    last = model.layers[-1] if model.layers else None
    if isinstance(last, tf.keras.Model):
        return _of_layers(last)
    if isinstance(last, tf.keras.layers.Softmax):
        return SOFTMAX
    # Keras' own and TensorFlow's, which is called softmax_v2.
    name = getattr(getattr(last, "activation", None), "__name__", "")
    return {"softmax": SOFTMAX, "softmax_v2": SOFTMAX, "sigmoid": SIGMOID}.get(name)


def _of_loss(loss):
    if isinstance(loss, (list, tuple)) and len(loss) == 1:
        return _of_loss(loss[0])
    if isinstance(loss, str):
        loss = _LOSSES.get(loss)
    if isinstance(loss, _LOSSES.Loss):
        config = loss.get_config()
        return None if config.get("from_logits") else _OF_PROBABILITIES.get(config.get("name"))
    return _OF_PROBABILITIES.get(getattr(loss, "__name__", ""))  # A function's default.
