"""Classes of bandwidth: each client gets what its class's downlink alone would give it."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from omc.errors import InputError, InputTypeError
from omc.learning import (
    build_controlled_fed_avg,
    build_weighted_fed_avg,
    client_id,
    local_runtime,
    traffic,
)
from omc.learning.downlinks import ByBandwidth, Changes, Coded, Codes, delivered
from omc.learning.models import ModelPlan
from omc.learning.runtime import workers_have_ops
from omc.policies import Policy
from tff_sims.tasks.digits import digits

TASK = digits(clients=12, split="iid")
DATA = [TASK.client_dataset(client) for client in range(4)]
IDS = [client_id(data) for data in DATA]
SGD = tff.learning.optimizers.build_sgdm


@pytest.fixture(scope="module", autouse=True)
def runtime():
    with local_runtime():
        yield


def plan_of(policy="INT8", widths=None):
    with tf.Graph().as_default():
        return ModelPlan.of(TASK.model_fn, Policy.of(policy), widths)


def values_of(rng):
    variables = TASK.build_model().variables
    return [tf.constant(rng.normal(0, 0.1, v.shape).astype(np.float32)) for v in variables]


@pytest.mark.parametrize(
    "policy, widths, classes",
    [
        ("INT8", None, (Changes(bits=4, window=2), Coded(6), Codes())),
        ("INT8", None, (Codes(),)),
        (Policy("INT8", fraction=0.5), (8, 2), (Coded(4), Codes())),
        ("S1E3M7", None, (Coded(5), Changes())),
    ],
)
def test_each_client_gets_what_its_class_alone_would(policy, widths, classes):
    plan, rng = plan_of(policy, widths), np.random.default_rng(0)
    clients = [11 + place for place in range(len(classes))]
    downlink = ByBandwidth(classes, assigned={c: place for place, c in enumerate(clients)})
    values, memory = values_of(rng), downlink.memory(plan)
    alone = [own.memory(plan) for own in classes]
    for number in range(4):
        number = tf.constant(number)
        for place, client in enumerate(map(tf.constant, clients)):
            stored, payload = delivered(downlink, plan, values, memory, number, client)
            want, sent = delivered(classes[place], plan, values, alone[place], number, client)
            for ours, theirs in zip([*stored, *payload], [*want, *sent], strict=True):
                np.testing.assert_array_equal(ours, theirs)
            for tensor, spec in zip(payload, downlink.specs(plan), strict=True):
                assert spec.is_compatible_with(tensor)
        _, memory = downlink.offer(plan, values, memory)
        memory = downlink.took_part(memory, number, tf.constant(clients))
        for place, own in enumerate(classes):
            _, after = own.offer(plan, values, alone[place])
            alone[place] = own.took_part(after, number, tf.constant([clients[place]]))
        values = [value + rng.normal(0, 1e-4, value.shape).astype("f") for value in values]


def rounds(process, number=3):
    state, outputs = process.initialize(), []
    for _ in range(number):
        outputs.append(process.next(state, DATA))
        state = outputs[-1].state
    return outputs


def down(outputs):
    return [traffic(output.metrics)["downlink_bytes"] for output in outputs]


def test_rounds_count_what_every_class_downloads():
    if not workers_have_ops():
        pytest.skip("the worker has no native ops")
    slow, fast = Changes(bits=4), Coded()
    mixed = ByBandwidth((slow, fast), assigned=dict(zip(IDS, (0, 0, 0, 1))))
    counted = {}
    for name, downlink in (("mixed", mixed), ("slow", slow), ("fast", fast)):
        process = build_weighted_fed_avg(
            TASK.model_fn, "INT8", SGD(0.1), uplink="update", downlink=downlink
        )
        outputs = rounds(process)
        counted[name] = down(outputs)
        losses = [output.metrics["client_work"]["train"]["loss"] for output in outputs]
        assert losses[-1] < losses[0]
    # The same master in the first round; afterwards it is another, so bytes are about those.
    assert counted["mixed"][0] == 0.75 * counted["slow"][0] + 0.25 * counted["fast"][0]
    for mine, least, most in zip(counted["mixed"], counted["slow"], counted["fast"]):
        assert abs(mine - (0.75 * least + 0.25 * most)) < 0.1 * most


def test_both_processes_give_the_same():
    if not workers_have_ops():
        pytest.skip("the worker has no native ops")
    downlink = ByBandwidth((Coded(4), Codes()), assigned=dict(zip(IDS, (0, 1, 1, 0))))
    found = []
    for build in (build_weighted_fed_avg, build_controlled_fed_avg):
        process = build(TASK.model_fn, "INT8", SGD(0.1), uplink="update", downlink=downlink)
        outputs = rounds(process, 2)
        weights = process.get_model_weights(outputs[-1].state).trainable
        found.append((down(outputs), [np.asarray(w).tobytes() for w in weights]))
    assert found[0] == found[1]


def test_versions_stay_on_one_machine():
    downlink = ByBandwidth((Coded(4), Changes()))
    with pytest.raises(InputError) as caught:
        build_controlled_fed_avg(TASK.model_fn, "INT8", uplink="update", downlink=downlink)
    assert caught.value.argument == "downlink"


def test_classes_are_drawn_as_shares_say_and_stay():
    plan = plan_of()
    downlink = ByBandwidth((Coded(2), Coded(4), Codes()), shares=(1, 1, 2), seed=5)
    chosen = [
        int(downlink.choices(plan, downlink.memory(plan), number, tf.constant(client))[0])
        for client in range(400)
        for number in (0, client)
    ]
    assert chosen[::2] == chosen[1::2]
    np.testing.assert_allclose(np.bincount(chosen[::2]) / 400, [0.25, 0.25, 0.5], atol=0.08)


@pytest.mark.parametrize(
    "error, argument, arguments",
    [
        (InputTypeError, "downlinks", dict(downlinks=Coded())),
        (InputTypeError, "downlinks", dict(downlinks=("coded", "codes"))),
        (InputError, "downlinks", dict(downlinks=())),
        (InputError, "shares", dict(downlinks=(Coded(), Codes()), shares=(1,))),
        (InputTypeError, "assigned", dict(downlinks=(Coded(), Codes()), assigned=[0])),
        (InputError, "assigned", dict(downlinks=(Coded(), Codes()), assigned={3: 2})),
        (InputTypeError, "seed", dict(downlinks=(Coded(), Codes()), seed="a")),
    ],
)
def test_errors_name_the_argument(error, argument, arguments):
    with pytest.raises(error) as caught:
        ByBandwidth(**arguments)
    assert caught.value.argument == argument
    assert "width" not in caught.value.expected
