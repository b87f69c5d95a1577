"""Every Keras layer with weights: equal to plain Keras on decoded weights, and how it is served.

docs/layers.md holds the table of `CASES`; a test here compares them.
"""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras import CompressedVariable
from omc.keras.host import MAJOR, variables_of
from tests.keras.either import only_keras_2, only_keras_3

L = tf.keras.layers
LINE, IMAGE, VOLUME, STEPS = (12, 4), (9, 9, 4), (7, 7, 7, 3), (6, 5)
TOKENS = "tokens"
CAUSAL = "causal" if MAJOR == 2 else "same"  # Of separable convolutions Keras 3 has no causal ones.


def self_attention(**options):
    return attending_itself(L.MultiHeadAttention(2, 6, **options))


def grouped_attention():
    return attending_itself(L.GroupQueryAttention(6, 4, 2))


def attending_itself(layer):
    class SelfAttention(L.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layer

        def call(self, x):
            return self.inner(x, x)

    return SelfAttention()


def scored(layer):
    class Scored(L.Layer):
        def __init__(self):
            super().__init__()
            self.inner, self.project = layer, L.Dense(5)

        def call(self, x):
            return self.inner([x, self.project(x)])

    return Scored()


class Tied(L.Layer):
    """One matrix that embeds tokens and scores them."""

    def build(self, shape):
        self.embeddings = L.Embedding(20, 6)
        self.embeddings.build(shape)

    def call(self, x):
        x = tf.reduce_sum(self.embeddings(x), 1)
        return tf.matmul(x, self.embeddings.embeddings, transpose_b=True)


class Reversed(L.Layer):
    """Keras' own layer for that."""

    def build(self, shape):
        self.embeddings = L.ReversibleEmbedding(20, 6)
        self.embeddings.build(shape)

    def call(self, x):
        return self.embeddings(tf.reduce_sum(self.embeddings(x), 1), reverse=True)


class Twice(L.Layer):
    """A layer used twice."""

    def build(self, shape):
        self.inner = L.Dense(shape[-1], "tanh")
        self.inner.build(shape)

    def call(self, x):
        return self.inner(self.inner(x))


class Cells(L.Layer):
    """Cells called one step at a time by hand."""

    def build(self, shape):
        self.cells = [L.LSTMCell(4), L.LSTMCell(4, implementation=1), L.GRUCell(4)]
        self.cells += [L.GRUCell(4, reset_after=False), L.SimpleRNNCell(4)]

    def call(self, x):
        outputs = []
        for cell in self.cells:
            state = cell.get_initial_state(x[:, 0] if MAJOR == 2 else x.shape[0])
            for step in range(2):
                y, state = cell(x[:, step], state)
            outputs.append(y)
        return tf.concat(outputs, 1)


def stacked():
    return L.RNN(L.StackedRNNCells([L.GRUCell(4), L.LSTMCell(3)]), return_sequences=True)


ONE_BATCH_AXIS = only_keras_2("convolutions take one batch axis")
STRIDES_DILATED = only_keras_3("refuses strides together with dilation")
NO_LORA = only_keras_3("has no low-rank updates")
NO_LOCALLY_CONNECTED = only_keras_2("has no such layers")

# Row of the table -> [(layer, input shape, marks)], served.
CASES = {
    "Dense": ([(lambda: L.Dense(5), (6,)), (lambda: L.Dense(5, "relu"), (3, 6))], "transient"),
    "EinsumDense": (
        [
            (lambda: L.EinsumDense("abc,cde->abde", (None, 4, 5), bias_axes="e"), LINE),
            (lambda: L.EinsumDense("...x,xy->...y", 7), LINE),
        ],
        "transient",
    ),
    "MultiHeadAttention": (
        [(self_attention, STEPS), (grouped_attention, STEPS, only_keras_3("has no such layer"))],
        "transient",
    ),
    "Attention, AdditiveAttention (`scale` is no matrix)": (
        [
            (lambda: scored(L.Attention(use_scale=True)), STEPS),
            (lambda: scored(L.AdditiveAttention()), STEPS),
        ],
        "transient",
    ),
    "Conv1D": (
        [
            (lambda: L.Conv1D(6, 3, padding="causal", activation="relu"), LINE),
            (lambda: L.Conv1D(6, 3, strides=2, padding="same"), LINE),
            (lambda: L.Conv1D(6, 3, dilation_rate=2), LINE),
            (lambda: L.Conv1D(6, 3, dilation_rate=2, padding="causal"), (2, *LINE), ONE_BATCH_AXIS),
        ],
        "transient",
    ),
    "Conv2D": (
        [
            (lambda: L.Conv2D(6, (3, 2), strides=2, padding="same"), IMAGE),
            (lambda: L.Conv2D(6, 3, dilation_rate=(2, 1), padding="same"), IMAGE),
            (lambda: L.Conv2D(6, 3), (2, *IMAGE), ONE_BATCH_AXIS),
        ],
        "transient",
    ),
    "Conv3D": (
        [
            (lambda: L.Conv3D(4, 3, strides=2), VOLUME),
            (lambda: L.Conv3D(4, 2, dilation_rate=2, padding="same"), VOLUME),
            (lambda: L.Conv3D(2, 2, data_format="channels_first"), VOLUME[::-1]),
        ],
        "transient",
    ),
    "Conv1D, Conv2D with groups": (
        [
            (lambda: L.Conv1D(6, 3, groups=2, activation="relu"), LINE),
            (lambda: L.Conv2D(4, 3, groups=4), IMAGE),
        ],
        "transient",
    ),
    "Conv1DTranspose": (
        [
            (lambda: L.Conv1DTranspose(6, 3, strides=2, padding="same"), LINE),
            (lambda: L.Conv1DTranspose(6, 3, output_padding=1, strides=2), LINE),
        ],
        "transient",
    ),
    "Conv2DTranspose": (
        [
            (lambda: L.Conv2DTranspose(6, 3, strides=2), IMAGE),
            (lambda: L.Conv2DTranspose(6, 3, dilation_rate=2), IMAGE),
        ],
        "transient",
    ),
    "Conv3DTranspose": ([(lambda: L.Conv3DTranspose(4, 2, strides=2), VOLUME)], "transient"),
    "DepthwiseConv1D": (
        [(lambda: L.DepthwiseConv1D(3, depth_multiplier=2, strides=2), LINE)],
        "transient",
    ),
    "DepthwiseConv2D": (
        [
            (lambda: L.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), IMAGE),
            (lambda: L.DepthwiseConv2D(3, dilation_rate=2), IMAGE),
            (lambda: L.DepthwiseConv2D(3, strides=2, dilation_rate=2), IMAGE, STRIDES_DILATED),
        ],
        "transient",
    ),
    "SeparableConv1D": (
        [(lambda: L.SeparableConv1D(6, 3, padding=CAUSAL, activation="tanh"), LINE)],
        "transient",
    ),
    "SeparableConv2D": (
        [
            (lambda: L.SeparableConv2D(6, 3, strides=2), IMAGE),
            (lambda: L.SeparableConv2D(6, 3, dilation_rate=2, padding="same"), IMAGE),
            (lambda: L.SeparableConv2D(6, 3, strides=2, dilation_rate=2), IMAGE, STRIDES_DILATED),
        ],
        "transient",
    ),
    "LocallyConnected1D, LocallyConnected2D": (
        [
            (lambda: L.LocallyConnected1D(3, 3), LINE, NO_LOCALLY_CONNECTED),
            (lambda: L.LocallyConnected2D(3, 3, implementation=2), IMAGE, NO_LOCALLY_CONNECTED),
        ],
        "transient",
    ),
    "PReLU": ([(lambda: L.PReLU("normal"), LINE)], "transient"),
    "Dense, EinsumDense, convolutions with `enable_lora` (Keras 3)": (
        [
            (lambda: L.Dense(5, lora_rank=2), (6,), NO_LORA),
            (lambda: L.EinsumDense("...x,xy->...y", 7, lora_rank=2), LINE, NO_LORA),
            (lambda: L.Conv1D(6, 3, lora_rank=2), LINE, NO_LORA),
            (lambda: L.Conv2D(6, 3, strides=2, lora_rank=2), IMAGE, NO_LORA),
        ],
        "transient",
    ),
    "Embedding": ([(lambda: L.Embedding(20, 6), TOKENS)], "transient"),
    "Embedding, tied to the output's logits": (
        [(Tied, TOKENS), (Reversed, TOKENS, only_keras_3("has no such layer"))],
        "transient",
    ),
    "a layer used twice": ([(Twice, (6,))], "transient"),
    "SimpleRNN": ([(lambda: L.SimpleRNN(4), STEPS)], "transient"),
    "LSTM": (
        [
            (lambda: L.LSTM(4, return_sequences=True), STEPS),
            (lambda: L.LSTM(4, recurrent_activation="hard_sigmoid"), STEPS),
        ],
        "transient",
    ),
    "GRU": (
        [(lambda: L.GRU(4), STEPS), (lambda: L.GRU(4, reset_after=False, unroll=True), STEPS)],
        "transient",
    ),
    "RNN of cells, StackedRNNCells": ([(stacked, STEPS)], "transient"),
    "LSTMCell, GRUCell, SimpleRNNCell by themselves": ([(Cells, STEPS)], "transient"),
    "Bidirectional": (
        [(lambda: L.Bidirectional(L.LSTM(4, return_sequences=True)), STEPS)],
        "transient",
    ),
    "TimeDistributed": ([(lambda: L.TimeDistributed(L.Conv1D(3, 2)), (3, *LINE))], "transient"),
    "ConvLSTM1D, ConvLSTM2D, ConvLSTM3D": (
        [
            (lambda: L.ConvLSTM1D(2, 2), (2, *LINE)),
            (lambda: L.ConvLSTM2D(2, 2), (2, 5, 5, 2)),
        ],
        "transient",
    ),
    "recurrent layers with dropout, in training": (
        [
            (lambda: L.LSTM(4, dropout=1e-9), STEPS),
            (lambda: L.GRU(4, recurrent_dropout=1e-9), STEPS),
        ],
        "dense",
    ),
    "recurrent layers with `stateful=True`": (
        [(lambda: L.GRU(4, stateful=True), STEPS)],
        "dense",
    ),
}
EACH = [
    pytest.param(make, shape, served, id=f"{row}-{index}", marks=marks)
    for row, (makes, served) in CASES.items()
    for index, (make, shape, *marks) in enumerate(makes)
]


def build(make, shape):
    shape, dtype = ((5,), tf.int32) if shape == TOKENS else (shape, tf.float32)
    inputs = tf.keras.Input(shape, batch_size=2, dtype=dtype)
    return tf.keras.Model(inputs, make()(inputs))


def pair(make, shape, policy="S1E5M10"):
    """A wrapped model and a plain one with its decoded weights."""
    wrapped, plain = omc.wrap(build(make, shape), policy), build(make, shape)
    plain.set_weights([v.numpy() for v in variables_of(wrapped)])
    return wrapped, plain


def batch(model):
    rng = np.random.default_rng(3)
    if model.inputs[0].dtype == tf.int32:
        return tf.constant(rng.integers(0, 20, model.input_shape), tf.int32)
    return tf.constant(rng.normal(size=model.input_shape), tf.float32)


def results(model, x, training=True):
    """[output, gradient of the input, gradient of each variable], dense."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=training)
        loss = tf.reduce_sum(tf.sin(y)) + sum(model.losses, tf.constant(0.0))
    found = tape.gradient(loss, [x, *model.trainable_variables])
    return [y, *(tf.convert_to_tensor(gradient) for gradient in found if gradient is not None)]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 1
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine, other, rtol=3e-4, atol=3e-5)


def compressed(model):
    found = [v for v in variables_of(model) if isinstance(v, CompressedVariable)]
    assert found
    return found


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("make, shape, served", EACH)
def test_as_plain_keras(make, shape, served, graph):
    wrapped, plain = pair(make, shape)
    x = batch(plain)
    assert {variable.served for variable in compressed(wrapped)} == {None}
    try:
        expected = results(plain, x)
    except tf.errors.InvalidArgumentError as error:  # Channels first, dilated transposes.
        pytest.skip(f"this TensorFlow has no such kernel without oneDNN: {error.message[-120:]}")
    run = tf.function(results, autograph=False) if graph else results
    assert_same(run(wrapped, x), expected)
    assert {variable.served for variable in compressed(wrapped)} == {served}
    assert {row.served for row in omc.memory_report(wrapped).rows} <= {served, ""}


@pytest.mark.parametrize(
    "row",
    [
        "Dense",
        "Conv1D",
        "SeparableConv2D",
        "Embedding, tied to the output's logits",
        "a layer used twice",
        "LSTM",
    ],
)
def test_one_step_of_fit(row):
    """The update is the plain one up to what a code of 16 bits can say."""
    make, shape = CASES[row][0][0][:2]
    wrapped, plain = pair(make, shape)
    x = batch(plain)
    y = tf.zeros_like(plain(x))
    before = plain.get_weights()
    for model in (wrapped, plain):
        model.compile(tf.keras.optimizers.SGD(0.1), "mse")
        model.fit(x, y, batch_size=2, verbose=0)
    moved = [np.abs(new - old).max() for new, old in zip(plain.get_weights(), before)]
    assert max(moved) > 0
    for ours, theirs in zip(wrapped.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(ours, theirs, atol=1.2e-3 * np.abs(theirs).max() + 1e-5)


def test_the_table_in_the_docs():
    text = (pathlib.Path(__file__).parents[2] / "docs" / "layers.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [(row[0], row[1].strip()) for row in rows[1:]] == [
        (row, served) for row, (_, served) in CASES.items()
    ]
