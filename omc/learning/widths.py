"""Widths: which clients hold the model at how many bits.

A federation of unequal devices around one nested model (`omc.nested`): the server packs its master
once, and a client receives, stores, trains and returns buffers of its own width and nothing else.
That clients of several widths are averaged as they decode is ours; so is how widths are given out.
"""

import abc
import collections
import dataclasses
import itertools
import math
import numbers
from typing import Optional

import tensorflow as tf

from omc import nested
from omc.codecs import Codec
from omc.errors import InputError, InputTypeError, OmcError
from omc.policies import Policy, VariableSpec


class ClientWidths(abc.ABC):
    """Which widths clients hold a model at: what a plan asks for, `Widths` and `FedMPQ` alike.

    Attributes:
        bits: Tuple of ints, one a class of clients, which traffic is counted by.
        allocates: Whether widths change from layer to layer and round to round, and the server
            remembers an allocation.
    """

    allocates = False

    @classmethod
    def of(cls, widths):
        """The object itself, or equal shares of a sequence of widths; None for None."""
        return widths if widths is None or isinstance(widths, ClientWidths) else Widths(widths)

    @property
    def narrowest(self):
        """Least bits that a client may hold (int)."""
        return min(self.bits)

    @abc.abstractmethod
    def index(self, client):
        """Position in `bits` of a client's class, int32 [], in TensorFlow ops.

        Args:
            client: Its id, an int32 scalar.
        """

    @abc.abstractmethod
    def codecs(self, codec):
        """What a variable of the policy's codec may be stored in, a list of `Codec`s.

        Raises:
            InputError: A width that the format does not have, or integers without a transform.
        """

    def narrowed(self, buffer, codec, own):
        """Buffer of what a client stores of a variable; here by the second rounding (`omc.nested`).

        Args:
            buffer: uint8 [codec.nbytes], the server's.
            codec: `Codec` of the policy.
            own: `Codec` of fewer bits, one of `codecs`.

        Returns:
            uint8 [own.nbytes].
        """
        return nested.extract_buffer(buffer, codec, own.format.bits)

    def places_of(self, plan, index):
        """For each variable with widths, which of its `codecs` a class holds; int32 [variables].

        Args:
            plan: `ModelPlan`.
            index: Position of the class in `bits`, int or int32 [].
        """
        return tf.fill([sum(planned.partial for planned in plan.planned)], index)

    def check(self, policy):
        """Refuses policies that do not have such widths, whatever the model is.

        Args:
            policy: `omc.Policy`.

        Raises:
            InputError: As `codecs`, or an FP32 policy.
        """
        if policy.format.is_fp32:
            tip = "for example 'INT8'."
            raise InputError("widths", "a policy whose format has lower widths", "FP32", tip)
        self.codecs(Codec(policy.format, (1,), policy.transform is not None))


@dataclasses.dataclass(frozen=True)
class Widths(ClientWidths):
    """The width of every client, a function of its id.

    A client that is not named draws its width from (seed, id), so it has the same one in every
    round and run; over many clients the shares come out as given. Ids are what
    `omc.learning.client_id` says.

    Attributes:
        bits: Widths, a tuple of ints: bits of the policy's format, as in `omc.nested.format_at`.
        shares: How many clients draw each width, in proportion; None for equal shares.
        assigned: Dict of client id -> width, for clients whose width is known.
        seed: Seed of the draw, an int.

    Raises:
        InputTypeError: No sequence of integers, no numbers, no dict.
        InputError: No width or one twice; a share below 0, or another number of them than of
            widths; an id that cannot be one; an assigned width that is none of `bits`.
    """

    bits: tuple
    shares: Optional[tuple] = None
    assigned: collections.abc.Mapping = dataclasses.field(default_factory=dict)
    seed: int = 0

    def __post_init__(self):
        bits = _sequence("widths", "a sequence of bit widths or an omc.learning.Widths", self.bits)
        if not all(map(_is_integer, bits)):
            raise InputTypeError("widths", "integers", bits, "such as (8, 4, 2).")
        if not bits or len(set(bits)) < len(bits):
            raise InputError("widths", "one width or more, each once", bits, "such as (8, 4, 2).")
        object.__setattr__(self, "bits", tuple(map(int, bits)))
        if self.shares is not None:
            object.__setattr__(self, "shares", self._checked_shares())
        if not isinstance(self.assigned, collections.abc.Mapping):
            raise InputTypeError("assigned", "a dict of client id -> width", self.assigned)
        for client, width in self.assigned.items():
            if not _is_integer(client):
                raise InputTypeError("assigned", "client ids that are integers", client)
            if not 0 <= client < 2**31:
                tip = "omc.learning.client_id tells a client's."
                raise InputError("assigned", "client ids from 0 to 2^31 - 1", client, tip)
            if not _is_integer(width) or width not in self.bits:
                raise InputError("assigned", f"widths of {self.bits}", f"{width!r} for {client}")
        if not _is_integer(self.seed):
            raise InputTypeError("seed", "an integer", self.seed)

    def _checked_shares(self):
        shares = _sequence("shares", "a sequence of numbers", self.shares)
        if not all(isinstance(s, numbers.Real) and not isinstance(s, bool) for s in shares):
            raise InputTypeError("shares", "numbers", shares)
        right = len(shares) == len(self.bits) and all(0 <= share < math.inf for share in shares)
        if not right or not sum(shares):
            expected = f"{len(self.bits)} numbers from 0, one a width, not all of them 0"
            raise InputError("shares", expected, shares)
        return tuple(map(float, shares))

    def index(self, client):
        """Position in `bits` of a client's width, int32 [], in TensorFlow ops.

        Args:
            client: Its id, an int32 scalar.
        """
        shares = self.shares or (1.0,) * len(self.bits)
        ends = [end / sum(shares) for end in itertools.accumulate(shares)]
        words = tf.constant([self.seed % 2**31, 2], tf.int32)  # Not the stream of training.
        words = tf.random.experimental.stateless_fold_in(words, client, alg="philox")
        draw = tf.random.stateless_uniform([], words, alg="philox")
        index = tf.reduce_sum(tf.cast(draw >= tf.constant(ends[:-1], tf.float32), tf.int32))
        if not self.assigned:
            return index
        known = tf.equal(tf.constant(list(self.assigned), tf.int32), client)
        places = tf.constant([self.bits.index(width) for width in self.assigned.values()])
        found = tf.reduce_max(tf.where(known, places, -1))
        return tf.where(found < 0, index, found)

    def codecs(self, codec):
        """What a variable of the policy's codec is stored in at each width, a list of `Codec`s.

        Narrower ones than the policy's saturate: a step of 2 bits is so wide that a client which
        widened its scale would hand the server a wider master, and so on, round after round.

        Raises:
            InputError: A width that the format does not have, or integers without a transform.
        """
        try:
            codecs = [nested.extracted_codec(codec, bits) for bits in self.bits]
        except OmcError as error:
            name = codec.format.name + ("" if codec.transform else " without transform")
            got = f"{self.bits} of {name}"
            tip = error.tip or "the policy's format is the widest."
            expected = "integers with a scale to widen" if not codec.transform else error.expected
            raise InputError("widths", expected, got, tip) from None
        return [own if own == codec else dataclasses.replace(own, saturates=True) for own in codecs]


def round_to_width(model, policy, bits):
    """Sets a plain Keras model, in place, to what a client of a width downloads of it.

    Its float32 weights are packed as the policy says and read at that width. The model that a width
    is judged by: set it to the server's master, round, evaluate.

    Args:
        model: Keras model that holds the master. (Rounded already, it would be rounded twice.)
        policy: `omc.Policy` or a format's name. Partial quantization is left out of account.
        bits: Width, an int.

    Raises:
        InputError, InputTypeError: As `Widths` and `Widths.codecs`.
    """
    checked_policy(Widths((bits,)), policy)
    planned = Policy.of(policy).candidates([VariableSpec.of(v) for v in model.variables])
    for variable, plan in zip(model.variables, planned):
        if plan.codec is not None:
            buffer = plan.codec.encode(variable.read_value())
            variable.assign(read_at(plan, bits).decode(buffer))


def read_at(planned, bits):
    """The codec that reads a planned variable's buffer at a width; overrides have one width only.

    Args:
        planned: `PlannedVariable` with a codec.
        bits: Width, an int.
    """
    return nested.codec_at(planned.codec, bits) if planned.partial else planned.codec


def checked_policy(widths, policy):
    """Refuses widths that the policy's format does not have, whatever the model is.

    Args:
        widths: `ClientWidths`.
        policy: `omc.Policy` or a format's name.

    Raises:
        InputError: As `ClientWidths.check`.
    """
    widths.check(Policy.of(policy))


def _sequence(argument, expected, value):
    if isinstance(value, (str, bytes)) or not isinstance(value, collections.abc.Sequence):
        raise InputTypeError(argument, expected, value)
    return tuple(value)


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
