"""Limits that a user sets, as budgets in integers, and the error of what no allocation can meet."""

import fractions
import math
import numbers

import numpy as np

from omc import checks
from omc.errors import InputError
from omc.mixed_precision.problem import Budget


def checked(name, limit):
    """A limit as a fraction: a ratio as it is, a float as it reads in decimals, 2.3 as 23/10.

    Args:
        name: Argument that it was passed as.
        limit: Number above 0.

    Raises:
        InputTypeError: It is no number.
        InputError: It is not above 0, or not finite.
    """
    expected = "a finite number above 0"
    checks.real(name, limit, expected, lambda number: number > 0)
    exact = isinstance(limit, numbers.Rational)
    return fractions.Fraction(limit if exact else repr(float(limit)))


def plain(name, limit):
    """A limit as an int or a float, which JSON can hold.

    Args, raises: As `checked`.
    """
    checked(name, limit)
    return int(limit) if isinstance(limit, numbers.Integral) else float(limit)


def bits_budget(limit, counts, formats):
    """Average bits of a code over the variables' weights; padding and transforms not counted.

        sum_l n_l b_l <= floor(limit * sum_l n_l)

    A float that is the average of an allocation admits that allocation: 8 / 3 is no fraction of
    two.

    Args:
        limit: Bits a weight.
        counts: Weights of each variable.
        formats: Sequence of Format.

    Returns:
        `Budget`.

    Raises:
        InputError, InputTypeError: As `checked`; or no allocation can meet it.
    """
    share, total = checked("bits", limit), sum(counts)
    most = math.floor(share * total)
    if float((most + 1) / total) <= limit:  # As an average that was computed in floats reads.
        most += 1
    costs = np.outer(np.array(counts, np.int64), [fmt.bits for fmt in formats]).astype(np.int64)
    budget = Budget("bits", costs, most)
    least = int(costs.min(axis=1).sum())
    if least > budget.limit:
        _refuse("bits", f"{math.ceil(1e4 * least / total) / 1e4:g} bits a weight", limit)
    return budget


def bytes_budget(name, limit, costs, others):
    """Bytes of a whole model.

    Args:
        name: Argument.
        limit: Bytes.
        costs: int64 [variables, formats], bytes of the variables that are allocated.
        others: Bytes of all other variables.

    Returns:
        `Budget`, of what the others leave.

    Raises:
        InputError, InputTypeError: As `checked`; or no allocation can meet it.
    """
    whole = math.floor(checked(name, limit))
    least = int(costs.min(axis=1).sum())
    if others + least > whole:
        tip = f"{others:,} of them are variables that the policy leaves out." if others else ""
        _refuse(name, f"{others + least:,} bytes", limit, tip)
    return Budget(name, costs, whole - others)


def refuse_peak(limit, least):
    """Raises the error of a peak that no allocation meets.

    Args:
        limit: Bytes that were allowed.
        least: Bytes that a step took with the least stored bytes.
    """
    _refuse("peak_bytes", f"{least:,} bytes", limit, "smaller batches take less, too.")


def _refuse(name, least, limit, tip=""):
    got = f"{limit:,}" if isinstance(limit, int) else repr(limit)
    tip = tip or "allow narrower formats, or raise the budget."
    raise InputError(name, f"{least} or more, which is the least possible", got, tip)
