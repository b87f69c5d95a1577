"""Downlink "by bandwidth": each class of clients has a downlink of its own."""

import collections
import dataclasses
from typing import Optional

import tensorflow as tf

from omc.errors import InputError, InputTypeError
from omc.learning.downlinks.base import Downlink, Offer
from omc.learning.downlinks.codes import Codes
from omc.learning.widths import Widths

_STREAM = 0x5BD1E995  # So that classes have nothing to do with the widths drawn from the same seed.


@dataclasses.dataclass(frozen=True)
class ByBandwidth(Downlink):
    """Clients behind slow links get fewer bits than others, of the same master (ours).

    >>> slow, fast = Changes(bits=4), Coded()
    >>> downlink = ByBandwidth((slow, fast), shares=(3, 1))

    A client belongs to one class for good, drawn from (seed, id) as widths are (`Widths`). The
    server packs its master once for each class, and clients hold the policy's format in all of
    them, so that what they answer means the same.

    Attributes:
        downlinks: Tuple of `Codes`, `Coded` or `Changes`, one a class.
        shares: How many clients are of each class, in proportion; None for equal shares.
        assigned: Dict of client id -> place in `downlinks`, for clients whose class is known.
        seed: Seed of the draw, an int.

    Raises:
        InputTypeError: No sequence of downlinks, no numbers, no dict.
        InputError: No downlink; shares or places that do not fit.
    """

    downlinks: tuple
    shares: Optional[tuple] = None
    assigned: collections.abc.Mapping = dataclasses.field(default_factory=dict)
    seed: int = 0

    def __post_init__(self):
        given = self.downlinks
        sequence = isinstance(given, collections.abc.Sequence) and not isinstance(given, str)
        if not sequence or not all(isinstance(one, Codes) for one in given):
            tip = "such as (Changes(bits=4), Coded())."
            raise InputTypeError("downlinks", "a sequence of Codes, Coded or Changes", given, tip)
        if not given:
            raise InputError("downlinks", "one downlink or more", given)
        object.__setattr__(self, "downlinks", tuple(given))
        try:
            seed = self.seed ^ _STREAM if isinstance(self.seed, int) else self.seed
            classes = Widths(tuple(range(len(given))), self.shares, self.assigned, seed)
        except (InputError, InputTypeError) as error:
            expected = error.expected.replace("widths of", "places of downlinks,")
            expected = expected.replace("width", "downlink")
            raise type(error)(error.argument, expected, error.got, error.tip) from None
        object.__setattr__(self, "_classes", classes)

    @property
    def remembers(self):
        """As `Downlink.remembers`: whether one of them does."""
        return any(one.remembers for one in self.downlinks)

    @property
    def needs_native_ops(self):
        """As `Downlink.needs_native_ops`: whether one of them does."""
        return any(one.needs_native_ops for one in self.downlinks)

    @property
    def devices(self):
        """Devices that take part in a round and are to be remembered, at most (int)."""
        return max(one.devices for one in self.downlinks if one.remembers)

    def check(self, policy, widths):
        """As `Downlink.check`, of each of them."""
        for one in self.downlinks:
            one.check(policy, widths)

    def memory(self, plan):
        """As `Downlink.memory`: that of each of them."""
        return self._together(one.memory(plan) for one in self.downlinks)

    def offer(self, plan, values, memory):
        """As `Downlink.offer`: what each of them offers, one after the other."""
        offers, after = [], []
        for one, own in zip(self.downlinks, self._each(memory)):
            offer, own = one.offer(plan, values, own)
            offers.append(offer)
            after.append(own)
        sent, held = [], []
        for index in range(len(values)):
            own = [(offer.sent[index], offer.held[index]) for offer in offers]
            sent.append([tensor for tensors, _ in own for tensor in tensors])
            # A place for each that is sent, where one of them has clients that hold something.
            held.append(
                [tensor for tensors, olds in own for tensor in _filled(olds, len(tensors))]
                if any(olds for _, olds in own)
                else []
            )
        distortion = sum(offer.distortion for offer in offers) / len(offers)
        return Offer(sent, held, distortion), self._together(after)

    def took_part(self, memory, round_number, clients):
        """As `Downlink.took_part`: each of them hears of the clients of its class."""
        classes = tf.map_fn(self._classes.index, clients)
        return self._together(
            one.took_part(own, round_number, tf.boolean_mask(clients, tf.equal(classes, place)))
            for place, (one, own) in enumerate(zip(self.downlinks, self._each(memory)))
        )

    def specs(self, plan):
        """As `Downlink.specs`: of no known length where they differ."""
        return [
            specs[0] if len(set(specs)) == 1 else tf.TensorSpec([None], tf.uint8)
            for specs in zip(*(one.specs(plan) for one in self.downlinks))
        ]

    def known_to_clients(self, memory):
        """As `Downlink.known_to_clients`."""
        own = zip(self.downlinks, self._each(memory))
        return self._together(one.known_to_clients(memory) for one, memory in own)

    def options(self, plan):
        """As `Downlink.options`."""
        return [sum(options) for options in zip(*(one.options(plan) for one in self.downlinks))]

    def choices(self, plan, memory, round_number, client):
        """As `Downlink.choices`."""
        each = [
            tf.stack(one.choices(plan, own, round_number, client))
            for one, own in zip(self.downlinks, self._each(memory))
        ]
        chosen = self._classes.index(client)
        return tf.unstack(tf.gather(tf.stack(each) + self._first(plan), chosen))

    def receive(self, plan, payload, held, choices):
        """As `Downlink.receive`."""
        first, places = self._first(plan), tf.stack(choices)
        # The first tensor tells the class, for each has options of its own for it.
        chosen = tf.reduce_sum(tf.cast(places[0] >= first[1:, 0], tf.int32))

        def received(place):
            one, own = self.downlinks[place], tf.unstack(places - first[place])
            specs = one.specs(plan)
            sized = [tf.ensure_shape(t, spec.shape) for t, spec in zip(payload, specs)]
            return one.receive(plan, sized, held, own)

        branches = [lambda place=place: received(place) for place in range(len(self.downlinks))]
        return list(tf.switch_case(chosen, branches)) if len(branches) > 1 else received(0)

    def _together(self, memories):
        """One structure of what each remembers; nothing where none does."""
        named = ((f"class{place:02d}", own) for place, own in enumerate(memories))
        return collections.OrderedDict(named) if self.remembers else ()

    def _each(self, memory):
        return list(memory.values()) if self.remembers else [()] * len(self.downlinks)

    def _first(self, plan):
        """Where the options of each class begin, of each tensor: int32 [classes, tensors]."""
        options = tf.constant([one.options(plan) for one in self.downlinks])
        return tf.cumsum(options, exclusive=True)


def _filled(olds, count):
    return olds or [tf.zeros([0], tf.uint8)] * count
