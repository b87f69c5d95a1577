"""The uplink that docs/uplinks.md writes, in a real process."""

import pathlib
import re

import numpy as np
import tensorflow_federated as tff

import omc
from omc.learning import build_weighted_fed_avg, local_runtime, traffic
from tff_sims.tasks.digits import digits

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "uplinks.md"
TASK = digits(clients=12, split="iid")


def written():
    """The page's class."""
    (block,) = re.findall(r"```python\n(import tensorflow.*?)```", PAGE.read_text("utf-8"), re.S)
    code, last = block.split("\n\n\nprocess = ")
    assert len(code.splitlines()) <= 36 and "uplink=TopK" in last
    names = {"omc": omc}
    exec(code, names)  # noqa: S102 - The documentation's own text.
    return names["TopK"]


def test_it_learns_and_sends_what_it_says():
    sgd = tff.learning.optimizers.build_sgdm
    with local_runtime():
        process = build_weighted_fed_avg(TASK.model_fn, "INT8", sgd(0.1), uplink=written()(0.05))
        state, losses = process.initialize(), []
        for _ in range(4):
            output = process.next(state, [TASK.client_dataset(client) for client in range(4)])
            state = output.state
            losses.append(output.metrics["client_work"]["train"]["loss"])
        weights = process.get_model_weights(state)
    counted = traffic(output.metrics)
    count = sum(np.size(w) for w in weights.trainable)
    assert losses[-1] < losses[0]
    assert abs(counted["uplink_bytes"] / (8 * 0.05 * count) - 1) < 0.01
    assert 0.0 < output.metrics["client_work"]["traffic"]["uplink_distortion"] < 0.9
