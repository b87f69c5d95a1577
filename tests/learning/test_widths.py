"""Clients that hold one nested model at their own widths, on TFF's real worker."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from omc import nested
from omc.codecs import Codec
from omc.compressed import compress, decompress
from omc.errors import InputError, InputTypeError
from omc.formats import Format
from omc.learning import (
    Widths,
    build_controlled_fed_avg,
    build_weighted_fed_avg,
    client_id,
    local_runtime,
    round_to_width,
    traffic,
)
from omc.learning.client_works import ClientTrainer
from omc.learning.downlinks import Codes
from omc.learning.local_optimizer import LocalOptimizer
from omc.learning.models import ModelPlan
from omc.learning.uplinks import Weights
from omc.policies import Policy
from tff_sims.tasks.digits import digits

SGD = tff.learning.optimizers.build_sgdm
BITS = (8, 4, 2)
TASK = digits(clients=12, split="iid")
IDS = [client_id(TASK.client_dataset(client)) for client in range(6)]
# Two clients of each width.
WIDTHS = Widths(BITS, assigned=dict(zip(IDS, [8, 2, 4, 4, 8, 2])))
BUILDS = (build_weighted_fed_avg, build_controlled_fed_avg)


@pytest.fixture(scope="module", autouse=True)
def runtime():
    with local_runtime():
        yield


def run(build, policy="INT8", widths=WIDTHS, rounds=2, clients=range(6), **changes):
    arguments = {"client_optimizer_fn": SGD(0.1), "uplink": "update", **changes}
    process = build(TASK.model_fn, policy, widths=widths, **arguments)
    state, metrics = process.initialize(), []
    for _ in range(rounds):
        output = process.next(state, [TASK.client_dataset(client) for client in clients])
        state = output.state
        metrics.append(output.metrics)
    weights = process.get_model_weights(state)
    return [np.asarray(w) for w in (*weights.trainable, *weights.non_trainable)], metrics


def accuracies(weights, policy="INT8", bits=BITS):
    model, found = TASK.build_model(), {}
    for width in bits:
        for variable, value in zip(model.variables, weights):
            variable.assign(value)
        round_to_width(model, policy, width)
        found[width] = TASK.evaluate(model)["accuracy"]
    return found


def serialized(*tensors):
    return sum(len(tf.io.serialize_tensor(tensor).numpy()) for tensor in tensors)


def same_bits(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, want in zip(ours, theirs):
        assert mine.dtype == want.dtype and mine.tobytes() == want.tobytes()


def test_each_width_pays_for_its_own_bits_and_both_processes_give_the_same():
    policy = Policy("INT8", seed=5)
    (weights, metrics), (controlled, others) = (run(b, policy) for b in BUILDS)
    same_bits(weights, controlled)
    variables = TASK.build_model().variables
    for measured, other in zip(metrics, others):
        counted = traffic(measured)
        assert counted == traffic(other)
        assert list(counted["widths"]) == list(BITS)
        for bits, own in counted["widths"].items():
            fmt = Format.parse(f"INT{bits}")
            payload = [
                tf.zeros([Codec(fmt, tuple(v.shape)).nbytes], tf.uint8) if v.shape.rank > 1 else v
                for v in map(tf.convert_to_tensor, variables)
            ]
            assert own["clients"] == own["answers"] == 2
            assert own["parameter_bytes"] == sum(t.numpy().nbytes for t in payload)
            assert own["downlink_bytes"] == serialized(*payload)
            # An answer says which round it is for.
            assert own["uplink_bytes"] == serialized(*payload, tf.constant(0))
        for key in ("downlink_bytes", "uplink_bytes", "parameter_bytes"):
            mean = np.mean([own[key] for own in counted["widths"].values()])
            assert counted[key] == pytest.approx(mean)


@pytest.mark.parametrize("build, uplink", zip(BUILDS, ["update", "weights"]))
def test_clients_of_the_policys_width_alone_change_nothing(build, uplink):
    policy = Policy("INT8", fraction=0.5, seed=2)
    with_it, metrics = run(build, policy, widths=(8,), uplink=uplink)
    without, expected = run(build, policy, widths=None, uplink=uplink)
    same_bits(with_it, without)
    counted = traffic(metrics[-1])
    assert counted.pop("widths") == {8: counted} and counted == traffic(expected[-1])


def test_what_a_client_gets_is_the_nested_model_at_its_width():
    with tf.Graph().as_default():
        plan = ModelPlan.of(TASK.model_fn, Policy("INT8"), WIDTHS)
    values = [v.read_value() for v in TASK.build_model().variables]
    for mine, other in ((0, 4), (1, 5), (2, 3)):  # Of equal width, in whatever rounds.
        np.testing.assert_array_equal(plan.choices(1, IDS[mine]), plan.choices(2, IDS[other]))
    offer, _ = Codes().offer(plan, values, ())
    for planned, found, value in zip(plan.planned, offer.sent, values):
        if planned.codec is None:
            assert len(found) == 1 and found[0] is value
            continue
        stored = compress(value, "INT8")
        for buffer, bits, codec in zip(found, BITS, WIDTHS.codecs(planned.codec)):
            np.testing.assert_array_equal(buffer, nested.extract(stored, bits).buffer)
            np.testing.assert_array_equal(
                codec.decode(buffer), decompress(nested.switch(stored, bits))
            )


@pytest.mark.parametrize("client", [0, 1, 2])
def test_a_client_trains_on_the_codes_of_its_width_alone(client):
    """Beside plain Keras and the codecs."""
    plan = ModelPlan.of(TASK.model_fn, Policy("INT8", rounding="nearest"), WIDTHS)
    bits = WIDTHS.bits[int(WIDTHS.index(tf.constant(IDS[client])))]
    model = TASK.build_model()
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    received, codecs = [], []
    for v in model.variables:
        matrix = v.shape.rank > 1
        stored = nested.extract(compress(v.read_value(), "INT8"), bits) if matrix else None
        received.append(stored.buffer if matrix else tf.identity(v))
        codecs.append(dataclasses.replace(stored.codec, saturates=bits < 8) if matrix else None)
    trainer = ClientTrainer(plan, received, LocalOptimizer(SGD(0.1)), Weights())
    numbers = tf.constant(0), tf.constant(IDS[client])
    result, weight, _, _ = trainer.train(received, TASK.client_dataset(client), *numbers)

    # Codes without a counterpart are saturated at once, as they would be by the first step.
    held = [c.add(r, tf.zeros(c.shape)) if c else r for c, r in zip(codecs, received)]
    for features, labels in TASK.client_dataset(client):
        weight -= len(labels)
        for v, codec, value in zip(model.variables, codecs, held):
            v.assign(codec.decode(value) if codec else value)
        with tf.GradientTape() as tape:
            value = loss(labels, model(features, training=True))
        for i, gradient in enumerate(tape.gradient(value, model.variables)):
            delta = -0.1 * gradient
            held[i] = codecs[i].add(held[i], delta) if codecs[i] else held[i] + delta
    assert weight == 0
    for got, codec, want in zip(result, codecs, held):
        assert got.shape == want.shape and got.dtype == want.dtype
        if codec:
            got, want = codec.decode(got), codec.decode(want)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_it_learns_and_every_width_reads_what_was_learnt():
    clients = range(TASK.num_clients)
    widths = Widths(BITS, assigned={
        client_id(TASK.client_dataset(client)): BITS[client % 3] for client in clients
    })  # fmt: skip
    weights, metrics = run(build_controlled_fed_avg, widths=widths, rounds=8, clients=clients)
    before = accuracies([v.numpy() for v in TASK.build_model().variables])
    after = accuracies(weights)
    assert after[8] > 0.8 and after[4] > 0.8 and after[2] > before[2] + 0.2
    assert metrics[-1]["client_work"]["train"]["loss"] < metrics[0]["client_work"]["train"]["loss"]


def test_partial_quantization_and_minifloats_go_along():
    policy = Policy("S1E3M7", fraction=0.5, seed=1, overrides={"*/bias": "FP32"})
    (weights, metrics), (others, _) = (run(b, policy, (11, 7), clients=(0, 1, 2)) for b in BUILDS)
    same_bits(weights, others)
    assert sum(own["clients"] for own in traffic(metrics[0])["widths"].values()) == 3


def test_widths_are_a_clients_own_and_come_out_as_shared():
    widths = Widths(BITS, shares=(1, 2, 1))
    drawn = [int(widths.index(tf.constant(client))) for client in range(400)]
    assert drawn == [int(widths.index(tf.constant(client))) for client in range(400)]
    for place, share in enumerate((0.25, 0.5, 0.25)):
        assert np.mean(np.equal(drawn, place)) == pytest.approx(share, abs=0.07)
    other = Widths(BITS, shares=(1, 2, 1), seed=1)
    assert drawn != [int(other.index(tf.constant(client))) for client in range(400)]
    only = Widths(BITS, shares=(0, 0, 5), assigned={7: 8})
    assert {int(only.index(tf.constant(client))) for client in range(20) if client != 7} == {2}
    assert int(only.index(tf.constant(7))) == 0


@pytest.mark.parametrize(
    "error, argument, arguments",
    [
        (InputTypeError, "widths", dict(bits=8)),
        (InputTypeError, "widths", dict(bits="842")),
        (InputTypeError, "widths", dict(bits=(8, 4.0))),
        (InputTypeError, "widths", dict(bits=(8, True))),
        (InputError, "widths", dict(bits=())),
        (InputError, "widths", dict(bits=(8, 4, 8))),
        (InputTypeError, "shares", dict(shares=1)),
        (InputTypeError, "shares", dict(shares=(1, "2", 3))),
        (InputError, "shares", dict(shares=(1, 2))),
        (InputError, "shares", dict(shares=(1, -2, 3))),
        (InputError, "shares", dict(shares=(0, 0, 0))),
        (InputTypeError, "assigned", dict(assigned=[8])),
        (InputTypeError, "assigned", dict(assigned={"phone": 8})),
        (InputError, "assigned", dict(assigned={-1: 8})),
        (InputError, "assigned", dict(assigned={2**31: 8})),
        (InputError, "assigned", dict(assigned={1: 6})),
        (InputTypeError, "seed", dict(seed=0.5)),
    ],
)
def test_errors_name_the_argument(error, argument, arguments):
    with pytest.raises(error) as caught:
        Widths(**{"bits": BITS, **arguments})
    assert caught.value.argument == argument


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    "error, policy, widths",
    [
        (InputTypeError, "INT8", 4),
        (InputError, "INT8", (8, 4, 4)),
        (InputError, "INT4", (8, 4)),
        (InputError, "INT8", (8, 1)),
        (InputError, "S1E3M7", (11, 3)),
        (InputError, "FP32", (8, 4)),
        (InputError, Policy("INT8", transform=None), (8, 4)),
    ],
)
def test_widths_that_a_policy_has_not_are_refused(build, error, policy, widths):
    with pytest.raises(error) as caught:
        build(TASK.model_fn, policy, widths=widths)
    assert caught.value.argument == "widths"


def test_bare_codes_of_minifloats_have_widths():
    run(build_controlled_fed_avg, Policy("S1E3M7", transform=None), (11, 7), 1, clients=[0])


@pytest.mark.parametrize("build", BUILDS)
def test_whole_weights_of_narrow_clients_are_not_averaged(build):
    with pytest.raises(InputError) as caught:
        build(TASK.model_fn, "INT8", widths=(8, 4), uplink="weights")
    assert caught.value.argument == "uplink"


def test_a_model_is_rounded_to_a_width_of_the_policy_only():
    with pytest.raises(InputError) as caught:
        round_to_width(TASK.build_model(), "INT4", 8)
    assert caught.value.argument == "widths"
