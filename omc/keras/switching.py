"""Hessian-aware stochastic bit-switching (HASB): widths that are drawn for each layer, in a graph.

Of each batch `fit` takes three steps: all layers at the highest width, each at a width drawn for
it, all at the lowest (arXiv 2502.01199, 3.3). For layer l with the trace t_l of its Hessian:

    r_l ~ U[0, 1];  r_l < sigma: the width is drawn from p_l, else it is the pass's base width
    p_l(b) = b / sum(widths) where t_l >= mean(t) (sensitive),  1 / n where not
    sigma = min((epoch + 1) / epochs, 1)

Ours: the base width is uniform over the widths and drawn for each pass, so that early passes are
nearly of one width and every width is trained from the start; the epoch is told by the optimizer's
count of steps, so that a run that is taken up again draws what it would have drawn.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from omc import checks, nested
from omc.errors import InputError, InputTypeError
from omc.keras.quantizers import InputQuantizer

PASSES = 3
"""Steps of the optimizer for each batch: highest, drawn, lowest."""

_draws = itertools.count()  # Each is of its own graph: functions inside are traced for it alone.
_STREAM = 5  # Of random numbers: stochastic rounding has its own.


@dataclasses.dataclass(frozen=True)
class Switching:
    """How `fit` of a nested model draws widths for its layers; `omc.mixed_precision.hasb` makes it.

    Attributes:
        traces: Dict of a variable's name -> trace of its Hessian, of all that `omc.nest` nests (and
            more); or a sequence of them in the order of the model. All equal: all are sensitive.
        epochs: Epochs of the whole training, at whose end sigma is 1.
        batches: Batches of an epoch.
        seed: Seed of the draws.

    Raises:
        InputTypeError: An attribute of another type.
        InputError: A trace that is not finite; `epochs` or `batches` below 1.
    """

    traces: object
    epochs: int
    batches: int
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batches", "seed"):
            value = getattr(self, name)
            bounds = ("an integer", None) if name == "seed" else ("an integer from 1", 1)
            value = checks.integer(name, value, *bounds)
            object.__setattr__(self, name, value)  # JSON knows no number of numpy's.
        traces = self.traces
        if isinstance(traces, str) or not isinstance(traces, (Mapping, Sequence)):
            raise InputTypeError("traces", "a dict of variable name -> trace", traces)
        if not isinstance(traces, Mapping):
            object.__setattr__(self, "traces", tuple(traces))
        for trace in traces.values() if isinstance(traces, Mapping) else traces:
            checks.real("traces", trace, "finite numbers", float32=False)

    def of(self, names):
        """The same with a tuple of traces, in the order of the names of a model's variables.

        Raises:
            InputError: A name has no trace, or there are fewer or more traces than names.
        """
        traces = self.traces
        if isinstance(traces, Mapping):
            missing = [name for name in names if name not in traces]
            if missing:
                tip = "make it of the same model: omc.mixed_precision.hasb(model, data, ...)."
                got = f"none for {missing[0]!r}"
                raise InputError("switching", "a trace for each nested variable", got, tip)
            traces = [traces[name] for name in names]
        if len(traces) != len(names):
            raise InputError("switching", f"{len(names)} traces, as {names}", f"{len(traces)}")
        return dataclasses.replace(self, traces=tuple(float(trace) for trace in traces))

    @property
    def sensitive(self):
        """Tuple of bools, a variable each, after `of`: whether its trace is the mean or above."""
        mean = math.fsum(self.traces) / len(self.traces)
        return tuple(trace >= mean for trace in self.traces)

    def probabilities(self, widths):
        """The roulettes: float64 [variables, widths], each row with a sum of 1.

        Args:
            widths: Tuple of ints.
        """
        wide = np.array(widths, np.float64) / sum(widths)
        even = np.full(len(widths), 1.0 / len(widths))
        return np.stack([wide if sensitive else even for sensitive in self.sensitive])

    def sigma(self, steps):
        """Share of the layers whose width is drawn for them alone, float32 [].

        Args:
            steps: Steps that the optimizer has taken, an integer tensor: three a batch.
        """
        epoch = tf.cast(steps, tf.int64) // (PASSES * self.batches)
        return tf.minimum(tf.cast(epoch + 1, tf.float32) / float(self.epochs), 1.0)

    def draw(self, widths, steps):
        """The widths of one pass; the same for the same seed and steps.

        Args:
            widths: Tuple of ints.
            steps: As in `sigma`.

        Returns:
            `Draw`.
        """
        count = len(self.traces)
        words = tf.constant([self.seed % 2**31, _STREAM], tf.int32)
        words = tf.random.experimental.stateless_fold_in(
            words, tf.cast(steps, tf.int32), alg="philox"
        )
        uniform = tf.random.stateless_uniform([2 * count + 1], words, alg="philox")
        base = tf.cast(uniform[0] * len(widths), tf.int32)
        ends = np.cumsum(self.probabilities(widths), axis=1)[:, :-1].astype(np.float32)
        spun = tf.cast(uniform[count + 1 :, tf.newaxis] >= ends, tf.int32)
        drawn = tf.reduce_sum(spun, axis=1)
        return Draw(
            widths,
            tf.where(uniform[1 : count + 1] < self.sigma(steps), drawn, tf.fill([count], base)),
        )


class Draw:
    """Widths of one pass that only the running graph knows.

    Attributes:
        widths: Tuple of ints, from which is drawn.
        indices: int32 [variables], places in `widths`.
    """

    def __init__(self, widths, indices):
        self.widths, self.indices = tuple(widths), indices

    @contextlib.contextmanager
    def used_by(self, state):
        """Context in which a `Nesting`'s variables and layers use these widths."""
        indices = tf.unstack(self.indices, len(state.variables))
        for variable, index in zip(state.variables, indices):
            codec = plain_codec(variable)
            rounding = state.options.rounding
            codecs = [nested.codec_at(codec, bits, rounding) for bits in self.widths]
            variable.codec = SwitchedCodec(codecs, index)
            table = state.tables.get(id(variable))
            if table is not None:
                bits = [state.activation_bits(width) for width in self.widths]
                variable.input_quantizer = SwitchedQuantizer(table, self.widths, bits, index)
        with contextlib.ExitStack() as stack:
            for sets in state.batchnorms:
                stack.enter_context(sets.drawn(self.widths, indices[sets.feeder]))
            stack.enter_context(state.reading.being(("drawn", next(_draws))))
            yield


def plain_codec(variable):
    """A `Codec` of a compressed variable's buffer, at some width, also where widths are drawn."""
    return getattr(variable.codec, "codec", variable.codec)


@contextlib.contextmanager
def all_bits(variables):
    """Context in which reads of compressed variables give all that is stored.

    Who reads weights to change them needs it, as constraints and weight decay do: at fewer bits
    they would write back what is left of them.

    Args:
        variables: List of `CompressedVariable`s; those that are not nested stay as they are.
    """
    variables = [variable for variable in variables if variable.learned_scale is not None]
    before = [variable.codec for variable in variables]
    for variable in variables:
        variable.codec = nested.full_codec(plain_codec(variable))
    try:
        yield
    finally:
        for variable, codec in zip(variables, before):
            variable.codec = codec


class SwitchedCodec:
    """Codecs of one buffer, one a width, of which an index in the graph says which one reads.

    It has the part of `omc.codecs.Codec` that reads; what changes the stored codes is done under a
    codec of all bits (`Nesting.all_bits`).

    Attributes:
        codecs: List of `Codec`s of the same buffer.
        index: int32 [].
    """

    def __init__(self, codecs, index):
        self.codecs, self.index = list(codecs), index

    @property
    def codec(self):
        """The first of the codecs."""
        return self.codecs[0]

    @property
    def format(self):
        """Format of the first codec."""
        return self.codec.format

    @property
    def shape(self):
        """Shape of the dense tensor, a tuple."""
        return self.codec.shape

    @property
    def nbytes(self):
        """Length of the buffer."""
        return self.codec.nbytes

    @property
    def count(self):
        """Number of weights."""
        return self.codec.count

    def choose(self, function):
        """What a function of a `Codec` gives for the one that is drawn; one branch of them runs."""
        branches = [lambda own=codec: function(own) for codec in self.codecs]
        return tf.switch_case(self.index, branches)

    def decode(self, buffer):
        """As `Codec.decode`."""
        return tf.ensure_shape(self.choose(lambda codec: codec.decode(buffer)), self.shape)

    def scale_gradient(self, buffer, gradient):
        """As `Codec.scale_gradient`."""
        return self.choose(lambda codec: codec.scale_gradient(buffer, gradient))

    def transform_of(self, buffer):
        """As `Codec.transform_of`, which is of the buffer and the same at every width."""
        return self.codec.transform_of(buffer)

    def lookup(self, function):
        """A number of each `Codec`, float32 [], of the one that is drawn."""
        return tf.gather(tf.constant([float(function(c)) for c in self.codecs]), self.index)


class SwitchedQuantizer(InputQuantizer):
    """The input quantizer of a drawn width."""

    def __init__(self, table, widths, bits, index):
        """Chooses the row.

        Args:
            table: As in `InputQuantizer`.
            widths: Tuple of ints, the rows.
            bits: Width of the activations beside each.
            index: int32 [], a place in `widths`.
        """
        super().__init__(table, tf.gather(tf.constant(widths), index), bits)
        self.index, self.widths = index, widths

    @property
    def levels(self):
        """2^bits - 1, float32 []."""
        return tf.gather(tf.constant([2.0**bits - 1.0 for bits in self.bits]), self.index)

    def choose(self, function):
        """As `InputQuantizer.choose`; one branch of them runs."""
        if len(set(self.bits)) == 1:
            return function(self.bits[0])
        return tf.switch_case(self.index, [lambda own=bits: function(own) for bits in self.bits])
