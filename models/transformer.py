"""A causal transformer language model as subclassed Keras models."""

import tensorflow as tf


class Block(tf.keras.layers.Layer):
    """One pre-norm transformer block, shape [batch, length, width] to the same.

    x = x + attention(norm(x)),  then  x = x + W2 gelu(W1 norm(x) + b1) + b2

    Args:
        width: Features.
        heads: Attention heads; divides `width`.
        hidden: Features between W1 and W2.
        dropout: Share of each branch's result that is dropped in training, 0 .. 1.
        seed: Seed of the initial weights.
    """

    def __init__(self, width, heads, hidden, dropout=0.0, seed=0, **options):
        super().__init__(**options)
        layers = tf.keras.layers

        def glorot(index):
            return tf.keras.initializers.GlorotUniform(seed=10 * seed + index)

        self.attention_norm = layers.LayerNormalization(epsilon=1e-6)
        self.attention = layers.MultiHeadAttention(
            heads, width // heads, kernel_initializer=glorot(1)
        )
        self.feed_norm = layers.LayerNormalization(epsilon=1e-6)
        self.expand = layers.EinsumDense(
            "abc,cd->abd", (None, hidden), "gelu", bias_axes="d", kernel_initializer=glorot(2)
        )
        self.project = layers.Dense(width, kernel_initializer=glorot(3))
        self.dropout = layers.Dropout(dropout)

    def call(self, x, training=None):
        """Returns the block's result, float32 [batch, length, width]."""
        normed = self.attention_norm(x)
        attended = self.attention(normed, normed, use_causal_mask=True)
        x = x + self.dropout(attended, training=training)
        fed = self.project(self.expand(self.feed_norm(x)))
        return x + self.dropout(fed, training=training)


class Transformer(tf.keras.Model):
    """A causal language model with learned positions, subclassed from `tf.keras.Model`.

    x = E[tokens] + P;  x = block_i(x), i = 1..depth;  logits = norm(x) E^T, or norm(x) W + b untied

    Args:
        vocabulary: Number of tokens.
        length: Most tokens in a sequence.
        width: Features of every layer.
        heads: Attention heads; divides `width`.
        depth: Number of blocks.
        hidden: Features inside a block's feed-forward part; 4 * width when None.
        tied: Whether the logits use the embedding once more, transposed.
        dropout: Share of each branch's result that is dropped in training, 0 .. 1.
        seed: Seed of the initial weights.

    Input shape: int32 [batch, n], n <= length. Output shape: float32 [batch, n, vocabulary].
    """

    def __init__(
        self,
        vocabulary,
        length,
        width=256,
        heads=4,
        depth=4,
        hidden=None,
        tied=True,
        dropout=0.0,
        seed=0,
    ):
        super().__init__(name="transformer")
        layers = tf.keras.layers

        def normal(index):
            return tf.keras.initializers.RandomNormal(stddev=0.02, seed=1000 * seed + index)

        self.tokens = layers.Embedding(vocabulary, width, embeddings_initializer=normal(1))
        self.positions = layers.Embedding(length, width, embeddings_initializer=normal(2))
        self.blocks = [
            Block(width, heads, hidden or 4 * width, dropout, 100 * seed + index)
            for index in range(depth)
        ]
        self.norm = layers.LayerNormalization(epsilon=1e-6)
        self.logits = None if tied else layers.Dense(vocabulary, kernel_initializer=normal(3))

    def call(self, tokens, training=None):
        """Returns the logits of the token that follows each, float32 [batch, n, vocabulary]."""
        x = self.tokens(tokens) + self.positions(tf.range(tf.shape(tokens)[1]))
        for block in self.blocks:
            x = block(x, training=training)
        x = self.norm(x)
        if self.logits is not None:
            return self.logits(x)
        flat = tf.reshape(x, [-1, x.shape[-1]])
        scores = tf.matmul(flat, self.tokens.embeddings, transpose_b=True)
        return tf.reshape(scores, [tf.shape(x)[0], tf.shape(x)[1], scores.shape[-1]])


def transformer(vocabulary=10_000, length=64, **sizes):
    """Builds a `Transformer`; 5.7 M weights by default.

    Args:
        vocabulary: Number of tokens.
        length: Most tokens in a sequence.
        **sizes: The other arguments of `Transformer`.

    Returns:
        Built `Transformer` from tokens, int32 [batch, n], to float32 [batch, n, vocabulary].
    """
    model = Transformer(vocabulary, length, **sizes)
    model(tf.zeros([1, length], tf.int32))
    return model
