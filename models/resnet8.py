"""ResNet8 for small pictures, of the benchmark MLPerf Tiny (Banbury et al., arXiv 2106.07597)."""

import tensorflow as tf

from models.norms import normalization

L = tf.keras.layers


def resnet8(input_shape=(32, 32, 3), classes=10, norm="batch", seed=0):
    """Builds ResNet8: a convolution, three stages of one residual block each, average, logits.

        y = relu(shortcut(x) + norm(conv(relu(norm(conv(x))))));  16, 32 and 64 channels

    Stages two and three halve height and width; their shortcut is a 1x1 convolution with stride 2,
    that of stage one the identity. 77,850 trained weights by default. The benchmark's have 336
    more: biases of the convolutions, which the norms' offsets make superfluous.

    The layers with a kernel are named, in their order: stem, stage1_conv1, stage1_conv2,
    stage2_conv1, stage2_conv2, stage2_shortcut, stage3_conv1, stage3_conv2, stage3_shortcut,
    logits. A policy can so give the first and the last a format of their own.

    Args:
        input_shape: (height, width, channels) of a picture.
        classes: Number of logits.
        norm: As in `models.norms.normalization`; "batch" is the benchmark's.
        seed: Seed of the initial weights (He normal).

    Returns:
        Built `tf.keras.Model` from pictures, float32 [batch, height, width, channels], to logits
        [batch, classes].

    Raises:
        ValueError: Unknown `norm`.
    """
    seeds = iter(range(1000 * seed, 1000 * (seed + 1)))

    def convolution(x, name, channels, size=3, stride=1):
        initializer = tf.keras.initializers.HeNormal(seed=next(seeds))
        return L.Conv2D(
            channels,
            size,
            stride,
            "same",
            use_bias=False,
            kernel_initializer=initializer,
            name=name,
        )(x)

    pictures = tf.keras.Input(input_shape)
    x = L.ReLU()(normalization(norm)(convolution(pictures, "stem", 16)))
    for stage, channels in enumerate((16, 32, 64), start=1):
        stride = 1 if stage == 1 else 2
        y = convolution(x, f"stage{stage}_conv1", channels, stride=stride)
        y = L.ReLU()(normalization(norm)(y))
        y = normalization(norm)(convolution(y, f"stage{stage}_conv2", channels))
        if stride == 2:
            x = convolution(x, f"stage{stage}_shortcut", channels, size=1, stride=stride)
        x = L.ReLU()(L.Add()([x, y]))
    initializer = tf.keras.initializers.HeNormal(seed=next(seeds))
    average = L.GlobalAveragePooling2D()(x)
    logits = L.Dense(classes, kernel_initializer=initializer, name="logits")(average)
    return tf.keras.Model(pictures, logits, name="resnet8")
