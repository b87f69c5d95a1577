"""Arguments that are numbers: numpy's count, bools do not, float32 has to hold them."""

import fractions

import numpy as np
import pytest

from omc import checks
from omc.errors import InputError, InputTypeError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.int32(3)])
def test_integers(value):
    found = checks.integer("bits", value, least=1, most=8)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", [True, np.bool_(True), 3.0, "3", None, [3], np.array([3])])
def test_what_is_no_integer(value):
    with pytest.raises(InputTypeError, match="`bits`: expected a width, but got .* Tip: 2, say"):
        checks.integer("bits", value, "a width", tip="2, say.")


@pytest.mark.parametrize("value", [0, 9, -1, 10**400])
def test_integers_out_of_bounds(value):
    with pytest.raises(InputError, match="`bits`: expected 1 to 8"):
        checks.integer("bits", value, "1 to 8", 1, 8)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), fractions.Fraction(1, 3), np.int8(1)])
def test_numbers(value):
    found = checks.real("share", value, allowed=lambda v: 0 <= v <= 1)
    assert found == float(value) and type(found) is float


@pytest.mark.parametrize("value", [True, "1", None, 1j, np.array(1.0), np.array([1.0, 2.0])])
def test_what_is_no_number(value):
    with pytest.raises(InputTypeError, match="`share`: expected a number"):
        checks.real("share", value)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 1e39, -1e39, 1e-39, 1e-300, 10**400]
)
def test_what_float32_does_not_hold(value):
    with pytest.raises(InputError, match="`share`: expected a number"):
        checks.real("share", value)


@pytest.mark.parametrize("value", ["d", "", None, 1, np.array(["a", "b"]), ["a"]])
def test_what_is_no_choice(value):
    assert checks.choice("way", "b", ("a", "b")) == "b"
    with pytest.raises(InputError, match="`way`: expected one of .*'a', 'b'"):
        checks.choice("way", value, ("a", "b"))
