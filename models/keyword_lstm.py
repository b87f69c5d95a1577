"""A small recurrent network that tells which keyword was spoken."""

import tensorflow as tf

L = tf.keras.layers


def keyword_lstm(classes=12, features=40, frames=None, units=96, depth=2, seed=0):
    """Builds LSTM layers and the logits of what the last one knows at the end.

        x = LSTM_i(x), i = 1..depth;  logits = x_last W + b

    The size of the networks in arXiv 1711.07128 (Hello Edge): 128,000 weights by default. Frames
    that are zero in all features are padding: the LSTMs skip them.

    Args:
        classes: Number of logits.
        features: Log-mel features of a frame.
        frames: Frames of a clip, or None for any.
        units: Units of every LSTM.
        depth: Number of LSTM layers.
        seed: Seed of the initial weights.

    Returns:
        Built `tf.keras.Model` from float32 [batch, frames, features] to logits [batch, classes].
    """
    clips = tf.keras.Input((frames, features))
    x = L.Masking()(clips)
    for index in range(depth):
        x = L.LSTM(
            units,
            return_sequences=index < depth - 1,
            kernel_initializer=tf.keras.initializers.GlorotUniform(1000 * seed + 2 * index),
            recurrent_initializer=tf.keras.initializers.Orthogonal(
                seed=1000 * seed + 2 * index + 1
            ),
        )(x)
    initializer = tf.keras.initializers.GlorotUniform(1000 * seed + 2 * depth)
    logits = L.Dense(classes, kernel_initializer=initializer)(x)
    return tf.keras.Model(clips, logits, name="keyword_lstm")
