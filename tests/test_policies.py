"""Policies: eligibility, the draw of partial quantization, overrides."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.errors import FormatError, InputError, InputTypeError
from omc.policies import Policy, VariableSpec, quantized_mask


def spec(name, shape, dtype=tf.float32, trainable=True):
    return VariableSpec(name, shape, dtype, trainable)


SPECS = [spec(f"dense_{i}/kernel", (32, 32)) for i in range(10)] + [
    spec("dense/bias", (32,)),
    spec("attention/query/bias", (8, 64)),
    spec("norm/gamma", (64,)),
    spec("norm/moving_mean", (64,), trainable=False),
    spec("tokens/embeddings", (100, 16)),
    spec("frozen/kernel", (32, 32), trainable=False),
    spec("tiny/kernel", (1, 2)),
    spec("counter", (4, 4), tf.int64, False),
]


def formats(plan):
    return {planned.spec.name: planned.format.name for planned in plan}


def test_only_weight_matrices():
    plan = formats(Policy("S1E3M7").plan(SPECS))
    kept = {"dense/bias", "attention/query/bias", "norm/gamma", "norm/moving_mean", "counter"}
    assert {name for name, fmt in plan.items() if fmt == "FP32"} == kept | {"tiny/kernel"}


def test_everything_trainable_without_the_rule():
    plan = formats(Policy("S1E3M7", weight_matrices_only=False).plan(SPECS))
    left = {name for name, fmt in plan.items() if fmt == "FP32"}
    assert left == {"norm/moving_mean", "counter", "tiny/kernel"}


def test_every_line_says_why():
    reasons = {p.spec.name: p.reason for p in Policy("INT8", fraction=0.0).plan(SPECS)}
    assert "partial quantization" in reasons["dense_0/kernel"]
    assert reasons["dense/bias"] == "not a weight matrix"
    assert reasons["tiny/kernel"] == "too small to gain"
    assert reasons["counter"] == "int64, not float32"


def test_overrides_win_and_are_not_drawn():
    policy = Policy(
        "S1E3M7", fraction=0.0, overrides={"*/embeddings": "INT8", "dense/bias": "INT4"}
    )
    plan = formats(policy.plan(SPECS))
    assert plan["tokens/embeddings"] == "INT8"
    assert plan["dense/bias"] == "INT4"
    assert plan["dense_0/kernel"] == "FP32"
    assert formats(Policy("INT8", overrides={"*": "FP32"}).plan(SPECS))["dense_0/kernel"] == "FP32"


def test_the_draw_depends_on_seed_round_and_client_and_on_nothing_else():
    def names(**arguments):
        seed = arguments.pop("seed", 0)
        plan = Policy("S1E3M7", fraction=0.5, seed=seed).plan(SPECS, **arguments)
        return frozenset(name for name, fmt in formats(plan).items() if fmt != "FP32")

    assert names(round=3, client=4) == names(round=3, client=4)
    draws = {names(round=r, client=c, seed=s) for r in range(3) for c in range(3) for s in range(3)}
    assert len(draws) > 20


@pytest.mark.parametrize("count, fraction", [(10, 0.9), (10, 0.7), (3, 0.9), (7, 0.5), (5, 1.0)])
def test_the_share_is_exact_on_average(count, fraction):
    sizes = [
        int(tf.reduce_sum(tf.cast(quantized_mask(count, fraction, 0, r, 5), tf.int32)))
        for r in range(200)
    ]
    low = int(np.floor(np.round(fraction * count, 6)))
    assert set(sizes) <= {low, low + 1}
    if abs(fraction * count - round(fraction * count)) < 1e-9:
        assert set(sizes) == {round(fraction * count)}
    else:
        error = 5 * np.std(sizes) / np.sqrt(len(sizes))
        assert abs(np.mean(sizes) - fraction * count) < error


def test_every_variable_is_left_out_equally_often():
    left = sum(1 - np.asarray(quantized_mask(10, 0.5, 1, r, 0), int) for r in range(300))
    assert left.min() > 100 and left.max() < 200


def test_the_draw_is_the_same_in_a_graph():
    graph = tf.function(lambda r, c: quantized_mask(9, 0.6, 7, r, c))
    for r in range(5):
        np.testing.assert_array_equal(
            graph(tf.constant(r), tf.constant(2**31 - 2)), quantized_mask(9, 0.6, 7, r, 2**31 - 2)
        )


@pytest.mark.parametrize(
    "error, argument, make",
    [
        (FormatError, "format", lambda: Policy("S1E9M1")),
        (InputError, "fraction", lambda: Policy("INT8", fraction=1.01)),
        (InputError, "fraction", lambda: Policy("INT8", fraction=float("nan"))),
        (InputTypeError, "fraction", lambda: Policy("INT8", fraction="0.5")),
        (InputTypeError, "seed", lambda: Policy("INT8", seed=1.5)),
        (InputTypeError, "overrides", lambda: Policy("INT8", overrides=["*"])),
        (FormatError, "format", lambda: Policy("INT8", overrides={"*": "INT9"})),
        (InputError, "rounding", lambda: Policy("INT8", rounding="up")),
        (InputError, "overrides", lambda: Policy("INT8", overrides={"no/*": "INT4"}).plan(SPECS)),
        (InputError, "overrides", lambda: Policy("INT8", overrides={"cou*": "INT4"}).plan(SPECS)),
        (InputTypeError, "policy", lambda: Policy.of(11)),
    ],
)
def test_errors_name_the_argument(error, argument, make):
    with pytest.raises(error) as caught:
        make()
    assert caught.value.argument == argument
    assert isinstance(caught.value, omc.OmcError)
    assert f"`{argument}`: expected" in str(caught.value)
