"""Downlinks as functions of tensors: what a device makes of what the server sends it."""

import numpy as np
import pytest
import tensorflow as tf

from omc import nested
from omc.errors import InputError, InputTypeError
from omc.learning import Widths, downlinks
from omc.learning.downlinks import Changes, Coded, Codes
from omc.learning.models import ModelPlan
from omc.policies import Policy
from tff_sims.tasks.digits import digits

TASK = digits(clients=12, split="iid")
RNG = np.random.default_rng(0)


def plan_of(policy="INT8", widths=None):
    with tf.Graph().as_default():
        return ModelPlan.of(TASK.model_fn, Policy.of(policy), widths)


def weights(scale=0.1):
    variables = TASK.build_model().variables
    return [tf.constant(RNG.normal(0, scale, v.shape).astype(np.float32)) for v in variables]


def delivered(downlink, plan, values, memory=(), round_number=0, client=7):
    """(what the client stores, bytes of its payload, memory) of one client in one round."""
    number, client = tf.constant(round_number), tf.constant(client)
    stored, payload = downlinks.delivered(downlink, plan, values, memory, number, client)
    for tensor, spec in zip(payload, downlink.specs(plan), strict=True):
        assert spec.is_compatible_with(tensor)
    _, after = downlink.offer(plan, values, memory)
    after = downlink.took_part(after, number, tf.reshape(client, [1]))
    return stored, sum(tensor.numpy().nbytes for tensor in payload), after


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("policy", ["INT8", "S1E3M7", Policy("INT4", transform=None), "FP32"])
def test_coded_is_what_codes_sends_in_fewer_bytes(policy):
    plan, values = plan_of(policy), weights()
    whole, nbytes, _ = delivered(Codes(), plan, values)
    coded, fewer, _ = delivered(Coded(), plan, values)
    same(coded, whole)
    assert fewer < nbytes or plan.policy.format.is_fp32


@pytest.mark.parametrize("downlink", [Coded(4), Changes(4)], ids=str)
def test_few_bits_are_the_nested_ones_held_in_the_clients_format(downlink):
    plan, values = plan_of("INT8"), weights()
    stored, nbytes, _ = delivered(downlink, plan, values, downlink.memory(plan))
    expected, _, _ = delivered(Codes(), plan, values)
    for planned, ours, theirs in zip(plan.planned, stored, expected):
        if planned.codec is None:
            np.testing.assert_array_equal(ours, theirs)
            continue
        read = nested.codec_at(planned.codec, 4).decode(theirs)
        half = 0.5 * planned.codec.transform_of(theirs)[0]  # Ties go up, which is made up for.
        np.testing.assert_allclose(planned.codec.decode(ours), read - half, atol=1e-7)
        assert ours.shape == (planned.codec.nbytes,)
    assert nbytes < 0.47 * sum(tensor.numpy().nbytes for tensor in expected)


def test_coded_goes_along_with_widths_and_partial_quantization():
    policy = Policy("INT8", fraction=0.5, seed=3)
    plan, values = plan_of(policy, Widths((8, 2), assigned={1: 8, 2: 2})), weights()
    for client in (1, 2):
        whole, nbytes, _ = delivered(Codes(), plan, values, client=client)
        coded, fewer, _ = delivered(Coded(), plan, values, client=client)
        same(coded, whole)
        assert fewer < nbytes
        some, least, _ = delivered(Coded(4), plan, values, client=client)
        assert [t.shape for t in some] == [t.shape for t in whole]
        assert (least < fewer) == (client == 1)  # Two bits are below four already.


@pytest.mark.parametrize("downlink", [Changes(window=3), Changes(bits=4, window=3)], ids=str)
def test_every_device_holds_what_a_new_one_would_get(downlink):
    plan, values = plan_of("INT8"), weights()
    memory, sizes = downlink.memory(plan), []
    for number in range(9):
        here = memory
        for client in (5, 5 + number, 90 + number % 5):  # Every round, new, every fifth.
            stored, nbytes, after = delivered(downlink, plan, values, here, number, client)
            fresh, whole, _ = delivered(downlink, plan, values, here, number, 10**6)
            same(stored, fresh)
            sizes.append((number, client, nbytes / whole))
            memory = downlink.took_part(
                after if here is memory else memory, tf.constant(number), tf.constant([client])
            )
            memory["version_rounds"] = after["version_rounds"]
        values = [value + RNG.normal(0, 1e-4, value.shape).astype(np.float32) for value in values]
    changed = [share for number, client, share in sizes if client == 5 and number]
    assert max(changed) < 0.25
    for _, client, share in sizes:
        if client != 5:
            assert share == 1.0  # New, or away for longer than the window.


def test_a_device_comes_back_within_the_window_or_too_late():
    plan, downlink = plan_of("INT8"), Changes(window=2)
    values, memory, shares = weights(), None, {}
    memory = downlink.memory(plan)
    for number, client in enumerate([4, 6, 4, 6, 6, 4]):
        _, nbytes, after = delivered(downlink, plan, values, memory, number, client)
        _, whole, _ = delivered(downlink, plan, values, memory, number, 10**6)
        shares[number] = nbytes / whole
        memory = after
    assert shares[0] == shares[1] == 1.0 and shares[5] == 1.0
    assert max(shares[n] for n in (2, 3, 4)) < 0.1


def test_a_master_that_leaves_its_range_is_delivered_too():
    plan, downlink = plan_of("INT8"), Changes(4, window=2)
    values, memory = weights(), downlink.memory(plan)
    for number, factor in enumerate([1.0, 3.0, 0.1, 0.1]):
        moved = [factor * value for value in values]
        stored, _, memory = delivered(downlink, plan, moved, memory, number)
        for planned, ours, value in zip(plan.planned, stored, moved):
            if planned.codec is not None:
                error = planned.codec.decode(ours) - value
                assert tf.reduce_max(tf.abs(error)) < 0.14 * tf.reduce_max(tf.abs(value))


def test_a_device_without_data_is_no_device():
    plan, downlink = plan_of("INT8"), Changes()
    values, memory = weights(), downlink.memory(plan)
    sizes = []
    for number in range(3):
        _, nbytes, memory = delivered(downlink, plan, values, memory, number, client=0)
        sizes.append(nbytes)
    assert min(sizes) > 0.9 * sizes[0]


def test_the_server_forgets_the_devices_of_long_ago():
    plan, downlink = plan_of("INT8"), Changes(devices=2)
    values, memory = weights(), downlink.memory(plan)
    sizes = []
    for number, client in enumerate([1, 2, 3, 1, 1]):
        _, nbytes, memory = delivered(downlink, plan, values, memory, number, client)
        sizes.append(nbytes)
    assert sizes[3] > 0.9 * sizes[0] > 10 * sizes[4]


@pytest.mark.parametrize(
    "error, argument, make",
    [
        (InputError, "downlink", lambda: downlinks.resolve("both")),
        (InputTypeError, "downlink", lambda: downlinks.resolve(Codes)),
        (InputTypeError, "bits", lambda: Coded(4.0)),
        (InputTypeError, "window", lambda: Changes(window=True)),
        (InputError, "window", lambda: Changes(window=0)),
        (InputError, "devices", lambda: Changes(devices=0)),
        (InputError, "downlink", lambda: Coded(9).check(Policy("INT8"), None)),
        (InputError, "downlink", lambda: Coded(4).check(Policy("FP32"), None)),
        (InputError, "downlink", lambda: Coded(4).check(Policy("INT8", transform=None), None)),
        (InputError, "fraction", lambda: Changes().check(Policy("INT8", fraction=0.9), None)),
        (InputError, "widths", lambda: Changes().check(Policy("INT8"), Widths((8, 4)))),
    ],
)
def test_errors_name_the_argument(error, argument, make):
    with pytest.raises(error) as caught:
        make()
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "argument, given",
    [("window", dict(window=2**31)), ("devices", dict(devices=2**40)), ("window", dict(window=0))],
)
def test_versions_and_devices_that_no_server_holds_are_refused(argument, given):
    with pytest.raises(InputError) as caught:
        Changes(**given)
    assert caught.value.argument == argument
