"""Downlink: what the server offers in a round, what a client gets of it and what it makes of it."""

import abc
from typing import Any, NamedTuple

import tensorflow as tf


class Offer(NamedTuple):
    """What the server has for the clients of a round.

    Attributes:
        sent: For each tensor of a payload, the list of what a client may be sent.
        held: For each tensor of a payload, the list of what a client that is sent the same place
            of `sent` holds already, on its own disk; empty lists where that is nothing. A
            simulation has to bring it there, but it is no traffic.
        distortion: ||Q(w) - w||^2 / ||w||^2 of what is packed, a float32 scalar.
    """

    sent: list
    held: list
    distortion: Any


class Downlink(abc.ABC):
    """The way of the weights to the clients.

    The server packs its master once a round, into an `Offer`. A client gets one of each tensor's
    alternatives, as `choices` says, and makes buffers of them. All methods are pure functions of
    tensors, traced into the composed process and the controlled one alike. A downlink holds
    settings only; what the server has to remember from round to round is its `memory`.

    Attributes:
        remembers: Whether it has a memory and clients hold versions. Only the composed process
            serves such a downlink.
        needs_native_ops: Whether it codes, which TFF's workers can only with OMC's native ops.
    """

    remembers = False
    needs_native_ops = False

    def check(self, policy, widths):  # noqa: B027 - Most refuse nothing.
        """Refuses what this downlink cannot serve; by default nothing.

        Args:
            policy: `omc.Policy`.
            widths: `omc.learning.Widths` of the clients, or None.

        Raises:
            InputError: With the argument and the way out.
        """

    def memory(self, plan):
        """What the server remembers before the first round, a structure of tensors.

        Args:
            plan: `ModelPlan`.
        """
        return ()

    @abc.abstractmethod
    def offer(self, plan, values, memory):
        """Packs the master.

        Args:
            plan: `ModelPlan`.
            values: float32 tensors, one a variable.
            memory: As of `memory`.

        Returns:
            (`Offer`, the memory afterwards).
        """

    def took_part(self, memory, round_number, clients):
        """The memory after clients have received what was offered.

        Args:
            memory: As `offer` gave it.
            round_number: int32 scalar.
            clients: Their ids, int32 [None].
        """
        return memory

    @abc.abstractmethod
    def specs(self, plan):
        """tf.TensorSpecs of a client's payload."""

    def options(self, plan):
        """How many alternatives `Offer.sent` has for each tensor of a payload, a list of ints.

        Args:
            plan: `ModelPlan`.
        """
        return [max(len(codecs), 1) for codecs in plan.alternatives]

    def choices(self, plan, memory, round_number, client):
        """For each tensor of a payload, which of its alternatives a client gets; int32 scalars.

        Args:
            plan: `ModelPlan`.
            memory: As `offer` was given it, but for what `known_to_clients` leaves out.
            round_number, client: int32 scalars.
        """
        return plan.choices(round_number, client)

    def known_to_clients(self, memory):
        """The part of the memory that `choices` looks at: in truth each device knows its own."""
        return ()

    @abc.abstractmethod
    def receive(self, plan, payload, held, choices):
        """What a client stores: for each variable a buffer of codes, or float32.

        Args:
            plan: `ModelPlan`.
            payload: List of tensors.
            held: List of tensors, one a tensor of the payload; None where it holds nothing.
            choices: As of `choices`.
        """


def pick(alternatives, choices):
    """One of each tensor's alternatives, in a graph; None where there are none.

    Args:
        alternatives: List of lists of tensors.
        choices: List of int32 scalars.
    """
    return [_picked(tensors, choice) for tensors, choice in zip(alternatives, choices)]


def delivered(downlink, plan, values, memory, round_number, client):
    """What one client would store in a round, and what it would be sent; without any process.

    Args:
        downlink: `Downlink`.
        plan: `ModelPlan`.
        values: float32 tensors, the master, one a variable.
        memory: The server's, from before the round.
        round_number, client: int32 scalars.

    Returns:
        (stored, payload): lists of tensors, one a variable.
    """
    offer, _ = downlink.offer(plan, values, memory)
    known = downlink.known_to_clients(memory)
    choices = downlink.choices(plan, known, round_number, client)
    payload, held = pick(offer.sent, choices), pick(offer.held, choices)
    return downlink.receive(plan, payload, held, choices), payload


def _picked(tensors, choice):
    if len(tensors) <= 1:
        return tensors[0] if tensors else None
    return tf.switch_case(choice, [lambda t=t: tf.identity(t) for t in tensors])
