"""docs/composition.md, cell by cell: what goes together runs a round, the rest is refused."""

import functools
import itertools
import pathlib
import random
import re

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import omc
from omc.errors import OmcError
from omc.learning import (
    FedMPQ,
    build_controlled_fed_avg,
    build_weighted_fed_avg,
    local_runtime,
)
from omc.learning.aggregators import Mean, PrivateMean, SecureMean
from omc.learning.uplinks import Grid

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "composition.md"
SGD = tff.learning.optimizers.build_sgdm
AXES = {
    "policy": {
        "INT8": lambda: {"format": "INT8"},
        "S1E3M7": lambda: {"format": "S1E3M7"},
        "formats per layer": lambda: {"format": "INT8", "overrides": {"last/*": "INT4"}},
    },
    "fraction": {"whole": lambda: 1.0, "partial": lambda: 0.5},
    "widths": {
        "one width": lambda: None, "widths": lambda: (8, 4), "FedMPQ": lambda: FedMPQ((4, 8))
    },
    "downlink": {name: functools.partial(str, name) for name in ("codes", "coded", "changes")},
    "uplink": {
        **{name: functools.partial(str, name) for name in ("weights", "update", "dithered")},
        "rotated": lambda: "rotated",
        "grid": lambda: Grid(bits=8),
    },
    "aggregator": {
        **{name: functools.partial(str, name) for name in ("mean", "trimmed_mean", "median")},
        "clipping": lambda: Mean(clipping="adaptive"),
        "zeroing": lambda: Mean(zeroing="adaptive"),
        "private": lambda: PrivateMean(1.0, 0.5, 3),
        "secure": lambda: SecureMean(3),
    },
    "process": {
        "composed": lambda: build_weighted_fed_avg,
        "controlled": lambda: build_controlled_fed_avg,
    },
}  # fmt: skip
AXIS_OF = {option: axis for axis, options in AXES.items() for option in options}
ANCHOR = {  # What goes with most: a refused pair is tried with these.
    "policy": "INT8", "fraction": "whole", "widths": "one width", "downlink": "codes",
    "uplink": "update", "aggregator": "mean", "process": "composed",
}  # fmt: skip


def matrix():
    """(pairs that go together, pair -> argument that refuses it), out of the page."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    columns = [cell.strip() for cell in lines[0].split("|")[2:-1]]
    reasons = dict(re.findall(r"^- \*\*(\w)\*\* `(\w+)`", PAGE.read_text("utf-8"), re.M))
    good, refused = set(), {}
    for line in lines[2:]:
        row, *cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert len(cells) == len(columns), row
        for column, cell in zip(columns, cells):
            pair = frozenset((row, column))
            if cell == "✓":
                good.add(pair)
            elif cell:
                refused[pair] = reasons[cell]
    return good, refused


GOOD, REFUSED = matrix()


def pairs_of(choice):
    return {frozenset(pair) for pair in itertools.combinations(choice.values(), 2)}


def covering():
    """Few choices of one option on each axis that have all good pairs among them."""
    draw, left, found = random.Random(0), set(GOOD), []
    while left:
        best = None
        for _ in range(200):
            choice = {}
            first = draw.choice(sorted(map(sorted, left)))
            order = list(AXES)
            draw.shuffle(order)
            for option in first:
                choice[AXIS_OF[option]] = option
            for axis in order:
                if axis in choice:
                    continue
                fits = [
                    option
                    for option in AXES[axis]
                    if all(frozenset((option, other)) in GOOD for other in choice.values())
                ]
                if not fits:
                    break
                choice[axis] = draw.choice(fits)
            if len(choice) == len(AXES):
                gain = len(pairs_of(choice) & left)
                if best is None or gain > best[0]:
                    best = gain, choice
        if best is None:
            raise AssertionError(f"nothing that works has any of {sorted(map(sorted, left))[:3]}")
        left -= pairs_of(best[1])
        found.append({axis: best[1][axis] for axis in AXES})
    return found


COVERING = covering()
DATA = [
    tf.data.Dataset.from_tensor_slices(
        (
            np.random.default_rng(k).normal(size=(6, 8)).astype(np.float32),
            np.random.default_rng(k).integers(0, 3, 6).astype(np.int32),
        )
    ).batch(3)
    for k in range(3)
]


def model_fn():
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8,)),
            layers.Dense(8, "relu", use_bias=False, name="first"),
            layers.Dense(4, use_bias=False, name="last"),
        ]
    )
    return tff.learning.models.from_keras_model(
        model,
        input_spec=DATA[0].element_spec,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def build(choice):
    parts = {axis: AXES[axis][option]() for axis, option in choice.items()}
    make = parts.pop("process")
    policy = omc.Policy(**parts.pop("policy"), fraction=parts.pop("fraction"))
    return make(model_fn, policy, SGD(0.1), **parts)


@pytest.fixture(scope="module")
def runtime():
    with local_runtime():
        yield


@pytest.mark.parametrize("choice", COVERING, ids=lambda choice: "-".join(choice.values()))
def test_what_goes_together_runs_a_round(runtime, choice):
    process = build(choice)
    output = process.next(process.initialize(), DATA)
    weights = process.get_model_weights(output.state)
    assert all(np.all(np.isfinite(w)) for w in weights.trainable)
    assert not any(map(int, output.metrics["aggregator"]["rejected"].values()))
    assert float(output.metrics["aggregator"]["total_weight"]) > 0.0


@pytest.mark.parametrize("pair", sorted(map(sorted, REFUSED)), ids=" with ".join)
def test_the_rest_is_refused_by_name(runtime, pair):
    choice = {**ANCHOR, **{AXIS_OF[option]: option for option in pair}}
    if "secure" in pair and "uplink" not in map(AXIS_OF.get, pair):
        choice["uplink"] = "grid"
    with pytest.raises(OmcError) as caught:
        build(choice)
    assert caught.value.argument == REFUSED[frozenset(pair)]
    assert caught.value.expected and caught.value.tip


def test_the_page_has_every_pair():
    axes = [list(options) for options in AXES.values()]
    wanted = {
        frozenset(pair)
        for left, right in itertools.combinations(axes, 2)
        for pair in itertools.product(left, right)
    }
    assert wanted == GOOD | set(REFUSED)
