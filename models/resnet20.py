"""ResNet20 for small pictures (He et al., arXiv 1512.03385, section 4.2)."""

import tensorflow as tf

from models.norms import normalization

L = tf.keras.layers
_pad = tf.keras.ops.pad if hasattr(tf.keras, "ops") else tf.pad  # Keras 3's, of symbols; or 2's.


def resnet20(input_shape=(32, 32, 3), classes=10, norm="group", seed=0):
    """Builds ResNet20: a convolution, three stages of three residual blocks, average, logits.

        y = relu(x + norm(conv(relu(norm(conv(x))))));  16, 32 and 64 channels

    The first block of stages two and three halves height and width; its shortcut takes every
    second pixel and fills the new channels with zeros (option A of the paper, without weights).
    270,410 weights by default.

    Args:
        input_shape: (height, width, channels) of a picture.
        classes: Number of logits.
        norm: As in `models.norms.normalization`; "batch" is the paper's.
        seed: Seed of the initial weights (He normal).

    Returns:
        Built `tf.keras.Model` from pictures, float32 [batch, height, width, channels], to logits
        [batch, classes].

    Raises:
        ValueError: Unknown `norm`.
    """
    seeds = iter(range(1000 * seed, 1000 * (seed + 1)))

    def convolution(x, channels, stride=1):
        initializer = tf.keras.initializers.HeNormal(seed=next(seeds))
        convolve = L.Conv2D(
            channels, 3, stride, "same", use_bias=False, kernel_initializer=initializer
        )
        return normalization(norm)(convolve(x))

    pictures = tf.keras.Input(input_shape)
    x = L.ReLU()(convolution(pictures, 16))
    for channels in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and channels > 16 else 1
            y = L.ReLU()(convolution(x, channels, stride))
            y = convolution(y, channels)
            if stride == 2:
                x = _pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [0, channels // 2]])
            x = L.ReLU()(L.Add()([x, y]))
    initializer = tf.keras.initializers.HeNormal(seed=next(seeds))
    logits = L.Dense(classes, kernel_initializer=initializer)(L.GlobalAveragePooling2D()(x))
    return tf.keras.Model(pictures, logits, name="resnet20")
