"""Sensitivities: what it is taken to cost that a variable is stored in a format."""

from typing import Callable, NamedTuple

from omc.errors import InputError


class Sensitivity(NamedTuple):
    """Losses of one variable, from what is measured of it.

    Attributes:
        losses: (errors, trace, count, bits) -> float64 [formats], with ||W - W_hat||^2 of each
            format, the trace t of the Hessian, n weights, and the bits of each format.
        errors: Whether it needs the errors; they are None otherwise.
        traces: Whether it needs the trace.
    """

    losses: Callable
    errors: bool = False
    traces: bool = False


def _error(errors, trace, count, bits):
    """||W - W_hat(b)||^2."""
    return errors


def _hessian(errors, trace, count, bits):
    """|t| 4^-b: as if all weights had one distribution, and a bit halved every error (ours)."""
    return abs(trace) * 4.0**-bits


def _hessian_error(errors, trace, count, bits):
    """(|t| / n) ||W - W_hat(b)||^2, HAWQ-v2's.

    Twice the loss that is expected, by Taylor's series at a minimum, of errors that favour no
    direction. A trace below 0 counts by its size (ours): the curvature is there, whatever its sign.
    """
    return abs(trace) / count * errors


def _hasb_printed(errors, trace, count, bits):
    """(t / n) b, minimised as HASB prints it (arXiv 2502.01199): narrow where it is sensitive."""
    return trace / count * bits


def _hasb_code(errors, trace, count, bits):
    """-(t / n) b: HASB's official code maximises the sum that the paper minimises."""
    return -trace / count * bits


SENSITIVITIES = {
    "error": Sensitivity(_error, errors=True),
    "hessian": Sensitivity(_hessian, traces=True),
    "hessian_error": Sensitivity(_hessian_error, errors=True, traces=True),
    "hasb_printed": Sensitivity(_hasb_printed, traces=True),
    "hasb_code": Sensitivity(_hasb_code, traces=True),
}


def named(sensitivity):
    """The `Sensitivity` of a name.

    Raises:
        InputError: There is none.
    """
    if not isinstance(sensitivity, str) or sensitivity not in SENSITIVITIES:
        raise InputError("sensitivity", f"one of {tuple(SENSITIVITIES)}", sensitivity)
    return SENSITIVITIES[sensitivity]
