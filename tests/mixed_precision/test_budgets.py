"""Budgets: each holds in the model that is really wrapped; an impossible one tells the least."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import omc
from omc.errors import InputError
from omc.keras import CompressedVariable
from omc.keras.host import variables_of
from omc.mixed_precision import STRATEGIES, Allocator
from omc.mixed_precision.measuring import entropy_nbytes
from tests.mixed_precision.sample import ALLOCATOR, LEAST, MODEL, MOST, build


def zlib_nbytes(buffer, codec):
    """A coder that exists, to be plugged in."""
    return len(zlib.compress(np.asarray(buffer).tobytes()))


def code_bits(model):
    """Average bits of a code over the packed variables that a model holds."""
    packed = [v for v in variables_of(model) if isinstance(v, CompressedVariable)]
    counts = [v.codec.count for v in packed]
    return sum(v.codec.format.bits * n for v, n in zip(packed, counts)) / sum(counts)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_average_bits_hold_in_the_wrapped_model(strategy):
    for bits in (2, 2.7, 4.35):
        policy = ALLOCATOR.allocate(bits=bits, strategy=strategy)
        used = code_bits(omc.wrap(build(), policy))
        assert used <= bits
        assert policy.budgets == (("bits", bits, pytest.approx(used)),)


@given(st.integers(LEAST, MOST + 50), st.sampled_from(list(STRATEGIES)))
@settings(max_examples=8)
def test_stored_bytes_hold_in_the_wrapped_model(limit, strategy):
    policy = ALLOCATOR.allocate(stored_bytes=limit, strategy=strategy)
    report = omc.memory_report(omc.wrap(build(), policy))
    assert report.stored_bytes == policy.stored_bytes <= limit
    assert [(r.name.split("/")[-1], r.format, r.stored_bytes) for r in report.rows] == [
        (r.name.split("/")[-1], r.format, r.stored_bytes) for r in policy.rows
    ]


@pytest.mark.parametrize("coder", [zlib_nbytes, entropy_nbytes])
def test_bytes_on_the_wire_hold_for_the_wrapped_models_buffers(coder):
    allocator = Allocator(MODEL, coded_nbytes=coder)
    least = Allocator(MODEL, ["INT2"], coded_nbytes=coder).allocate(wire_bytes=10**6)
    for limit in (least.budgets[0].used, least.budgets[0].used + 333):
        policy = allocator.allocate(wire_bytes=limit)
        sent = sum(
            coder(v.buffer.numpy(), v.codec)
            if isinstance(v, CompressedVariable)
            else v.numpy().nbytes
            for v in variables_of(omc.wrap(build(), policy))
        )
        assert sent == policy.budgets[0].used <= limit
        assert sent == sum(row.coded_bytes for row in policy.rows)


def test_the_stand_in_is_the_entropy_of_the_codes():
    codes = np.repeat([-2, -1, 0, 1], [8, 8, 16, 32]).astype(np.float32)  # 64 codes, 1.75 bits.
    compressed = omc.compress(codes, "INT2", transform=None)
    assert entropy_nbytes(compressed.buffer, compressed.codec) == 14
    compressed = omc.compress(codes, "INT2")
    assert entropy_nbytes(compressed.buffer, compressed.codec) <= 14 + 8
    raw = omc.compress(codes, "FP32")
    assert entropy_nbytes(raw.buffer, raw.codec) == 256


def test_several_budgets_hold_at_once():
    limits = dict(bits=5.5, stored_bytes=LEAST + 700, wire_bytes=1300)
    policy = ALLOCATOR.allocate(**limits)
    assert {use.name: use.limit for use in policy.budgets} == limits
    assert all(use.used <= use.limit for use in policy.budgets)
    for name, limit in limits.items():
        assert ALLOCATOR.allocate(**{name: limit}).loss <= policy.loss


class TestPeak:
    """Under a made-up step, whose overhead depends on the formats a little."""

    @staticmethod
    def step_peak(policy):
        wide = sum(fmt != "INT2" for fmt in policy.widths.values())
        return policy.stored_bytes + 5000 + 37 * wide

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_holds_as_measured(self, strategy):
        for more in (0, 36, 200, 1500, 10**6):
            limit = LEAST + 5000 + more
            policy = ALLOCATOR.allocate(
                peak_bytes=limit, step_peak=self.step_peak, strategy=strategy
            )
            assert policy.budgets == (("peak_bytes", limit, self.step_peak(policy)),)
            assert policy.budgets[0].used <= limit
        assert policy.stored_bytes == MOST

    def test_beside_other_budgets(self):
        policy = ALLOCATOR.allocate(bits=3, peak_bytes=10**6, step_peak=self.step_peak)
        assert [use.name for use in policy.budgets] == ["bits", "peak_bytes"]
        assert policy.widths == ALLOCATOR.allocate(bits=3).widths

    def test_an_overhead_that_jumps_leaves_the_narrowest(self):
        def jumps(policy):
            return 6000 if policy.stored_bytes == LEAST else 10**6 + policy.stored_bytes

        policy = ALLOCATOR.allocate(peak_bytes=6500, step_peak=jumps)
        assert policy.stored_bytes == LEAST


@pytest.mark.parametrize(
    "limits, least",
    [
        (dict(bits=1.99), "2 bits"),
        (dict(stored_bytes=LEAST - 1), f"{LEAST:,} bytes"),
        (dict(wire_bytes=100), " bytes"),
        (dict(peak_bytes=LEAST, step_peak=lambda p: p.stored_bytes + 7), f"{LEAST + 7:,} bytes"),
    ],
)
def test_an_impossible_budget_tells_the_least_possible(limits, least):
    with pytest.raises(InputError, match=f"expected .*{least}.* the least possible") as caught:
        ALLOCATOR.allocate(**limits)
    assert caught.value.argument == next(iter(limits))


def test_the_least_possible_is_possible():
    assert ALLOCATOR.allocate(stored_bytes=LEAST).stored_bytes == LEAST
    with pytest.raises(InputError) as caught:
        ALLOCATOR.allocate(wire_bytes=1)
    least = int(caught.value.expected.split()[0].replace(",", ""))
    assert ALLOCATOR.allocate(wire_bytes=least).budgets[0].used == least
    with pytest.raises(InputError):
        ALLOCATOR.allocate(wire_bytes=least - 1)
