"""The aggregator that docs/aggregators.md writes, in both processes."""

import pathlib
import re

import numpy as np
import tensorflow as tf

from omc.learning import build_controlled_fed_avg, build_weighted_fed_avg, local_runtime
from tests.learning.answers import run

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "aggregators.md"


def written():
    """The page's class."""
    (block,) = re.findall(r"```python\n(import collections.*?)```", PAGE.read_text("utf-8"), re.S)
    code, last = block.split("\n\n\nprocess = ")
    assert "aggregator=SignVote()" in last
    names = {}
    exec(code, names)  # noqa: S102 - The documentation's own text.
    return names["SignVote"]


def test_it_learns_by_equal_steps_and_both_processes_agree():
    own = {"uplink": "update", "aggregator": written()()}
    with local_runtime():
        composed, metrics = run(build_weighted_fed_avg, **own)
        controlled, _ = run(build_controlled_fed_avg, **own)
        before, _ = run(build_weighted_fed_avg, rounds=0, **own)
    for value, other, start in zip(composed, controlled, before):
        np.testing.assert_array_equal(value, other)
        steps = np.abs(value - start) / 0.01
        assert tf.reduce_all(tf.abs(steps - tf.round(steps)) < 1e-3) and steps.max() > 2.9
    losses = [m["client_work"]["train"]["loss"] for m in metrics]
    assert losses[-1] < losses[0]
