"""Transfers, rounds and targets against plain Python, and what has to hold for all of them."""

import dataclasses
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tff_sims.fleet import accuracy, simulation, table, transfer
from tff_sims.fleet.devices import draw
from tff_sims.fleet.rounds import Costs, Protocol, simulate
from tff_sims.results import Round

HEAD = "name,share,down_mbps,up_mbps,latency_s,speed,availability,failure"
BYTES, MBPS, LATENCY = st.integers(0, 10_000_000), st.floats(0.05, 500), st.floats(0, 2)


def plain_transfer(nbytes, mbps, latency, loss):
    """Window after window, each twice as large as the one before."""
    rate = mbps * 1e6 / 8 * (1 - loss)
    start = end = transfer.TRIPS * latency
    window, rest = transfer.WINDOW, nbytes
    while rest > 0:
        end = start + min(window, rest) / rate
        rest -= window
        start = max(end, start + latency)
        window *= 2
    return end


@given(st.lists(st.tuples(BYTES, MBPS, LATENCY, st.floats(0, 0.9)), min_size=1, max_size=9))
def test_a_transfer_is_as_plain_python_says(links):
    got = transfer.seconds(*map(np.array, zip(*links)))
    np.testing.assert_allclose(got, [plain_transfer(*link) for link in links], rtol=1e-9)


@given(BYTES, MBPS, LATENCY, st.floats(0, 0.9), st.floats(1, 10))
def test_a_transfer_is_monotone(nbytes, mbps, latency, loss, times):
    def seconds(nbytes=nbytes, mbps=mbps, latency=latency, loss=loss):
        return float(transfer.seconds(nbytes, mbps, latency, loss)) * (1 + 1e-12)

    assert seconds(mbps=mbps * times) <= seconds() <= seconds(nbytes=nbytes * times)
    assert seconds() <= seconds(latency=latency * times)
    assert seconds(loss=0) <= seconds()


@st.composite
def fleets(draw_):
    """(devices, seconds of each) of a fleet of 50, with two methods."""
    free, failure = draw_(st.floats(0.05, 1)), draw_(st.sampled_from([0.0, 0.1, 0.5]))
    seed = draw_(st.integers(0, 1000))
    lines = HEAD, f"a,1,5,5,0,1,{free},{failure}", f"b,1,1,1,0,1,uniform {free / 2} {free},0"
    devices = draw(table.parse(lines, "test"), 50, seed)
    rng = np.random.default_rng(seed)
    return devices, {
        name: Costs(rng.lognormal(1, 1, 50), rng.integers(1, 9, 50), rng.integers(1, 9, 50))
        for name in ("slow", "quick")
    }


PROTOCOLS = st.builds(
    Protocol,
    answers=st.integers(1, 60),
    over_selection=st.sampled_from([0.0, 0.3, 1.0]),
    deadline=st.sampled_from([0.5, 3.0, 100.0]),
)


def plain_rounds(devices, cost, protocol, number, seed):
    """Rounds as a loop over devices says, each a dict."""
    rows = []
    for place in range(number):
        luck = np.random.default_rng([seed, 4, place]).random(len(devices), dtype=np.float32)
        fate = np.random.default_rng([seed, 5, place]).random(protocol.asked)
        free = [d for d in range(len(devices)) if luck[d] < devices.availability[d]]
        free.sort(key=lambda d: (luck[d] / devices.availability[d], d))
        asked = free[: protocol.asked]
        times, failed = [], 0
        for d, one in zip(asked, fate):
            if one < devices.failure[d]:
                failed += 1
            else:
                times.append((cost.seconds[d], cost.up_bytes[d]))
        times.sort(key=lambda pair: pair[0])
        wanted = min(len(asked), protocol.answers)
        end = times[wanted - 1][0] if 0 < wanted <= len(times) else math.inf
        end = min(end, protocol.deadline)
        answers = [up for seconds, up in times if seconds <= end][:wanted]
        rows.append(
            dict(
                seconds=end,
                asked=len(asked),
                answers=len(answers),
                late=len(times) - len(answers),
                failed=failed,
                down_bytes=sum(cost.down_bytes[d] for d in asked),
                up_bytes=sum(answers),
            )
        )
    return rows


@settings(max_examples=60)
@given(fleets(), PROTOCOLS)
def test_rounds_are_as_plain_python_says(fleet, protocol):
    devices, costs = fleet
    found = simulate(devices, costs, protocol, 8, 3)
    for method, cost in costs.items():
        plain = plain_rounds(devices, cost, protocol, 8, 3)
        for key, values in dataclasses.asdict(found[method]).items():
            np.testing.assert_allclose(values, [row[key] for row in plain], err_msg=key)
        told = simulation._rounds(found[method], protocol)
        for key, share in (("median", 0.5), ("p95", 0.95)):
            assert math.isclose(told[key], plain_percentile([r["seconds"] for r in plain], share))


def plain_percentile(values, share):
    values = sorted(values)
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


@settings(max_examples=60)
@given(fleets(), PROTOCOLS, st.floats(0, 2))
def test_over_selection_never_lengthens_a_round(fleet, protocol, more):
    devices, costs = fleet
    less = simulate(devices, costs, protocol, 6, 0)
    wider = dataclasses.replace(protocol, over_selection=protocol.over_selection + more)
    found = simulate(devices, costs, wider, 6, 0)
    for method in costs:
        assert np.all(found[method].seconds <= less[method].seconds)
        assert np.all(found[method].answers >= less[method].answers)


@settings(max_examples=60)
@given(fleets(), PROTOCOLS, st.floats(1, 5))
def test_deadlines_hold_and_quicker_devices_do_not_take_longer(fleet, protocol, times):
    devices, costs = fleet
    cost = costs["slow"]
    both = {"as is": cost, "quicker": dataclasses.replace(cost, seconds=cost.seconds / times)}
    found = simulate(devices, both, protocol, 6, 0)
    assert np.all(found["quicker"].seconds <= found["as is"].seconds)
    for one in found.values():
        assert np.all(one.seconds <= protocol.deadline)
        assert np.all(one.answers + one.late + one.failed == one.asked)
        assert np.all(one.answers <= protocol.answers) and np.all(one.asked <= protocol.asked)


@settings(max_examples=20)
@given(fleets(), PROTOCOLS)
def test_the_seed_decides_and_methods_do_not_disturb_each_other(fleet, protocol):
    devices, costs = fleet
    one, same = (simulate(devices, costs, protocol, 5, 7) for _ in range(2))
    alone = simulate(devices, {"quick": costs["quick"]}, protocol, 5, 7)["quick"]
    for key, values in dataclasses.asdict(one["quick"]).items():
        np.testing.assert_array_equal(values, getattr(same["quick"], key))
        np.testing.assert_array_equal(values, getattr(alone, key))


def test_who_is_asked_is_fair_and_free():
    lines = HEAD, "a,1,1,1,0,1,0.02,0", "b,1,1,1,0,1,0.08,0"
    devices = draw(table.parse(lines, "test"), 20_000, 0)
    # Every device has its number in the bytes, so that the sums tell who was asked.
    ones, who = np.ones(20_000), (devices.of == 1).astype(float)
    found = simulate(devices, {"m": Costs(ones, who, ones)}, Protocol(50), 400, 0)["m"]
    assert np.all(found.asked == 50)
    # Of 20,000 asked four fifths are of the class that is free four times as often.
    assert abs(found.down_bytes.sum() / 20_000 - 0.8) < 0.01


def test_without_free_devices_a_round_passes_and_brings_nothing():
    devices = draw(table.parse((HEAD, "a,1,1,1,0,1,0.00001,0"), "test"), 3, 0)
    ones = np.ones(3)
    found = simulate(devices, {"m": Costs(ones, ones, ones)}, Protocol(2), 3, 0)["m"]
    assert found.asked.sum() == 0 and found.seconds.tolist() == [60, 60, 60]
    assert found.time_to(1) is None and found.bytes_to(1) is None


def test_time_and_bytes_to_a_round_leave_out_what_brought_nothing():
    devices = draw(table.parse((HEAD, "a,1,1,1,0,1,0.3,0"), "test"), 3, 0)
    ones = np.ones(3)
    found = simulate(devices, {"m": Costs(ones, ones, 2 * ones)}, Protocol(1), 50, 0)["m"]
    empty = int((found.asked == 0).sum())
    assert 0 < empty < 50  # 0.7^3 of 50
    assert found.time_to(50 - empty) <= 60 * empty + 50 - empty
    assert found.bytes_to(50 - empty) == 3 * (50 - empty)
    assert found.time_to(51 - empty) is None


def rows(*accuracies, seed=0):
    fixed = dict(
        master_accuracy=0, train_loss=0, clients=1, failed=0, stragglers=0, parameter_bytes=0,
        downlink_bytes=100, uplink_bytes=10, seconds=1, warm=1,
    )  # fmt: skip
    return [
        Round(seed=seed, round=number, accuracy=value, **fixed)
        for number, value in enumerate(accuracies, 1)
    ]


def test_a_target_is_reached_where_the_accuracy_stays():
    nan = math.nan
    run = rows(0.1, 0.9, nan, 0.5, 0.8, nan, 0.9, 0.85, 0.7)
    assert accuracy.rounds_to(run, 0.8, 0) == 2
    assert accuracy.rounds_to(run, 0.8, 1) == accuracy.rounds_to(run, 0.8, 2) == 5
    assert accuracy.rounds_to(run, 0.8, 3) is None  # Not so long.
    assert accuracy.rounds_to(run, 0.7, 3) == 5
    assert accuracy.rounds_to(run, 0.7, 4) is None  # Not known to: the run ends.
    assert accuracy.rounds_to(run, 0.95, 0) is None


def test_bytes_to_a_target_are_the_rows_own_over_the_seeds_that_reach_it():
    run = rows(0.1, 0.9, 0.9) + rows(0.9, 0.9, 0.9, seed=1) + rows(0, 0, 0, seed=2)
    reached = accuracy.by_seed(run, 0.9, 1)
    assert reached == {0: 2, 1: 1, 2: None}
    assert accuracy.client_bytes(run, reached) == (220 + 110) / 2
    assert accuracy.client_bytes(run, {2: None}) is None
    assert math.isclose(accuracy.default_target(run), 0.6 - 0.005)
