"""Conformers for speech recognition by CTC, of whole utterances or of streams."""

import tensorflow as tf

from models.conformer_layers import Block, Subsampling, glorot, relative_positions, size_of

_TINY = {"width": 80, "heads": 4, "depth": 2, "kernel": 15, "channels": 16}
_SMALL = {"width": 96, "heads": 4, "depth": 4, "kernel": 15, "channels": 32}
_LARGE = {"width": 512, "heads": 8, "depth": 17, "kernel": 32}

CONFORMERS = {
    "tiny": _TINY,
    "small": _SMALL,
    "large": _LARGE,
    "streaming_tiny": {**_TINY, "streaming": True},
    "streaming_small": {**_SMALL, "streaming": True},
    "streaming_large": {**_LARGE, "depth": 20, "streaming": True},
}
"""Name -> arguments of `conformer`. With 80 features and 4096 outputs, "large" has 118 M weights:
the encoder of Conformer-L (arXiv 2005.08100, table 1; 118.8 M with its transducer's decoder, in
place of which stands a CTC head)."""


class Conformer(tf.keras.Model):
    """A Conformer encoder with a CTC head, subclassed from `tf.keras.Model`.

        x = subsample(features);  x = block_i(x), i = 1..depth;  logits = x W + b

    Frames that are zero in all features are padding and do not influence the others. Normalisation
    is GroupNorm where the paper has BatchNorm, as federated training needs.

    Args:
        outputs: Number of logits, the blank among them.
        width: Features of every block; a multiple of 8 and of `heads`.
        heads: Attention heads.
        depth: Number of blocks; they are called "block_0", "block_1", ...
        kernel: Frames of the depthwise convolutions.
        left_context: None, or frames of the blocks (four of the input) that each sees back.
        channels: Channels of the subsampling convolutions; `width` when None.
        dropout: Share that is dropped in training, see `models.conformer_layers.Block`.
        seed: Seed of the initial weights.
        name: Name of the model.

    Input shape: float32 [batch, frames, features].
    Output shape: float32 [batch, ceil(frames / 4), outputs].
    """

    def __init__(
        self,
        outputs,
        width=144,
        heads=4,
        depth=4,
        kernel=15,
        left_context=None,
        channels=None,
        dropout=0.0,
        seed=0,
        name="conformer",
    ):
        super().__init__(name=name)
        self.width, self.left_context = width, left_context
        causal, seed = left_context is not None, 10_000 * seed
        self.subsampling = Subsampling(channels or width, width, causal, seed, name="subsampling")
        self.dropout = tf.keras.layers.Dropout(dropout)
        self.blocks = [
            Block(
                width,
                heads,
                kernel,
                left_context,
                dropout,
                seed + 20 * index,
                name=f"block_{index - 1}",
            )
            for index in range(1, depth + 1)
        ]
        self.logits = tf.keras.layers.Dense(
            outputs, kernel_initializer=glorot(seed + 20 * (depth + 1)), name="logits"
        )

    def call(self, features, training=None):
        """Returns the logits of each frame, float32 [batch, ceil(frames / 4), outputs]."""
        x, valid, _ = self.subsampling(features, _valid(features))
        x = self.dropout(x, training=training)
        frames = size_of(x, 1)
        positions = relative_positions(frames, frames, self.width, self.left_context is not None)
        for block in self.blocks:
            x = block(x, valid, positions, training=training)
        return self.logits(x)


class StreamingConformer(Conformer):
    """A Conformer that never looks ahead, so that it can follow speech as it comes.

    Convolutions are causal, a frame sees `left_context` frames before it, and each frame is
    normalised by itself. Called on a whole utterance it gives what `step` gives chunk by chunk:

        state = model.initial_state(batch=1)
        logits, state = model.step(features[:, :40], state)
        logits, state = model.step(features[:, 40:80], state)

    Arguments and shapes as `Conformer`, where `left_context` is a number.
    """

    def initial_state(self, batch):
        """State in front of the first frame.

        Args:
            batch: Number of streams, int.

        Returns:
            Nest of tensors; their shapes do not change from step to step.
        """
        blocks = tuple(block.initial_state(batch) for block in self.blocks)
        return self.subsampling.initial_state(batch), blocks

    def step(self, chunk, state):
        """Logits of frames that follow others, without dropout.

        Args:
            chunk: float32 [batch, frames, features]; frames is a multiple of 4 but for the last
                chunk of a stream.
            state: From `initial_state` or the step before.

        Returns:
            (logits, state): float32 [batch, ceil(frames / 4), outputs], and what the next step
            needs.
        """
        subsampled, pasts = state
        x, valid, subsampled = self.subsampling(chunk, _valid(chunk), subsampled)
        frames = size_of(x, 1)
        positions = relative_positions(frames, frames + self.left_context, self.width, causal=True)
        kept = []
        for block, past in zip(self.blocks, pasts):
            x, past = block.step(x, valid, positions, past, training=False)
            kept.append(past)
        return self.logits(x), (subsampled, tuple(kept))


def conformer(outputs, features=80, streaming=False, left_context=64, **sizes):
    """Builds a `Conformer` or `StreamingConformer`; 2.5 M weights by default.

        models.conformer(32, features=40, **models.CONFORMERS["small"])

    Args:
        outputs: Number of logits, the blank among them.
        features: Features of a frame.
        streaming: Whether the model never looks ahead.
        left_context: For a streaming one, frames (of four of the input) that each sees back.
        **sizes: The other arguments of `Conformer`.

    Returns:
        Built model from float32 [batch, frames, features] to float32 logits
        [batch, ceil(frames / 4), outputs].
    """
    kind = StreamingConformer if streaming else Conformer
    model = kind(outputs, left_context=left_context if streaming else None, **sizes)
    model(tf.zeros([1, 8, features]))
    return model


def _valid(features):
    """Which frames are no padding, bool [batch, frames]."""
    return tf.reduce_any(tf.not_equal(features, 0.0), 2)
