"""The layers of a Conformer (arXiv 2005.08100, section 2), whole utterances or streams.

A layer that looks at several frames also takes what it kept of those before (`past`), and returns
what it keeps for those that follow; a whole utterance is a stream with nothing before. `valid`,
bool [batch, frames], tells frames from padding.
"""

import tensorflow as tf

L = tf.keras.layers
_NEVER = -1e9  # Added to the score of a key that a query does not see.


def glorot(seed):
    """Glorot uniform initial weights."""
    return tf.keras.initializers.GlorotUniform(seed=seed)


def _dense(units, seed, name, **options):
    return L.Dense(units, kernel_initializer=glorot(seed), name=name, **options)


def _norm():
    return L.LayerNormalization(epsilon=1e-5, name="norm")


def size_of(x, axis):
    """Size of an axis: an int where it is known, which keeps the graph small, else a tensor."""
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]


def masked(x, valid):
    """x, float32 [batch, frames, ...], with 0 in the frames that are not valid."""
    shape = [size_of(valid, 0), size_of(valid, 1)] + [1] * (x.shape.rank - 2)
    return x * tf.cast(tf.reshape(valid, shape), x.dtype)


def relative_positions(queries, keys, width, causal):
    """Sinusoids of the distances between queries and keys, the last query at the last key.

        P[r, 2i] = sin(d_r / 10000^(2i / width)),  P[r, 2i + 1] the cosine,
        d = keys - 1, ..., 0, and on to 1 - queries where queries also look ahead

    (Transformer-XL, arXiv 1901.02860, section 3.3; sines first, then cosines.)

    Args:
        queries: int32 [], how many there are.
        keys: int32 [], likewise.
        width: Features of a position, even.
        causal: Whether no query looks ahead.

    Returns:
        float32 [keys or keys + queries - 1, width].
    """
    least = 0 if causal else 1 - queries
    distance = tf.cast(tf.range(keys - 1, least - 1, -1), tf.float32)
    rate = tf.exp(tf.range(0.0, width, 2.0) * (-tf.math.log(10_000.0) / width))
    angle = distance[:, tf.newaxis] * rate
    return tf.concat([tf.sin(angle), tf.cos(angle)], 1)


class GroupNorm(L.Layer):
    """Group normalisation over valid frames; what BatchNorm is replaced by for federated use.

        y = gamma * (x - mean) / sqrt(variance + 1e-5) + beta,  shape [batch, frames, width]

    with mean and variance over one group of features (arXiv 1803.08494), and over the valid frames
    of the utterance, or over none but the frame itself. It depends on no other example and keeps no
    statistics, so clients with other data do not disagree about them.

    Args:
        groups: Groups of features; divides the width.
        over_time: False for statistics of each frame by itself, which do not look ahead.
    """

    def __init__(self, groups=8, over_time=True, **options):
        super().__init__(**options)
        self.groups, self.over_time = groups, over_time

    def build(self, shape):
        """Creates gamma and beta, [width]."""
        self.gamma = self.add_weight(name="gamma", shape=[shape[-1]], initializer="ones")
        self.beta = self.add_weight(name="beta", shape=[shape[-1]], initializer="zeros")
        super().build(shape)

    def call(self, x, valid):
        """Returns the normalised frames; those that are not valid have no meaning."""
        shape = [size_of(x, 0), size_of(x, 1), x.shape[-1]]
        grouped = tf.reshape(x, [*shape[:2], self.groups, x.shape[-1] // self.groups])
        if self.over_time:
            weight = tf.cast(valid, x.dtype)[:, :, tf.newaxis, tf.newaxis]
            count = tf.maximum(tf.reduce_sum(weight, 1, keepdims=True), 1.0)
            weight /= count * grouped.shape[-1]
            mean = tf.reduce_sum(grouped * weight, [1, 3], keepdims=True)
            centred = grouped - mean
            variance = tf.reduce_sum(tf.square(centred) * weight, [1, 3], keepdims=True)
        else:
            mean = tf.reduce_mean(grouped, 3, keepdims=True)
            centred = grouped - mean
            variance = tf.reduce_mean(tf.square(centred), 3, keepdims=True)
        normal = tf.reshape(centred * tf.math.rsqrt(variance + 1e-5), shape)
        return tf.ensure_shape(normal, x.shape) * self.gamma + self.beta


class Subsampling(L.Layer):
    """A quarter of the frames: two convolutions over time and features, then a dense layer.

        y = W flat(relu(conv(relu(conv(x))))) + b,  both 3x3 with stride 2

    [batch, frames, features] to [batch, ceil(frames / 4), width]. Padding is explicit, so that
    frame t of a result has its middle (or, causal, its end) at frame 2 t of any length.

    Args:
        channels: Channels of both convolutions.
        width: Features of the result.
        causal: Whether a frame is made of none but frames up to it.
        seed: Seed of the initial weights.
    """

    def __init__(self, channels, width, causal=False, seed=0, **options):
        super().__init__(**options)
        self.causal = causal
        self.convolutions = [
            L.Conv2D(
                channels,
                3,
                strides=2,
                kernel_initializer=glorot(seed + i),
                name=f"convolution_{i}",
            )
            for i in (1, 2)
        ]
        self.project = _dense(width, seed + 3, "project")

    def call(self, x, valid, past=(None, None)):
        """Subsamples frames that follow others.

        Args:
            x: float32 [batch, frames, features].
            valid: bool [batch, frames].
            past: For each convolution the two frames before, or None at the start.

        Returns:
            (frames, valid, past): the result, its valid frames, and what the next step needs.
        """
        x, kept, edge = x[..., tf.newaxis], [], [2, 0] if self.causal else [1, 1]
        for convolution, before in zip(self.convolutions, past):
            if before is not None:
                x, edge = tf.concat([before, x], 1), [0, 0]
            kept.append(x[:, -2:])
            # Padded first: the second convolution and this relu then need the same for backward.
            x = tf.pad(x, [[0, 0], edge, [1, 1], [0, 0]])
            x = convolution(tf.nn.relu(x) if len(kept) == 2 else x)
            valid = valid[:, ::2]
            x = masked(x, valid)
        x = tf.nn.relu(x)
        flat = tf.reshape(x, [size_of(x, 0), size_of(x, 1), x.shape[2] * x.shape[3]])
        return self.project(flat), valid, tuple(kept)

    def build(self, shape):
        """Remembers the number of features."""
        self.features = shape[-1]
        super().build(shape)

    def initial_state(self, batch):
        """What stands before the first frame: two frames of zeros in front of each convolution."""
        sizes = (self.features, 1), (-(-self.features // 2), self.convolutions[0].filters)
        return tuple(tf.zeros([batch, 2, *size], self.compute_dtype) for size in sizes)


class FeedForward(L.Layer):
    """Half of the macaron, without its residual: W2 drop(swish(W1 norm(x) + b1)) + b2.

    Args:
        width: Features.
        hidden: Features in between.
        dropout: Share that is dropped in training, 0 .. 1.
        seed: Seed of the initial weights.
    """

    def __init__(self, width, hidden, dropout=0.0, seed=0, **options):
        super().__init__(**options)
        self.norm = _norm()
        self.expand = _dense(hidden, seed + 1, "expand", activation="swish")
        self.dropout = L.Dropout(dropout)
        self.project = _dense(width, seed + 2, "project")

    def call(self, x, training=None):
        """Returns the branch's result, float32 [batch, frames, width]."""
        return self.project(self.dropout(self.expand(self.norm(x)), training=training))


class RelativeAttention(L.Layer):
    """Multi-head self-attention with relative positions (arXiv 1901.02860, section 3.3).

        score(i, j) = ((W_q x_i + u) . W_k x_j + (W_q x_i + v) . W_p P(i - j)) / sqrt(width / heads)
        y_i = W_o sum_j softmax_j(score(i, j)) W_v x_j,  x normalised

    No biases in front of W_o: u and v are the query's, the key's would cancel in the softmax, and
    the value's would add up with that of W_o.

    Args:
        width: Features.
        heads: Attention heads; divides `width`.
        left_context: None to see the whole utterance, or how many frames back a frame sees;
            then it sees none ahead.
        dropout: Share of the attention weights that is dropped in training, 0 .. 1.
        seed: Seed of the initial weights.
    """

    def __init__(self, width, heads, left_context=None, dropout=0.0, seed=0, **options):
        super().__init__(**options)
        self.width, self.heads, self.left_context = width, heads, left_context
        self.norm = _norm()
        self.query = _dense(width, seed + 1, "query", use_bias=False)
        self.position = _dense(width, seed + 2, "position", use_bias=False)
        self.key = _dense(width, seed + 3, "key", use_bias=False)
        self.value = _dense(width, seed + 4, "value", use_bias=False)
        self.result = _dense(width, seed + 5, "result")
        self.dropout = L.Dropout(dropout)

    def build(self, shape):
        """Creates u and v, [width]."""
        # Flat, for they are biases and no matrices.
        self.content_bias = self.add_weight(
            name="content_bias", shape=[self.width], initializer="zeros"
        )
        self.position_bias = self.add_weight(
            name="position_bias", shape=[self.width], initializer="zeros"
        )
        super().build(shape)

    def call(self, x, valid, positions, past=None, training=None):
        """Attends from frames to themselves and to those before.

        Args:
            x: float32 [batch, frames, width].
            valid: bool [batch, frames].
            positions: `relative_positions` of the frames as queries, and as keys with `past`.
            past: (keys, values, valid) of `left_context` frames before, or None at the start.
            training: Whether to drop.

        Returns:
            (result, past): float32 [batch, frames, width], and what the next step needs.
        """
        x = self.norm(x)
        query, scale = self.query(x), (self.width // self.heads) ** -0.5
        to_content = self._split((query + self.content_bias) * scale)
        to_position = self._split((query + self.position_bias) * scale)
        keys, values = self.key(x), self.value(x)
        if past is not None:
            now = (keys, values, valid)
            keys, values, valid = (tf.concat(pair, 1) for pair in zip(past, now))
        scores = tf.matmul(to_content, self._split(keys), transpose_b=True)
        places = self._split(self.position(positions)[tf.newaxis])
        scores += _shifted(tf.matmul(to_position, places, transpose_b=True), size_of(keys, 1))
        scores += self._unseen(size_of(x, 1), valid, scores.dtype)
        weights = self.dropout(tf.nn.softmax(scores), training=training)
        y = tf.transpose(tf.matmul(weights, self._split(values)), [0, 2, 1, 3])
        y = self.result(tf.reshape(y, [size_of(x, 0), size_of(x, 1), self.width]))
        reach = self.left_context or 0
        return y, tuple(kept[:, size_of(kept, 1) - reach :] for kept in (keys, values, valid))

    def initial_state(self, batch):
        """What stands before the first frame: a left context in which nothing is valid."""
        empty = tf.zeros([batch, self.left_context, self.width], self.compute_dtype)
        return empty, empty, tf.zeros([batch, self.left_context], tf.bool)

    def _split(self, x):
        """[batch, frames, width] to [batch, heads, frames, width / heads]."""
        shape = [size_of(x, 0), size_of(x, 1), self.heads, self.width // self.heads]
        return tf.transpose(tf.reshape(x, shape), [0, 2, 1, 3])

    def _unseen(self, queries, valid, dtype):
        """What hides keys: 0, or a large negative, [batch, 1, 1 or queries, keys]."""
        seen = valid[:, tf.newaxis, tf.newaxis, :]
        if self.left_context is not None:
            keys = size_of(valid, 1)
            distance = tf.range(keys - queries, keys)[:, tf.newaxis] - tf.range(keys)
            seen &= (distance >= 0) & (distance <= self.left_context)
        return tf.where(seen, tf.zeros([], dtype), max(_NEVER, dtype.min / 2))


def _shifted(scores, keys):
    """Scores by distance [..., queries, distances] as scores by key [..., queries, keys].

    Key j lies `keys - 1 - (queries - 1 - i + j)` before query i, so each row moves one to the left
    of the one below; a column of padding and another row length do that without indices. Keys
    ahead, where the distances do not reach so far, get what is left over: they must be hidden.
    """
    shape = batch, heads, queries, distances = [size_of(scores, axis) for axis in range(4)]
    padded = tf.pad(scores, [[0, 0], [0, 0], [0, 0], [1, 0]])
    turned = tf.reshape(padded, [batch, heads, distances + 1, queries])[:, :, 1:]
    return tf.reshape(turned, shape)[..., :keys]


class ConvolutionModule(L.Layer):
    """The convolution branch, without its residual (arXiv 2005.08100, section 2.2).

        y = W2 swish(groupnorm(depthwise(glu(W1 norm(x) + b1)))) + b2,  glu(a, b) = a * sigmoid(b)

    Args:
        width: Features.
        kernel: Frames of the depthwise convolution.
        causal: Whether a frame is made of none but frames up to it, also in its normalisation.
        seed: Seed of the initial weights.
    """

    def __init__(self, width, kernel, causal=False, seed=0, **options):
        super().__init__(**options)
        self.width, self.kernel, self.causal = width, kernel, causal
        self.norm = _norm()
        self.expand = _dense(2 * width, seed + 1, "expand")
        self.depthwise = L.DepthwiseConv1D(
            kernel, depthwise_initializer=glorot(seed + 2), name="depthwise"
        )
        self.group_norm = GroupNorm(over_time=not causal, name="group_norm")
        self.project = _dense(width, seed + 3, "project")

    def call(self, x, valid, past=None):
        """Convolves frames that follow others.

        Args:
            x: float32 [batch, frames, width].
            valid: bool [batch, frames].
            past: The kernel - 1 frames before the depthwise convolution, or None at the start.

        Returns:
            (result, past): float32 [batch, frames, width], and what the next step needs.
        """
        value, gate = tf.split(self.expand(self.norm(x)), 2, axis=-1)
        x = masked(value * tf.sigmoid(gate), valid)
        if past is None:
            ahead = 0 if self.causal else self.kernel // 2
            x = tf.pad(x, [[0, 0], [self.kernel - 1 - ahead, ahead], [0, 0]])
        else:
            x = tf.concat([past, x], 1)
        normal = self.group_norm(self.depthwise(x), valid)
        return self.project(tf.nn.swish(normal)), x[:, size_of(x, 1) - self.kernel + 1 :]

    def initial_state(self, batch):
        """What stands before the first frame: zeros."""
        return tf.zeros([batch, self.kernel - 1, self.width], self.compute_dtype)


class Block(L.Layer):
    """One Conformer block, [batch, frames, width] to the same (arXiv 2005.08100, section 2.4).

        x = x + feed(x) / 2;  x = x + attention(x);  x = x + convolution(x);  x = x + feed(x) / 2;
        y = norm(x)

    Args:
        width: Features.
        heads: Attention heads; divides `width`.
        kernel: Frames of the depthwise convolution.
        left_context: None for whole utterances; for streams as in `RelativeAttention`, and the
            convolution is causal.
        dropout: Share that is dropped of each branch's result, of the feed-forwards' hidden
            features and of the attention weights in training, 0 .. 1.
        seed: Seed of the initial weights; a block uses the 20 from there on.
    """

    def __init__(self, width, heads, kernel, left_context=None, dropout=0.0, seed=0, **options):
        super().__init__(**options)
        causal = left_context is not None
        self.feed_in = FeedForward(width, 4 * width, dropout, seed, name="feed_in")
        self.attention = RelativeAttention(
            width, heads, left_context, dropout, seed + 3, name="attention"
        )
        self.convolution = ConvolutionModule(width, kernel, causal, seed + 9, name="convolution")
        self.feed_out = FeedForward(width, 4 * width, dropout, seed + 13, name="feed_out")
        self.norm = _norm()
        self.dropout = L.Dropout(dropout)

    def call(self, x, valid, positions, training=None):
        """Returns what `step` gives with nothing before."""
        return self.step(x, valid, positions, training=training)[0]

    def step(self, x, valid, positions, past=(None, None), training=None):
        """Runs on frames that follow others; the block has been called before.

        Args:
            x, valid, positions, training: As in `RelativeAttention`.
            past: What the attention and the convolution kept, or None for each.

        Returns:
            (result, past): float32 [batch, frames, width], and what the next step needs.
        """

        def add(x, branch, factor=1.0):
            return x + factor * self.dropout(branch, training=training)

        x = add(x, self.feed_in(x, training=training), 0.5)
        attended, keys = self.attention(x, valid, positions, past[0], training=training)
        x = add(x, attended)
        convolved, frames = self.convolution(x, valid, past[1])
        x = add(x, convolved)
        x = add(x, self.feed_out(x, training=training), 0.5)
        return self.norm(x), (keys, frames)

    def initial_state(self, batch):
        """What stands before the first frame, for the attention and for the convolution."""
        return self.attention.initial_state(batch), self.convolution.initial_state(batch)
