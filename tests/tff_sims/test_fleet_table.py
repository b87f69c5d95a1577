"""A fleet's description is read as it says, and devices are drawn as it says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omc.errors import InputError
from tff_sims.fleet import presets, table
from tff_sims.fleet.devices import draw

HEAD = "name,share,down_mbps,up_mbps,latency_s"


def read(*lines):
    return table.parse(lines, "test.csv")


def test_what_the_file_does_not_say_is_as_documented():
    devices = draw(read(HEAD, "a,1,8,2,0.1"), 4, 0)
    for name, value in dict(
        down_mbps=8, up_mbps=2, latency_s=0.1, loss=0, speed=1, availability=1, failure=0, bits=0
    ).items():
        np.testing.assert_array_equal(getattr(devices, name), [value] * 4)
    assert not devices.has_nights and devices.classes == ("a",) and len(devices) == 4


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.integers(0, 5000))
def test_classes_have_their_shares_to_one_device(shares, count):
    rows = [f"c{place},{share},1,1,0" for place, share in enumerate(shares)]
    devices = draw(read(HEAD, *rows), count, 0)
    counts = np.bincount(devices.of, minlength=len(shares))
    assert counts.sum() == count == len(devices)
    assert np.all(np.abs(counts - np.array(shares) / sum(shares) * count) < 1)


def test_distributions_are_those_that_are_named():
    lines = (HEAD, "a,1,lognormal 9 0.5,uniform 2 4,0", "b,1,3,3,uniform 0.1 0.1")
    devices = draw(read(*lines), 200_000, 3)
    a, b = devices.of == 0, devices.of == 1
    logs = np.log(devices.down_mbps[a])
    # Three standard errors of 100,000 draws.
    assert abs(logs.mean() - math.log(9)) < 0.005 and abs(logs.std() - 0.5) < 0.004
    up = devices.up_mbps[a]
    assert 2 <= up.min() and up.max() <= 4 and abs(up.mean() - 3) < 0.006
    assert np.all(devices.down_mbps[b] == 3) and np.allclose(devices.latency_s[b], 0.1)
    # A good downlink comes with a good uplink.
    assert np.array_equal(np.argsort(devices.down_mbps[a]), np.argsort(up))


def test_tails_are_cut_to_what_a_column_may_hold():
    devices = draw(read(HEAD + ",loss", "a,1,1,1,0,lognormal 0.5 3"), 1000, 0)
    assert devices.loss.max() == 0.99


def test_the_seed_decides():
    read_ = table.parse(presets.DEFAULT.splitlines(), "built in")
    one, same, other = (draw(read_, 5000, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.down_mbps, same.down_mbps)
    assert np.array_equal(one.zone_h, same.zone_h)
    assert not np.array_equal(one.down_mbps, other.down_mbps)


def test_a_column_more_leaves_the_others_as_they_are():
    rows = HEAD, "a,1,lognormal 9 1,1,0"
    more = HEAD + ",speed", "a,1,lognormal 9 1,1,0,uniform 1 2"
    plain, with_speed = draw(read(*rows), 50, 0), draw(read(*more), 50, 0)
    assert np.array_equal(plain.down_mbps, with_speed.down_mbps)


def test_without_shares_each_row_is_one_device():
    devices = draw(
        read("name,down_mbps,up_mbps,latency_s", "a,1,2,0", "b,3,4,0", "a,5,6,0"), None, 0
    )
    assert devices.classes == ("a", "b") and devices.of.tolist() == [0, 1, 0]
    assert devices.down_mbps.tolist() == [1, 3, 5]


def test_many_names_are_devices_not_classes():
    rows = [f"d{place},1,1,0" for place in range(101)]
    devices = draw(read("name,down_mbps,up_mbps,latency_s", *rows), None, 0)
    assert devices.classes == ("devices",) and not devices.of.any()


def test_the_line_and_the_column_are_named(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(HEAD + "\n\na,1,8,2,0.1\nb,1,8,fast,0.1\n")
    with pytest.raises(InputError, match=r"'fast' in line 4, column 'up_mbps' of .*mine\.csv"):
        table.read(path)


def test_night_comes_by_the_devices_own_clock():
    head = HEAD + ",availability,night_availability,zone_h"
    devices = draw(
        read(head, "a,1,1,1,0,0.1,0.5,0", "b,1,1,1,0,0.1,0.5,12", "c,1,1,1,0,1,1,0"), 3, 0
    )
    at = {hour: devices.free_at(hour * 3600.0, np.arange(3)).tolist() for hour in (0, 5, 6, 12, 22)}
    assert at[0] == at[5] == at[22] == [0.5, 0.1, 1] and at[12] == [0.1, 0.5, 1]
    assert at[6] == [0.1, 0.1, 1] and devices.has_nights and devices.most_available == 1
