"""What each variable of a model takes and loses in each format, measured with the real codec."""

import dataclasses
import functools
import glob
import math

import numpy as np
import tensorflow as tf

from omc.codecs import Codec
from omc.errors import InputError
from omc.keras import CompressedVariable
from omc.keras.wrapping import holding, variables_of
from omc.mixed_precision import sensitivities
from omc.mixed_precision.hutchinson import traces
from omc.mixed_precision.objectives import checked_batches, loss_function, mean_loss
from omc.policies import VariableSpec


class Measured:
    """Tables of bytes and losses, each measured when it is first asked for.

    Only names, shapes and numbers are kept of the model's variables, never a variable.

    Attributes:
        formats: Tuple of Format, narrowest first: the columns of every table.
        plan: Tuple of PlannedVariable, before anything is allocated.
        members: Dict of name -> places in the plan, of the variables that a policy quantizes: the
            lines of every table. Those of equal name share a line, for a policy tells variables
            apart by their names.
    """

    def __init__(self, model, formats, policy, hessian, coded_nbytes):
        """Plans; measures nothing yet.

        Args:
            model: A built `tf.keras.Model`.
            formats: Tuple of Format, narrowest first.
            policy: `Policy` that tells which variables are quantized.
            hessian: Dict of arguments for `traces`.
            coded_nbytes: Function (buffer, codec) -> bytes on the wire.
        """
        self._model, self._hessian, self._coded_nbytes = model, hessian, coded_nbytes
        self.formats = formats
        self.plan = policy.candidates([VariableSpec.of(v) for v in variables_of(model)])
        self.members = {}
        for place, planned in enumerate(_shared_by_name(self.plan, policy, formats)):
            if planned.partial:
                self.members.setdefault(planned.spec.name, []).append(place)

    def table(self, values):
        """Lines of a dict place -> [formats]: the sums over each line's places, an array."""
        return np.array([np.sum([values[p] for p in ps], axis=0) for ps in self.members.values()])

    @property
    def counts(self):
        """Tuple with the weights of each line."""
        return tuple(sum(map(self._count, places)) for places in self.members.values())

    @functools.cached_property
    def places(self):
        """List of the places that are in the tables."""
        return sum(self.members.values(), [])

    @functools.cached_property
    def stored(self):
        """Dict of place -> bytes that `wrap` stores, int64 [formats]; [1] outside of the tables."""
        return {
            place: np.array([codec.nbytes for codec in self._codecs(place)])
            if place in self.places
            else np.array([_stored(planned)])
            for place, planned in enumerate(self.plan)
        }

    @functools.cached_property
    def coded(self):
        """Dict of place -> bytes on the wire, likewise; what is left as it is crosses raw."""
        return {
            place: np.array(self._coded_in(place, codecs) if codecs else [_stored(planned)])
            for place, planned in enumerate(self.plan)
            for codecs in [self._codecs(place)]
        }

    @functools.cached_property
    def traces(self):
        """Dict of place -> trace of the Hessian, of the variables in the tables."""
        variables = variables_of(self._model)
        found = traces(self._model, [variables[place] for place in self.places], **self._hessian)
        return dict(zip(self.places, found))

    @functools.cached_property
    def errors(self):
        """Dict of place -> float64 [formats], ||W - W_hat||^2."""
        return {
            place: np.array([_squared_error(values, codec) for codec in self._codecs(place)])
            for place in self.places
            for values in [self._values(place)]
        }

    @functools.cached_property
    def increases(self):
        """Dict of place -> float64 [formats], the loss with that variable alone in the format.

        Less the loss with none. The model is changed meanwhile, a variable at a time, and left as
        it was.
        """
        batches = checked_batches(self._hessian["data"])
        value = loss_function(self._model, self._hessian["loss"])
        least = mean_loss(value, batches)
        found = {
            place: np.array([mean_loss(value, batches) - least for _ in self._each_format(place)])
            for place in self.places
        }
        if self._hessian["loss"] is None:
            self._model.reset_metrics()  # Keras counts every loss that it computes.
        return found

    def _each_format(self, place):
        """Generator that has the model hold one variable in one format after the other."""
        variable, values = variables_of(self._model)[place], self._values(place)
        for codec in self._codecs(place):
            with holding(variable, codec, codec.encode(values)):
                yield

    def losses(self, sensitivity):
        """Dict of place -> float64 [formats], by the name of a sensitivity."""
        wanted = sensitivities.named(sensitivity)
        bits = np.array([fmt.bits for fmt in self.formats], float)
        tables = {"errors": "errors", "trace": "traces", "increases": "increases"}
        measured = {field: getattr(self, tables[field]) for field in wanted.needs}
        return {
            place: wanted.losses(
                sensitivities.Line(
                    self._count(place), bits, **{f: table[place] for f, table in measured.items()}
                )
            )
            for place in self.places
        }

    def _count(self, place):
        return int(np.prod(self.plan[place].spec.shape, dtype=np.int64))

    def _codecs(self, place):
        """Codecs of every format; outside of the tables of the planned one, if any."""
        planned = self.plan[place]
        if place not in self.places:
            return [planned.codec] if planned.codec else []
        return [
            Codec(fmt, planned.spec.shape, planned.transform and not fmt.is_fp32)
            for fmt in self.formats
        ]

    def _values(self, place):
        """Dense values of one variable."""
        variable = variables_of(self._model)[place]
        packed = isinstance(variable, CompressedVariable)
        values = variable.decode() if packed else variable.read_value()
        if not tf.reduce_all(tf.math.is_finite(values)):
            got = f"NaN or Inf in {self.plan[place].spec.name!r}"
            tip = "the model has diverged: go back to weights before that."
            raise InputError("model", "finite weights", got, tip)
        return values

    def _coded_in(self, place, codecs):
        """Bytes on the wire of one variable under each codec."""
        values = self._values(place)
        return [
            counted("coded_nbytes", self._coded_nbytes(codec.encode(values).numpy(), codec))
            for codec in codecs
        ]


def entropy_nbytes(buffer, codec):
    """Bytes of an ideal memoryless coder: the order-0 entropy of the codes, and the transform.

        ceil(sum_c n_c log2(n / n_c) / 8),   n_c the count of code c among n codes

    A stand-in where no coder is named. A real coder also sends its model, so it may take more; one
    that knows neighbours may take less.

    Args:
        buffer: uint8 [nbytes], as `codec` writes it.
        codec: `Codec`; FP32 counts as it is.
    """
    if codec.format.is_fp32 or not codec.count:
        return codec.nbytes
    _, counts = np.unique(codec.codes(buffer).numpy(), return_counts=True)
    bits = float(np.sum(counts * np.log2(codec.count / counts)))
    planes = Codec(codec.format, codec.shape, transform=False).nbytes
    return math.ceil(bits / 8) + codec.nbytes - planes


def _shared_by_name(plan, policy, formats):
    """The plan, in which what has the name of an allocated variable is allocated, too.

    A policy tells variables apart by their names: the format of a matrix "w" is that of a vector
    "w", which the policy by itself would leave alone.
    """
    names = {planned.spec.name for planned in plan if planned.partial}
    given = {glob.escape(name): formats[0] for name in names}
    named = dataclasses.replace(policy, overrides={**policy.overrides, **given})
    reasons = {f"override {pattern!r}" for pattern in given}
    return [
        planned._replace(partial=True)
        if planned.partial or named.candidate(planned.spec).reason in reasons
        else planned
        for planned in plan
    ]


def _stored(planned):
    return planned.spec.dense_bytes if planned.codec is None else planned.codec.nbytes


def _squared_error(values, codec):
    difference = (codec.decode(codec.encode(values)) - values).numpy().astype(np.float64)
    return float(np.square(difference, out=difference).sum())


def counted(argument, nbytes):
    """A count of bytes that a caller's function, an argument, returned: an int.

    Raises:
        InputError: It is none.
    """
    try:
        whole = int(nbytes)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if whole < 0 or whole != nbytes:
        got = f"one that returned {nbytes!r}"
        raise InputError(argument, "a function that returns a whole number of bytes", got)
    return whole
