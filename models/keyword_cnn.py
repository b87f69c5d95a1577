"""A small convolutional network that tells which keyword was spoken."""

import tensorflow as tf

from models.norms import normalization

L = tf.keras.layers


def keyword_cnn(
    classes=12,
    features=40,
    frames=None,
    channels=(32, 64, 64, 96),
    norm="group",
    dropout=0.0,
    seed=0,
):
    """Builds 3x3 convolutions with stride 2 over time and features, their mean, and logits.

        x = relu(norm(conv_i(x))), i = 1..n;  logits = mean(x) W + b

    The size of the networks in arXiv 1711.07128 (Hello Edge): 113,000 weights by default. Clips
    are meant to be of one length; silence at their end counts as silence.

    Args:
        classes: Number of logits.
        features: Log-mel features of a frame.
        frames: Frames of a clip, or None for any.
        channels: Channels of each convolution, multiples of 8.
        norm: As in `models.norms.normalization`.
        dropout: Share of the mean that is dropped in training, 0 .. 1.
        seed: Seed of the initial weights (He normal).

    Returns:
        Built `tf.keras.Model` from float32 [batch, frames, features] to logits [batch, classes].

    Raises:
        ValueError: Unknown `norm`.
    """
    clips = tf.keras.Input((frames, features))
    x = L.Reshape((-1 if frames is None else frames, features, 1))(clips)
    for index, size in enumerate(channels):
        initializer = tf.keras.initializers.HeNormal(seed=1000 * seed + index)
        x = L.Conv2D(size, 3, 2, "same", use_bias=False, kernel_initializer=initializer)(x)
        x = L.ReLU()(normalization(norm)(x))
    x = L.Dropout(dropout)(L.GlobalAveragePooling2D()(x))
    initializer = tf.keras.initializers.GlorotUniform(seed=1000 * seed + len(channels))
    logits = L.Dense(classes, kernel_initializer=initializer)(x)
    return tf.keras.Model(clips, logits, name="keyword_cnn")
