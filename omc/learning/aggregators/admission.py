"""Admission: an answer is checked against its contract before it has a part in anything.

What a client sends is never trusted. It is rejected whole where

    size        a tensor is not as long as its variable's, or its coded stream is damaged
    round       it was made for another round
    weight      it says that it has no finite number of examples, or more than are allowed
    widths      under FedMPQ: it says widths that the server did not give to its budget
    non_finite  it reads as NaN or infinity
    magnitude   it reads as a value larger than is allowed: a scale of 1e30, say

The first that applies is its fault.
"""

import dataclasses
from typing import Any, Optional

import tensorflow as tf

KINDS = ("size", "round", "weight", "widths", "non_finite", "magnitude")
"""Faults, in the order in which they are looked for."""


@dataclasses.dataclass(frozen=True)
class Admitted:
    """One client's answer after the server has read it.

    Attributes:
        values: List of float32 tensors, what the uplink reads; zeros where it was rejected.
        report: What the client says of its widths, uint8; None where widths are not allocated.
        weight: Its examples, float32; 0 where it was rejected, diverged or had no data.
        fault: int32 [len(KINDS)], 1 at the fault for which it was rejected.
        tensors: What was sent through the uplink, a list.
    """

    values: list
    report: Optional[Any]
    weight: tf.Tensor
    fault: tf.Tensor
    tensors: list


def admit(federation, answer, weight, round_number, allocation):
    """Reads one client's answer and checks it: `Admitted`.

    A client whose weight is 0 has no part in the sum and no fault: it had no data, or found itself
    that it diverged.

    Args:
        federation: `Federation`.
        answer: List of tensors, as of `Federation.answer_specs`.
        weight: float32 scalar, examples.
        round_number: int32 scalar, the server's.
        allocation: What the server knows of the clients' widths in this round; () for nothing.
    """
    plan, aggregator = federation.plan.allocated(allocation), federation.aggregator
    *tensors, stamp = answer
    report = tensors.pop() if plan.allocates else None
    sound, values = federation.uplink.read(plan.trainable, tensors)
    checks = {
        "size": sound,
        "round": tf.equal(stamp, round_number),
        "weight": (weight >= 0.0) & (weight <= aggregator.most_examples),
        "widths": plan.widths.admits(plan, report) if plan.allocates else tf.constant(True),
        "non_finite": _all(values, lambda value: tf.reduce_all(tf.math.is_finite(value))),
        "magnitude": _all(values, lambda v: tf.reduce_all(tf.abs(v) <= aggregator.largest)),
    }
    failed = ~tf.stack([checks[kind] for kind in KINDS])
    silent = tf.equal(weight, 0.0)
    first = tf.one_hot(tf.argmax(failed), len(KINDS), dtype=tf.int32)
    fault = tf.where(tf.reduce_any(failed) & ~silent, first, 0)
    counts = ~tf.reduce_any(failed) & ~silent
    return Admitted(
        [tf.where(counts, value, 0.0) for value in values],
        report,
        tf.where(counts, weight, 0.0),
        fault,
        tensors,
    )


def unread():
    """The fault of an answer that is no list of tensors of the right types: its size."""
    return tf.one_hot(KINDS.index("size"), len(KINDS), dtype=tf.int32)


def _all(values, holds):
    return tf.reduce_all(tf.stack([holds(value) for value in values]))
