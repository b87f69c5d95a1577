"""Downlink "changes": the codes that changed since the version that a device holds."""

import collections
import dataclasses

import tensorflow as tf

from omc import checks
from omc.coding import graph as coding
from omc.errors import InputError
from omc.learning import models
from omc.learning.downlinks.base import Offer
from omc.learning.downlinks.coded import Coded, at
from omc.learning.downlinks.codes import distortion
from omc.nested import widen_buffer

_MOST = {"window": 1024, "devices": 2**24}  # The server has tensors of these sizes.


@dataclasses.dataclass(frozen=True)
class Changes(Coded):
    """A device keeps what it received, and later gets what changed since, coded given that (ours).

    The server remembers the codes of its last `window` rounds. It re-makes codes under the kept
    scale with nearest rounding, so that few change from round to round; what is rounded away stays
    in its float32 master and comes with a later change (error feedback at the server). A device
    whose version has left the window, or that is new, gets whole codes, as from `Coded`.

    In the field a device says which version it has. Here the server tells devices apart by the
    fingerprint of their data (`omc.learning.client_id`), and remembers the last `devices` that took
    part; one without data in a round counts as new. The held version's bytes reach a simulated
    client beside its payload, and are no traffic.

    Attributes:
        bits: As in `Coded`.
        window: Versions that the server remembers, an int.
        devices: Devices that it remembers, an int.

    Raises:
        InputTypeError: Not ints.
        InputError: Less than one version or device.
    """

    window: int = 8
    devices: int = 4096
    remembers = True

    def __post_init__(self):
        super().__post_init__()
        for name in ("window", "devices"):
            value, most = getattr(self, name), _MOST[name]
            value = checks.integer(name, value, f"an int, 1 .. {most}", 1, most)
            object.__setattr__(self, name, value)

    def check(self, policy, widths):
        """As `Downlink.check`.

        Raises:
            InputError: Partial quantization, whose clients hold other variables in every round; or
                clients of several widths.
        """
        super().check(policy, widths)
        if policy.fraction < 1 and not policy.format.is_fp32:
            tip = "or downlink='coded': what is float32 in one round is no version in the next."
            raise InputError("fraction", "1 with downlink 'changes'", policy.fraction, tip)
        if widths is not None:
            tip = "or downlink='coded'."
            raise InputError("widths", "none with downlink 'changes'", widths.bits, tip)

    def memory(self, plan):
        """As `Downlink.memory`: codes of the last round, versions as they were sent, devices."""
        coded = self._coded_variables(plan)
        zeros = [tf.zeros([plan.planned[index].codec.nbytes], tf.uint8) for index in coded]
        versions = [tf.zeros([self.window, c.nbytes], tf.uint8) for c in coded.values()]
        return collections.OrderedDict(
            clients=tf.fill([self.devices], -1),
            codes=models.payload(zeros),
            received=tf.fill([self.devices], -1),
            versions=models.payload(versions),
            version_rounds=tf.fill([self.window], -1),
        )

    def offer(self, plan, values, memory):
        """As `Downlink.offer`."""
        any_before = tf.reduce_any(memory["version_rounds"] >= 0)
        codes, versions = iter(memory["codes"].values()), iter(memory["versions"].values())
        coded = self._coded_variables(plan)
        sent, held, packed, new_codes, new_versions = [], [], [], [], []
        for index, value in enumerate(values):
            if index not in coded:
                sent.append([value])
                held.append([])
                continue
            codec, narrow = plan.planned[index].codec, coded[index]
            last, olds = next(codes), next(versions)
            buffer = tf.cond(
                any_before,
                lambda c=codec, b=last, v=value: c.assign(b, v),
                lambda c=codec, v=value: c.encode(v),
            )
            buffer = tf.ensure_shape(buffer, [codec.nbytes])
            current = at(narrow, codec, buffer)
            olds = tf.unstack(olds)
            sent.append(
                [
                    coding.encode_buffer(current, narrow),
                    *(coding.encode_buffer(current, narrow, given=old) for old in olds),
                ]
            )
            held.append([tf.zeros_like(current), *olds])
            packed.append((value, narrow.decode(current)))
            new_codes.append(buffer)
            new_versions.append(tf.stack([*olds[1:], current]))
        memory = collections.OrderedDict(memory)
        memory["codes"] = models.payload(new_codes)
        memory["versions"] = models.payload(new_versions)
        return Offer(sent, held, distortion(packed)), memory

    def took_part(self, memory, round_number, clients):
        """As `Downlink.took_part`."""
        memory = collections.OrderedDict(memory)
        known = tf.boolean_mask(clients, clients > 0)  # 0 is whoever has no data.
        received = tf.fill(tf.shape(known), round_number)
        for name, new in (("clients", known), ("received", received)):
            memory[name] = _latest(tf.concat([memory[name], new], axis=0), self.devices)
        rounds = tf.concat([memory["version_rounds"], [round_number]], axis=0)
        memory["version_rounds"] = rounds[1:]
        return memory

    def known_to_clients(self, memory):
        """As `Downlink.known_to_clients`."""
        names = ("clients", "received", "version_rounds")
        return collections.OrderedDict((name, memory[name]) for name in names)

    def options(self, plan):
        """As `Downlink.options`: whole codes, and given each version."""
        coded = self._coded_variables(plan)
        return [1 + self.window * (index in coded) for index in range(len(plan.planned))]

    def choices(self, plan, memory, round_number, client):
        """As `Downlink.choices`: 0 for whole codes, then the versions from the oldest on."""
        places = tf.where(tf.equal(memory["clients"], client), tf.range(self.devices), -1)
        place = tf.reduce_max(places)  # The latest.
        received = tf.where(place < 0, -1, memory["received"][tf.maximum(place, 0)])
        matches = tf.equal(memory["version_rounds"], received) & (received >= 0)
        version = tf.reduce_max(tf.where(matches, tf.range(self.window) + 1, 0))
        coded = self._coded_variables(plan)
        return [version if index in coded else tf.constant(0) for index in range(len(plan.planned))]

    def receive(self, plan, payload, held, choices):
        """As `Downlink.receive`."""
        coded = self._coded_variables(plan)
        received = list(payload)
        for index, narrow in coded.items():
            data, version = payload[index], held[index]
            buffer = tf.cond(
                choices[index] > 0,
                lambda d=data, n=narrow, v=version: coding.decode_buffer(d, n, given=v),
                lambda d=data, n=narrow: coding.decode_buffer(d, n),
            )
            buffer = tf.ensure_shape(buffer, [narrow.nbytes])
            received[index] = widen_buffer(buffer, narrow, plan.planned[index].codec)
        return received

    def _coded_variables(self, plan):
        """Dict from the place of each variable that is quantized to the codec of what is sent."""
        return {
            index: self.sent_codec(planned, planned.codec)
            for index, planned in enumerate(plan.planned)
            if planned.codec is not None
        }


def _latest(values, count):
    """The last of them, int32 [count]."""
    return tf.ensure_shape(values[-count:], [count])
