"""Limits that a user sets, as budgets in integers, and the error of what no allocation can meet."""

import fractions
import math
import numbers

import numpy as np

from omc.errors import InputError, InputTypeError
from omc.mixed_precision.problem import Budget


def checked(name, limit):
    """A limit as a fraction, as it reads in decimals: 2.3 is 23/10.

    Args:
        name: Argument that it was passed as.
        limit: Number above 0.

    Raises:
        InputTypeError: It is no number.
        InputError: It is not above 0, or not finite.
    """
    if isinstance(limit, bool) or not isinstance(limit, numbers.Real):
        raise InputTypeError(name, "a number", limit)
    if not (math.isfinite(limit) and limit > 0):
        raise InputError(name, "a finite number above 0", limit)
    return fractions.Fraction(repr(float(limit)))


def bits_budget(limit, counts, formats):
    """Average bits of a code over the variables' weights; padding and transforms not counted.

        sum_l n_l b_l <= floor(limit * sum_l n_l)

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
    costs = np.outer(np.array(counts, np.int64), [fmt.bits for fmt in formats]).astype(np.int64)
    budget = Budget("bits", costs, math.floor(share * total))
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
