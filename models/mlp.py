"""A multilayer perceptron: flat input, dense layers of one width, logits."""

import tensorflow as tf


def mlp(input_shape=(64,), classes=10, width=256, depth=4, seed=0):
    """Builds `depth` dense ReLU layers and a dense logit layer; 220,000 weights by default.

    Args:
        input_shape: Shape of one example; flattened.
        classes: Number of logits.
        width: Units of every hidden layer.
        depth: Number of hidden layers.
        seed: Seed of the initial weights (He uniform).

    Returns:
        Built `tf.keras.Model` from examples [batch, *input_shape] to logits [batch, classes].
    """
    layers = tf.keras.layers

    def dense(units, activation, index):
        initializer = tf.keras.initializers.HeUniform(seed=1000 * seed + index)
        return layers.Dense(units, activation, kernel_initializer=initializer)

    hidden = [dense(width, "relu", index) for index in range(depth)]
    return tf.keras.Sequential(
        [tf.keras.Input(input_shape), layers.Flatten(), *hidden, dense(classes, None, depth)],
        name="mlp",
    )
