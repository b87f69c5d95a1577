"""A recurrent language model: embedding, LSTM layers, logits of the next token."""

import tensorflow as tf


def lstm_lm(vocabulary=10_000, length=None, embedding=96, units=670, depth=1, seed=0):
    """Builds an LSTM language model in the proportions of the Stack Overflow task of federated
    learning (arXiv 2003.00295): every LSTM is followed by a projection to the embedding's width.

        x = E[tokens];   x = P_i LSTM_i(x) + b_i,  i = 1..depth;   logits = x W + b

    4,049,976 weights by default.

    Args:
        vocabulary: Number of tokens.
        length: Tokens in a sequence, or None for any.
        embedding: Width of the embedding and of every projection.
        units: Units of every LSTM.
        depth: Number of LSTM layers.
        seed: Seed of the initial weights.

    Returns:
        Built `tf.keras.Model` from tokens, int32 [batch, length], to the logits of the token that
        follows each, float32 [batch, length, vocabulary].
    """
    layers = tf.keras.layers

    def glorot(index):
        return tf.keras.initializers.GlorotUniform(seed=1000 * seed + index)

    tokens = tf.keras.Input((length,), dtype=tf.int32)
    uniform = tf.keras.initializers.RandomUniform(-0.05, 0.05, seed=1000 * seed)
    x = layers.Embedding(vocabulary, embedding, embeddings_initializer=uniform)(tokens)
    for index in range(depth):
        x = layers.LSTM(
            units,
            return_sequences=True,
            kernel_initializer=glorot(3 * index + 1),
            recurrent_initializer=tf.keras.initializers.Orthogonal(
                seed=1000 * seed + 3 * index + 2
            ),
        )(x)
        x = layers.Dense(embedding, kernel_initializer=glorot(3 * index + 3))(x)
    logits = layers.Dense(vocabulary, kernel_initializer=glorot(3 * depth + 1))(x)
    return tf.keras.Model(tokens, logits, name="lstm_lm")
