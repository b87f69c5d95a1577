"""Conformers: their sizes, padding, and streams that give what whole utterances give."""

import numpy as np
import pytest
import tensorflow as tf

import models
import omc
from models.conformer_layers import GroupNorm, RelativeAttention, relative_positions

FEATURES, OUTPUTS = 20, 11
SMALL = {"width": 16, "heads": 2, "depth": 2, "kernel": 4, "channels": 8}
KINDS = {"whole": {}, "streaming": {"streaming": True, "left_context": 3}}


def build(kind, **options):
    model = models.conformer(OUTPUTS, FEATURES, **{**SMALL, **KINDS[kind], **options})
    shaken(model)
    return model


def shaken(model):
    """Gives biases values, for zeros hide errors."""
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.shape.rank == 1:
            variable.assign_add(rng.uniform(-0.3, 0.3, variable.shape))


def speech(batch, frames, seed=1):
    x = np.random.default_rng(seed).normal(size=(batch, frames, FEATURES))
    return x.astype(np.float32)


def assert_near(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def weights(width, depth, kernel, channels, features, outputs):
    """Weights as the formulas of the paper have them, biases included."""
    norm, feed = 2 * width, 8 * width**2 + 5 * width
    attention = (
        5 * width**2 + width + 2 * width
    )  # u and v in place of the query's bias, no others before W_o
    convolution = 3 * width**2 + 3 * width + (kernel + 1) * width + norm
    block = 2 * (norm + feed) + norm + attention + norm + convolution + norm
    maps = 10 * channels + 9 * channels**2 + channels
    return maps + (-(-features // 4) * channels + 1) * width + depth * block + (width + 1) * outputs


@pytest.mark.parametrize("kind", KINDS)
def test_has_the_weights_of_the_formulas(kind):
    sizes = [SMALL[key] for key in ("width", "depth", "kernel", "channels")]
    assert build(kind).count_params() == weights(*sizes, FEATURES, OUTPUTS)


@pytest.mark.parametrize(
    "name, published",
    [("tiny", 0.33e6), ("small", 1e6), ("large", 119e6), ("streaming_large", 137e6)],
)
def test_named_sizes_are_what_they_are_called(name, published):
    sizes = models.CONFORMERS[name]  # As formulas: a large one takes a minute to build.
    shape = [sizes[key] for key in ("width", "depth", "kernel")]
    found = weights(*shape, sizes.get("channels", sizes["width"]), 80, 4096)
    logits = 4096 * (sizes["width"] + 1)
    if published < 100e6:  # For a few characters, not for word pieces.
        found -= logits
    assert abs(found / published - 1) < (0.1 if published < 100e6 else 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_logit_frame_for_every_four(kind):
    model = build(kind)
    for frames in (1, 2, 3, 4, 5, 8, 13):
        assert model(speech(2, frames)).shape == (2, -(-frames // 4), OUTPUTS)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_influence_the_other_frames(kind):
    model = build(kind)
    for frames in (1, 17, 18, 19, 20):
        x = speech(3, 41)
        x[1, frames:] = 0
        x[2] = 0
        padded = model(x)
        assert np.all(np.isfinite(padded))
        assert_near(padded[0], model(x[:1])[0])
        assert_near(padded[1, : -(-frames // 4)], model(x[1:2, :frames])[0])


def test_frames_of_a_streaming_one_depend_on_none_ahead():
    model, x = build("streaming"), speech(1, 40)
    before = model(x).numpy()
    x[:, 21:] += 1.0
    after = model(x).numpy()
    assert_near(after[:, :6], before[:, :6])  # Logit 5 is that of frames up to 20.
    assert np.abs(after - before)[:, 6:].max() > 0.01


def in_chunks(model, x, sizes, step):
    state, logits, start = model.initial_state(len(x)), [], 0
    shapes = [part.shape for part in tf.nest.flatten(state)]
    for size in sizes:
        part, state = step(x[:, start : start + size], state)
        assert [part.shape for part in tf.nest.flatten(state)] == shapes
        logits.append(part)
        start += size
    assert start == x.shape[1]
    return np.concatenate(logits, 1)


@pytest.mark.parametrize(
    "sizes", [[4] * 11 + [3], [8, 4, 28, 7], [44, 3], [47]], ids=["frames", "uneven", "two", "one"]
)
def test_a_stream_gives_what_the_whole_gives(sizes):
    model, x = build("streaming"), speech(3, 47)
    x[1, 30:] = 0  # Ended.
    x[2, 9:22] = 0  # Lost in the middle.
    whole = model(x).numpy()
    chunks = in_chunks(model, tf.constant(x), sizes, model.step)
    assert chunks.shape == whole.shape
    assert_near(chunks[0], whole[0])
    assert_near(chunks[1, :8], whole[1, :8])
    spoken = [0, 1, 2, *range(6, 12)]
    assert_near(chunks[2][spoken], whole[2][spoken])


def test_a_stream_runs_as_one_traced_function_and_with_codes():
    model, x = build("streaming"), tf.constant(speech(2, 40))
    omc.wrap(model, "INT8")
    traces = []

    @tf.function
    def step(chunk, state):
        traces.append(None)
        return model.step(chunk, state)

    assert_near(in_chunks(model, x, [8] * 5, step), model(x))
    assert len(traces) == 1


def naive_attention(layer, x, valid, left_context):
    """The docstring's formula, one pair of frames after the other."""
    norm = layer.norm(x).numpy().astype(np.float64)
    w = {
        name: getattr(layer, name).kernel.numpy().astype(np.float64)
        for name in ("query", "key", "value", "position", "result")
    }
    u, v = layer.content_bias.numpy(), layer.position_bias.numpy()
    batch, frames, width = norm.shape
    size = width // layer.heads
    y = np.zeros(norm.shape)
    for b, i, head in np.ndindex(batch, frames, layer.heads):
        part = slice(head * size, (head + 1) * size)
        seen = [j for j in range(frames) if valid[b, j]]
        if left_context is not None:
            seen = [j for j in seen if 0 <= i - j <= left_context]
        if not seen:
            continue
        query, scores, values = norm[b, i] @ w["query"], [], []
        for j in seen:
            angles = (i - j) / 10_000 ** (np.arange(0, width, 2) / width)
            place = np.concatenate([np.sin(angles), np.cos(angles)]) @ w["position"]
            key = norm[b, j] @ w["key"]
            content = (query + u)[part] @ key[part] + (query + v)[part] @ place[part]
            scores.append(content / np.sqrt(size))
            values.append((norm[b, j] @ w["value"])[part])
        weight = np.exp(scores - np.max(scores))
        y[b, i, part] = weight @ np.array(values) / weight.sum()
    return y @ w["result"] + layer.result.bias.numpy()


@pytest.mark.parametrize("left_context", [None, 0, 2, 20])
def test_attention_is_that_of_transformer_xl(left_context):
    x, valid = tf.constant(speech(2, 9)[..., :12]), np.ones([2, 9], bool)
    valid[1, 6:] = False
    layer = RelativeAttention(12, 3, left_context)
    positions = relative_positions(9, 9, 12, causal=left_context is not None)
    layer(x, tf.constant(valid), positions)
    shaken(layer)
    found = layer(x, tf.constant(valid), positions)[0].numpy()
    want = naive_attention(layer, x, valid, left_context)
    np.testing.assert_allclose(found[valid], want[valid], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("over_time", [True, False])
def test_group_norm_is_keras_own_over_what_is_valid(over_time):
    x, valid = speech(2, 7)[..., :16], np.ones([2, 7], bool)
    valid[1, 4:] = False
    layer = GroupNorm(4, over_time)
    layer(x, tf.constant(valid))
    shaken(layer)
    found = layer(x, tf.constant(valid)).numpy()
    keras = tf.keras.layers.GroupNormalization(4, epsilon=1e-5)
    keras.build((None, None, 16))
    keras.set_weights(layer.get_weights())
    for example in range(2):
        frames = x[example][valid[example]]
        want = keras(frames[np.newaxis])[0] if over_time else keras(frames[:, np.newaxis])[:, 0]
        assert_near(found[example][valid[example]], want)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_comes_close(kind):
    x = speech(2, 40)
    expected = build(kind)(x)
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = build(kind)
        found = [model(x)]
        if kind == "streaming":
            found.append(in_chunks(model, tf.constant(x), [8] * 5, model.step))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    for logits in found:
        np.testing.assert_allclose(tf.cast(logits, tf.float32), expected, atol=0.05)


def test_seeds_decide_the_initial_weights():
    first, same, other = (build("whole", seed=seed).get_weights() for seed in (1, 1, 2))
    kernels = [index for index, weight in enumerate(first) if weight.ndim > 1]
    for index in kernels:
        np.testing.assert_array_equal(first[index], same[index])
        assert not np.array_equal(first[index], other[index])
    distinct = {first[index].tobytes() for index in kernels}
    assert len(distinct) == len(kernels)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_blocks_give_the_same_gradients(kind):
    x = tf.constant(speech(2, 24))
    results = []
    for recompute in (False, True):
        model = omc.wrap(build(kind), "INT8")
        if recompute:
            omc.recompute(model, "block_*")

        @tf.function
        def gradients(model=model):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(model(x, training=True)))
            return tape.gradient(loss, model.trainable_variables)

        results.append(gradients())
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("kind", KINDS)
def test_trains_by_ctc_on_codes_in_fit(kind):
    model = omc.wrap(build(kind, dropout=0.1), omc.Policy("S1E3M7", fraction=0.9))

    def ctc(labels, logits):
        frames = tf.fill([tf.shape(logits)[0]], tf.shape(logits)[1])
        labels = tf.sparse.from_dense(tf.cast(labels, tf.int32))
        return tf.nn.ctc_loss(labels, logits, None, frames, False, blank_index=-1)

    model.compile(tf.keras.optimizers.SGD(0.01), ctc)
    x, y = speech(4, 48), np.tile([[1, 2, 3, 2]], [4, 1])
    losses = model.fit(x, y, batch_size=4, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    report = omc.memory_report(model)
    assert {row.served for row in report.rows if row.format == "S1E3M7"} == {"transient"}
