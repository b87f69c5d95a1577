"""Sensitivities: what it is taken to cost that a variable is stored in a format."""

from typing import Callable, NamedTuple, Optional

from omc.errors import InputError


class Line(NamedTuple):
    """What is measured of one variable; None what its sensitivity does not need.

    Attributes:
        count: Number n of its weights.
        bits: float64 [formats], bits of a code.
        errors: float64 [formats], ||W - W_hat||^2.
        trace: Trace t of the Hessian of the loss.
        increases: float64 [formats], the loss with this variable alone in the format, less the loss
            with none.
    """

    count: int
    bits: object
    errors: object = None
    trace: Optional[float] = None
    increases: object = None


class Sensitivity(NamedTuple):
    """Losses of one variable, from what is measured of it.

    Attributes:
        losses: `Line` -> float64 [formats].
        needs: Tuple of the fields of `Line`, beside count and bits, that it reads.
    """

    losses: Callable
    needs: tuple = ()


def _error(line):
    """||W - W_hat(b)||^2."""
    return line.errors


def _hessian(line):
    """|t| 4^-b: as if all weights had one distribution, and a bit halved every error (ours)."""
    return abs(line.trace) * 4.0**-line.bits


def _hessian_error(line):
    """(|t| / n) ||W - W_hat(b)||^2, HAWQ-v2's.

    Twice the loss that is expected, by Taylor's series at a minimum, of errors that favour no
    direction. A trace below 0 counts by its size (ours): the curvature is there, whatever its sign.
    """
    return abs(line.trace) / line.count * line.errors


def _loss(line):
    """L(W with this variable alone in the format) - L(W), measured; no theory of small errors."""
    return line.increases


def _hasb_printed(line):
    """(t / n) b, minimised as HASB prints it (arXiv 2502.01199): narrow where it is sensitive."""
    return line.trace / line.count * line.bits


def _hasb_code(line):
    """-(t / n) b: HASB's official code maximises the sum that the paper minimises."""
    return -line.trace / line.count * line.bits


SENSITIVITIES = {
    "error": Sensitivity(_error, ("errors",)),
    "hessian": Sensitivity(_hessian, ("trace",)),
    "hessian_error": Sensitivity(_hessian_error, ("errors", "trace")),
    "loss": Sensitivity(_loss, ("increases",)),
    "hasb_printed": Sensitivity(_hasb_printed, ("trace",)),
    "hasb_code": Sensitivity(_hasb_code, ("trace",)),
}


def named(sensitivity):
    """The `Sensitivity` of a name.

    Raises:
        InputError: There is none.
    """
    if not isinstance(sensitivity, str) or sensitivity not in SENSITIVITIES:
        raise InputError("sensitivity", f"one of {tuple(SENSITIVITIES)}", sensitivity)
    return SENSITIVITIES[sensitivity]
