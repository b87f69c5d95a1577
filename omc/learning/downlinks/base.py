"""Downlink: what the server offers in a round, what a client gets of it and what it makes of it."""

import abc

import tensorflow as tf


class Downlink(abc.ABC):
    """The way of the weights to the clients.

    The server packs its master once a round, into *offers*: for each tensor of a client's payload
    the list of what may be sent. A client gets one of each, as `choices` says, and makes buffers of
    them. All methods are pure functions of tensors, traced into the composed process and the
    controlled one alike. A downlink holds settings only.
    """

    @abc.abstractmethod
    def offer(self, plan, values):
        """Packs the master.

        Args:
            plan: `ModelPlan`.
            values: float32 tensors, one a variable.

        Returns:
            (offers, distortion): for each tensor of a payload the list of its alternatives;
            ||Q(w) - w||^2 / ||w||^2 for the policy's format, a float32 scalar.
        """

    @abc.abstractmethod
    def specs(self, plan):
        """tf.TensorSpecs of a client's payload."""

    def choices(self, plan, round_number, client):
        """For each tensor of a payload, which of its alternatives a client gets; int32 scalars.

        Args:
            plan: `ModelPlan`.
            round_number, client: int32 scalars.
        """
        return plan.choices(round_number, client)

    @abc.abstractmethod
    def receive(self, plan, payload, choices):
        """What a client stores: for each variable a buffer of codes, or float32.

        Args:
            plan: `ModelPlan`.
            payload: List of tensors.
            choices: As of `choices`.
        """


def pick(offers, choices):
    """A client's payload, list of tensors; in a graph.

    Args:
        offers, choices: As of a `Downlink`.
    """
    return [_picked(alternatives, choice) for alternatives, choice in zip(offers, choices)]


def _picked(alternatives, choice):
    if len(alternatives) == 1:
        return alternatives[0]
    return tf.switch_case(choice, [lambda a=a: tf.identity(a) for a in alternatives])
