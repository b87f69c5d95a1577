"""What `omc.nest` takes, what it refuses, and that a refusal changes nothing."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras.nesting import nesting_of
from tests.keras.nested_models import L

X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)


def mlp(count=4):
    tf.keras.utils.set_random_seed(0)
    layers = [L.Dense(8, "relu", name=f"d{place}") for place in range(count)]
    return tf.keras.Sequential([tf.keras.Input((6,)), *layers, L.Dense(3, name="head")])


@pytest.mark.parametrize(
    "options, formats",
    [
        ({"overrides": {"head/kernel": "FP32"}}, ["INT8", "INT8", "INT8", "INT8", "FP32"]),
        ({"overrides": {"d1/kernel": "INT4"}}, ["INT8", "INT4", "INT8", "INT8", "INT8"]),
        ({"overrides": {"d2/*": "FP32"}}, ["INT8", "INT8", "FP32", "INT8", "INT8"]),
        ({"fraction": 0.6, "seed": 3}, None),
    ],
)
def test_a_policy_is_of_the_whole_model(options, formats):
    policy = omc.Policy("INT8", **options)
    model = omc.nest(mlp(), (4, 2), X, policy=policy, fixed=())
    twin = omc.wrap(mlp(), policy)
    found, wanted = (
        [getattr(layer.kernel, "codec", None) for layer in each.layers] for each in (model, twin)
    )
    stored = [None if codec is None else f"INT{codec.format.bits}" for codec in found]
    assert stored == [None if codec is None else codec.format.name for codec in wanted]
    if formats:
        assert stored == [None if name == "FP32" else name for name in formats]
    nested_ones = [v.name.split("/")[0] for v in nesting_of(model).variables]
    assert nested_ones == [layer.name for layer, s in zip(model.layers, stored) if s is not None]
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, np.zeros(64), verbose=0)
