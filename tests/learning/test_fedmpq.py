"""FedMPQ: budgets, lasso, reduction, pruning-growing: on a real worker, and one client alone."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from hypothesis import given, settings
from hypothesis import strategies as st

from omc.codecs import Codec
from omc.errors import InputError, InputTypeError
from omc.learning import (
    FedMPQ,
    Widths,
    build_controlled_fed_avg,
    build_weighted_fed_avg,
    client_id,
    local_runtime,
    traffic,
)
from omc.learning.client_works import ClientTrainer, paired
from omc.learning.downlinks import Codes, delivered
from omc.learning.local_optimizer import LocalOptimizer
from omc.learning.models import ModelPlan
from omc.learning.runtime import workers_have_ops
from omc.learning.uplinks import Update
from omc.mixed_precision import Exact, PruningGrowing
from omc.mixed_precision.bit_planes import integer_codec, lasso_gradient, reduce_buffer
from omc.mixed_precision.fitted_scales import relative_errors
from omc.policies import Policy
from tests.mixed_precision.problems import INTEGERS, by_bits
from tff_sims.tasks.digits import digits

SGD = tff.learning.optimizers.build_sgdm
L = tf.keras.layers
TASK = digits(clients=12, split="iid")
DATA = [TASK.client_dataset(client) for client in range(6)]
IDS = [client_id(data) for data in DATA]
BUDGETS = (2, 4, 6, 8)
ASSIGNED = dict(zip(IDS, [8, 2, 4, 6, 8, 2]))
BUILDS = (build_weighted_fed_avg, build_controlled_fed_avg)
POLICY = Policy("INT8", seed=3)


@pytest.fixture(scope="module", autouse=True)
def runtime():
    with local_runtime():
        yield


def keras_model():
    def dense(units, seed, activation=None):
        return L.Dense(units, activation, kernel_initializer=tf.keras.initializers.HeUniform(seed))

    layers = [tf.keras.Input((64,)), dense(24, 1, "relu"), dense(16, 2, "relu"), dense(10, 3)]
    return tf.keras.Sequential(layers)


def model_fn():
    return tff.learning.models.from_keras_model(
        keras_model(),
        input_spec=DATA[0].element_spec,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


PUBLISHED = dict(strategy="pruning_growing", scales="largest", weighting="examples", lasso=0.005)
AQFL = dict(strategy="fixed", scales="largest", weighting="examples", lasso=0, threshold=None)


def fedmpq(**changes):
    return FedMPQ(**{"budgets": BUDGETS, "assigned": ASSIGNED, "threshold": 0.1, **changes})


def rounds(process, number=3, clients=range(6)):
    state, outputs = process.initialize(), []
    for _ in range(number):
        outputs.append(process.next(state, [DATA[client] for client in clients]))
        state = outputs[-1].state
    return outputs


def weights(process, output):
    return [np.asarray(w) for w in process.get_model_weights(output.state).trainable]


def same_bits(ours, theirs):
    for mine, want in zip(ours, theirs, strict=True):
        assert mine.dtype == want.dtype and mine.tobytes() == want.tobytes()


def held_bytes(plan, widths):
    """Bytes of the buffers of a model at these widths."""
    widths = iter(widths)
    return sum(
        integer_codec(planned.codec, int(next(widths))).nbytes
        if planned.codec
        else 4 * int(np.prod(planned.spec.shape))
        for planned in plan.planned
    )


@pytest.mark.parametrize("method", [{}, PUBLISHED], ids=["default", "as published"])
def test_budgets_hold_in_every_round_and_both_processes_give_the_same(method):
    plan = ModelPlan.of(model_fn, POLICY, fedmpq(**method))
    composed, controlled = (
        build(model_fn, POLICY, SGD(0.3), uplink="update", widths=fedmpq(**method))
        for build in BUILDS
    )
    ours, again, theirs = rounds(composed), rounds(composed), rounds(controlled)
    before, changed = plan.initial_allocation(), False
    for output, repeated, other in zip(ours, again, theirs):
        same_bits(weights(composed, output), weights(controlled, other))
        same_bits(weights(composed, output), weights(composed, repeated))
        for state in (output.state.client_work, other.state.client_work):
            for name, value in repeated.state.client_work.items():
                np.testing.assert_array_equal(state[name], value)
        counted = traffic(output.metrics)
        assert counted == traffic(other.metrics)
        for place, (budget, own) in enumerate(counted["widths"].items()):
            assert own["average_bits"] <= budget
            assert own["clients"] == {2: 2, 4: 1, 6: 1, 8: 2}[budget]
            # The buffers that the client holds are of the widths that its budget was given.
            held = before["widths"][place]
            assert own["parameter_bytes"] == held_bytes(plan, held)
            changed = changed or len(set(np.asarray(held))) > 1
        before = output.state.client_work
        assert np.all(before["widths"] >= 2) and np.all(before["widths"] <= 8)
    assert changed
    losses = [output.metrics["client_work"]["train"]["loss"] for output in ours]
    assert losses[-1] < losses[0]


def test_without_any_of_its_parts_it_is_the_same_as_widths():
    found = []
    for widths in (Widths(BUDGETS, assigned=ASSIGNED), fedmpq(**AQFL)):
        process = build_controlled_fed_avg(
            model_fn, POLICY, SGD(0.3), uplink="update", widths=widths
        )
        outputs = rounds(process, 2)
        found.append((weights(process, outputs[-1]), traffic(outputs[-1].metrics)))
    (widths, counted), (ours, others) = found
    same_bits(widths, ours)
    for budget, own in others["widths"].items():
        assert own.pop("average_bits") == budget
        # Beside the weights a client sends its budget, widths and drops: seven bytes in a tensor.
        seven = len(tf.io.serialize_tensor(tf.zeros([7], tf.uint8)).numpy())
        assert own.pop("uplink_bytes") == counted["widths"][budget].pop("uplink_bytes") + seven
    assert others["widths"] == counted["widths"]


def test_coded_links_go_along():
    if not workers_have_ops():
        pytest.skip("the worker has no native ops")
    composed, controlled = (
        build(model_fn, POLICY, SGD(0.3), uplink="dithered", widths=fedmpq(), downlink="coded")
        for build in BUILDS
    )
    outputs, others = rounds(composed, 3), rounds(controlled, 3)
    for output, other in zip(outputs, others):
        same_bits(weights(composed, output), weights(controlled, other))
    counted = traffic(outputs[-1].metrics)
    assert all(own["average_bits"] <= budget for budget, own in counted["widths"].items())
    losses = [output.metrics["client_work"]["train"]["loss"] for output in outputs]
    assert losses[-1] < losses[0]


class Alone:
    """One client's work without any process."""

    def __init__(self, widths, client=0, rounding="stochastic", rate=0.3, model=model_fn):
        self.plan = ModelPlan.of(model, Policy("INT8", seed=1, rounding=rounding), widths)
        self.values = [v.read_value() for v in keras_model().trainable_variables]
        self.client = tf.constant(IDS[client])
        number = tf.constant(0)
        self.received, _ = delivered(Codes(), self.plan, self.values, (), number, self.client)
        optimizer = LocalOptimizer(SGD(rate))
        self.trainer = ClientTrainer(self.plan, self.received, optimizer, Update())

    def train(self, data, number=0):
        result = self.trainer.train(self.received, data, tf.constant(number), self.client)
        return (result[0], [v.buffer for v in self.trainer.variables if hasattr(v, "codec")])


def test_reduction_is_the_last_thing_and_the_answer_is_in_its_widths():
    plain = Alone(fedmpq(lasso=0, threshold=None), rounding="nearest")
    _, before = plain.train(DATA[0])
    reduced = Alone(fedmpq(lasso=0, threshold=0.3), rounding="nearest")
    (*answer, report, stamp), after = reduced.train(DATA[0])
    assert stamp == 0
    codecs = [codec for codec in reduced.plan.codecs if codec is not None]
    widths, drops = [], []
    for codec, first, last, sent in zip(codecs, before, after, answer[::2]):
        want, dropped = reduce_buffer(codec, first.read_value(), 0.3)
        assert last.numpy().tobytes() == want.numpy().tobytes()
        assert len(sent) == len(want)
        drops.append(int(dropped))
        widths.append(8 - drops[-1])
    assert max(drops) > 0
    assert report.numpy().tolist() == [8, *widths, *drops]
    for codec, first, last, sent in zip(codecs, reduced.received[::2], after, answer[::2]):
        change = codec.decode(first) - codec.decode(last.read_value())
        own = codec.codecs[int(codec.index(sent))]
        step = float(own.transform_of(sent)[0])
        np.testing.assert_allclose(codec.decode(sent), change, atol=1.001 * step)


def test_the_lasso_pulls_weights_by_its_gradient_in_the_mean():
    """The loss alone has no gradient here; stochastic rounding is unbiased, so means tell."""

    def still():
        model = keras_model()
        outputs = tf.keras.layers.Lambda(lambda y: 0.0 * y)(model.outputs[0])
        return tff.learning.models.from_keras_model(
            tf.keras.Model(model.inputs, outputs),
            input_spec=DATA[0].element_spec,
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    rate, lasso, repeats = 0.5, 0.05, 200
    alone = Alone(fedmpq(lasso=lasso, threshold=None), client=2, rate=rate, model=still)
    plan, codec = alone.plan, alone.plan.codecs[0]
    held = paired(codec, alone.received[0])
    start = codec.decode(held).numpy()
    moved = 0.0
    for number in range(repeats):
        _, (first, *_) = alone.train(DATA[0].take(1), number)
        moved = moved + (codec.decode(first.read_value()).numpy() - start) / repeats
    pull = lasso_gradient(codec, held, plan.widths.share(plan, 0)).numpy()
    want = -rate * lasso * pull
    scale = float(codec.switch(held, lambda own, b: own.transform_of(b)[0]))
    assert np.abs(want).max() > 0.01 * scale and np.abs(want).max() < scale
    error = (moved - want) / np.sqrt(np.abs(want) * scale / repeats + 1e-12)
    assert np.abs(np.mean(error)) < 5 / np.sqrt(error.size)
    assert np.mean(error**2) < 1.5


def test_a_client_that_learns_nothing_sends_nothing():
    """Though INT2 receives codes of -2, which training cannot keep."""
    alone = Alone(fedmpq(threshold=None, scales="largest"), client=1)
    codec = alone.plan.codecs[0]
    codes = codec.switch(alone.received[0], lambda own, b: own.codes(b))
    assert np.any(codes == 2)  # -2 in two's complement.
    (*answer, _), _ = alone.train(DATA[0].take(0))
    for codec, sent in zip(alone.plan.codecs, answer):
        read = sent if codec is None else codec.decode(sent)
        np.testing.assert_array_equal(read, tf.zeros_like(read))


PLAN_SIZES = (1536, 384, 160)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_server_takes_means_and_prunes_and_grows(data):
    clients = data.draw(st.integers(1, 5))
    widths = fedmpq(strategy="pruning_growing")
    plan = _plan()
    before = plan.initial_allocation()
    total, sums = 0.0, np.zeros((2, 3))
    terms = tf.zeros([7])
    for _ in range(clients):
        budget = data.draw(st.sampled_from(BUDGETS))
        examples = data.draw(st.integers(0, 50))
        bits = np.array(data.draw(st.lists(st.integers(2, 8), min_size=3, max_size=3)))
        dropped = np.array(data.draw(st.lists(st.integers(0, 6), min_size=3, max_size=3)))
        report = tf.constant([budget, *bits, *dropped], tf.uint8)
        terms += widths.terms(plan, report, tf.constant(float(examples)))
        total += examples * budget
        sums += examples * budget * np.array([bits, dropped], float)
    after = widths.next(plan, before, terms, [])
    if not total:
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)
        return
    mean_bits, lost = np.round(sums / total)
    np.testing.assert_array_equal(after["mean_bits"], mean_bits)
    np.testing.assert_array_equal(after["dropped"], lost)
    for budget, own in zip(BUDGETS, after["widths"].numpy()):
        strategy = PruningGrowing(start=tuple(mean_bits), dropped=tuple(lost))
        found = strategy(by_bits([[0.0] * 7] * 3, PLAN_SIZES, budget, INTEGERS))
        assert own.tolist() == [INTEGERS[choice].bits for choice in found.choices]
        assert np.dot(own, PLAN_SIZES) <= budget * sum(PLAN_SIZES)


def test_the_server_allocates_by_the_error_of_its_weights():
    plan, widths = _plan(), fedmpq()
    rng = np.random.default_rng(0)
    values = [tf.constant(rng.standard_t(3, p.spec.shape), tf.float32) for p in plan.planned]
    terms = widths.terms(plan, tf.constant([8, 8, 8, 8, 0, 0, 0], tf.uint8), tf.constant(1.0))
    after = widths.next(plan, plan.initial_allocation(), terms, values)["widths"].numpy()
    losses = [relative_errors(value, range(2, 9)).numpy() for value in values[::2]]
    for budget, own in zip(BUDGETS, after):
        assert np.dot(own, PLAN_SIZES) <= budget * sum(PLAN_SIZES)
        problem = by_bits(losses, PLAN_SIZES, budget, INTEGERS)
        best, found = Exact()(problem).choices, [bits - 2 for bits in own]
        total = lambda choices: sum(row[c] for row, c in zip(losses, choices))  # noqa: E731
        assert total(found) <= 1.3 * total(best)
        assert total(found) <= total([budget - 2] * 3) * (1 + 1e-6)
    assert len(set(after[1])) > 1


def test_a_clients_weight_is_that_of_its_budget():
    """Two clients with as many examples, of 8 and 2 bits, against each of them alone."""
    assert len({len(list(DATA[c].unbatch())) for c in (0, 1)}) == 1
    plain = dict(strategy="fixed", threshold=None)
    for weighting, share in (("budget", 0.8), ("examples", 0.5)):
        widths = fedmpq(weighting=weighting, **plain)
        process = build_controlled_fed_avg(
            model_fn, POLICY, SGD(0.3), uplink="update", widths=widths
        )
        start = [np.asarray(w) for w in process.get_model_weights(process.initialize()).trainable]
        both, eight, two = (
            [w - s for w, s in zip(weights(process, rounds(process, 1, own)[0]), start)]
            for own in ([0, 1], [0], [1])
        )
        for mixed, large, small in zip(both, eight, two):
            want = share * large + (1 - share) * small
            np.testing.assert_allclose(mixed, want, atol=1e-6)


_PLANS = []


def _plan():
    if not _PLANS:
        _PLANS.append(ModelPlan.of(model_fn, POLICY, fedmpq()))
        assert tuple(p.codec.count for p in _PLANS[0].planned if p.partial) == PLAN_SIZES
    return _PLANS[0]


def test_first_round_is_at_the_budget_and_widths_are_listed_from_the_policys_down():
    plan = _plan()
    bits = [codec.format.bits for codec in plan.alternatives[0]]
    assert bits == [8, 7, 6, 5, 4, 3, 2]
    assert isinstance(plan.alternatives[1], tuple) and not plan.alternatives[1]
    for client, budget in ASSIGNED.items():
        choices = plan.choices(tf.constant(0), tf.constant(client))
        assert [int(choice) for choice in choices[::2]] == [8 - budget] * 3
    narrow = ModelPlan.of(model_fn, Policy("INT4"), fedmpq(budgets=(2, 4), assigned={}))
    assert [codec.format.bits for codec in narrow.alternatives[0]] == [4, 3, 2]
    assert narrow.alternatives[0][0] == Codec(INTEGERS[2], (64, 24))


@pytest.mark.parametrize(
    "error, argument, arguments",
    [
        (InputTypeError, "budgets", dict(budgets=4)),
        (InputTypeError, "budgets", dict(budgets=(4, 2.5))),
        (InputError, "budgets", dict(budgets=(4, 4))),
        (InputError, "budgets", dict(budgets=(1, 4))),
        (InputError, "shares", dict(shares=(1, 2))),
        (InputError, "assigned", dict(assigned={1: 3})),
        (InputTypeError, "seed", dict(seed=0.5)),
        (InputTypeError, "lasso", dict(lasso="small")),
        (InputError, "lasso", dict(lasso=-1.0)),
        (InputError, "lasso", dict(lasso=float("nan"))),
        (InputTypeError, "threshold", dict(threshold=True)),
        (InputError, "threshold", dict(threshold=1.0)),
        (InputError, "strategy", dict(strategy="greedy")),
        (InputError, "scales", dict(scales="widest")),
        (InputError, "weighting", dict(weighting="uniform")),
    ],
)
def test_errors_name_the_argument(error, argument, arguments):
    with pytest.raises(error) as caught:
        FedMPQ(**arguments)
    assert caught.value.argument == argument


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    "argument, policy, changes",
    [
        ("widths", "INT4", {}),
        ("widths", "FP32", {}),
        ("widths", "S1E3M7", {}),
        ("widths", Policy("INT8", transform=None), {}),
        ("widths", Policy("INT8", overrides={"*/kernel": "INT4"}), {}),
        ("fraction", Policy("INT8", fraction=0.9), {}),
        ("rounding", Policy("INT8", rounding="nearest"), {}),
        ("uplink", "INT8", dict(uplink="weights")),
        ("widths", "INT8", dict(downlink="changes")),
    ],
)
def test_what_it_does_not_go_with_is_refused(build, argument, policy, changes):
    with pytest.raises(InputError) as caught:
        build(model_fn, policy, widths=FedMPQ(lasso=0.005), **{"uplink": "update", **changes})
    assert caught.value.argument == argument
