"""The builders of the smaller models: sizes, shapes, seeds, and what they promise."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import models
from models.norms import normalization

SPEECH = {"keyword_cnn": models.keyword_cnn, "keyword_lstm": models.keyword_lstm}


def test_resnet20_has_the_weights_of_the_paper():
    kernels = [3 * 16, *[16 * 16] * 6, 16 * 32, *[32 * 32] * 5, 32 * 64, *[64 * 64] * 5]
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    for norm, statistics in (("group", 0), ("batch", norms)):
        model = models.resnet20(norm=norm)
        assert model.count_params() == 9 * sum(kernels) + norms + statistics + 64 * 10 + 10
    convolutions = [w for w in models.resnet20().weights if w.shape.rank == 4]
    assert len(convolutions) + 1 == 20  # And the logits.


def test_resnet20_s_shortcuts_add_nothing_of_their_own():
    model = models.resnet20((16, 16, 3))
    before = [w for w in model.weights if w.shape.rank == 4]
    for kernel in before[1:]:
        kernel.assign(tf.zeros_like(kernel))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    head = tf.keras.Model(model.inputs, model.layers[3].output)  # relu(norm(conv(x)))
    maps = head(x).numpy()[:, ::2, ::2][:, ::2, ::2].mean((1, 2))
    kernel, bias = (w.numpy() for w in model.layers[-1].weights)
    padded = np.zeros((2, 64), np.float32)
    padded[:, :16] = maps
    np.testing.assert_allclose(model(x), padded @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_resnet8_has_the_weights_of_the_benchmark_apart_from_biases():
    biases = (3 * 16 + 2 * 32 + 2 * 64) + (32 + 64)
    statistics = 2 * (3 * 16 + 2 * 32 + 2 * 64)
    assert models.resnet8(norm="batch").count_params() == 78_666 - biases
    assert models.resnet8(norm="group").count_params() == 78_666 - biases - statistics == 77_850


def test_resnet8_names_its_kernels_first_to_last():
    model = models.resnet8((16, 16, 3), classes=4)
    assert [layer.name for layer in model.layers if hasattr(layer, "kernel")] == [
        "stem",
        *(f"stage1_{name}" for name in ("conv1", "conv2")),
        *(f"stage{n}_{name}" for n in (2, 3) for name in ("conv1", "conv2", "shortcut")),
        "logits",
    ]
    assert models.resnet8().layers[1].name == "stem"  # Of every model, not the first alone.
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    assert model(x).shape == (2, 4)


def test_resnet8_s_blocks_add_to_their_shortcuts():
    model = models.resnet8((16, 16, 3), norm="group")
    for layer in model.layers:
        if layer.name.endswith(("conv1", "conv2")):
            layer.kernel.assign(tf.zeros_like(layer.kernel))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    maps = tf.keras.Model(model.inputs, model.layers[3].output)(x)  # relu(norm(stem(x)))
    for stage in (2, 3):
        kernel = model.get_layer(f"stage{stage}_shortcut").kernel[0, 0]
        maps = tf.nn.relu(maps[:, ::2, ::2] @ kernel)
    kernel, bias = model.get_layer("logits").weights
    expected = tf.reduce_mean(maps, (1, 2)) @ kernel + bias
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPEECH)
def test_keyword_models_take_clips(name):
    model = SPEECH[name](classes=7, features=40)
    assert 50_000 < model.count_params() < 200_000
    for frames in (30, 98):
        x = np.random.default_rng(0).normal(size=(2, frames, 40)).astype(np.float32)
        assert model(x).shape == (2, 7)
    fixed = SPEECH[name](classes=7, features=40, frames=98)
    np.testing.assert_allclose(fixed(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_lstm_skips_padding():
    model = models.keyword_lstm()
    x = np.random.default_rng(0).normal(size=(1, 30, 40)).astype(np.float32)
    padded = np.pad(x, [(0, 0), (0, 20), (0, 0)])
    np.testing.assert_allclose(model(padded), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [models.resnet8, models.resnet20, models.keyword_cnn, models.keyword_lstm],
    ids=["resnet8", "resnet20", "keyword_cnn", "keyword_lstm"],
)
def test_seeds_decide_the_initial_weights(build):
    first, same, other = (build(seed=seed).get_weights() for seed in (1, 1, 2))
    kernels = [index for index, weight in enumerate(first) if weight.ndim > 1]
    assert len({first[index].tobytes() for index in kernels}) == len(kernels)
    for index in kernels:
        np.testing.assert_array_equal(first[index], same[index])
        assert not np.array_equal(first[index], other[index])


@pytest.mark.parametrize(
    "build", [models.resnet8, models.resnet20, models.keyword_cnn, normalization]
)
def test_unknown_norms_are_refused(build):
    with pytest.raises(ValueError, match="'layer'"):
        functools.partial(build, norm="layer")()
