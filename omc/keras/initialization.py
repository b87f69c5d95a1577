"""init_compressed(): weights that are codes from the first moment on; no model is ever dense.

Inside the context `Layer.add_weight` makes a variable as Keras does, packs it and lets go of the
dense one, before the next one's turn. When the context ends, the models in it are whole, and what a
policy decides over a whole model is settled: the draw of partial quantization, whether every
override has matched, each variable's stream of stochastic rounding.

Partial quantization leaves some variables in float32, and only the end tells which; until then the
dense values of those it may choose wait on disk.
"""

import contextlib
import functools
import gc
import tempfile
import threading
import weakref
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from omc.errors import ArtifactError, ModelError
from omc.formats import FP32
from omc.keras import adapters, host, wrapping
from omc.keras.variable import CompressedVariable
from omc.policies import Policy, VariableSpec

_NOTABLE = 1 << 18  # Bytes.
_lock = threading.Lock()


@contextlib.contextmanager
def init_compressed(policy):
    """Context in which models are built compressed: afterwards they are as `omc.wrap` leaves them.

        with omc.init_compressed("S1E3M7"):
            model = build()

    Codes and transforms equal those of `omc.wrap(build(), policy)` bit for bit, at a peak of the
    stored bytes and one dense variable instead of the whole dense model. That holds for weights
    that layers make by `add_weight`, as all of Keras' own do, with whatever initializer; a bare
    tf.Variable of a custom layer is dense until the context ends, and then packed as by `wrap`. A
    weight that is assigned inside, as `tf.keras.models.load_model` and `set_weights` do, is packed
    anew from the new value. What is read inside is the stored value, rounded.

    Only the thread that entered the context builds compressed. With a policy whose fraction is
    between 0 and 1, the dense values are in a file without a name in the system's temporary folder
    until the context ends.

    Args:
        policy: `omc.Policy`, or a format's name for the default policy.

    Raises:
        InputTypeError: `policy` is no policy.
        ModelError: No model was built inside, or one is not built when the context ends, was
            trained inside, belongs to a `tf.distribute` strategy, or shares some of its weights
            with a model that has others; or another such context is open.
        InputError: An initializer gave NaN or Inf, or an override matches nothing.
        ArtifactError: The temporary folder cannot be written to.
    """
    policy = Policy.of(policy)
    if not _lock.acquire(blocking=False):
        raise ModelError(
            "init_compressed",
            "one init_compressed at a time",
            "another one, which is open",
            "leave it first.",
        )
    try:
        before = weakref.WeakSet(_models())
        with contextlib.closing(_Births(policy)) as births:
            with births.happening():
                yield
            models = [model for model in _models() if model not in before]
            _settle(models, births)
    finally:
        _lock.release()


class _Born(NamedTuple):
    """A variable that was born compressed.

    Attributes:
        variable: `CompressedVariable`.
        partial: Whether partial quantization may still leave it in float32.
        autocast: Whether Keras would have made it an AutoCastVariable.
    """

    variable: CompressedVariable
    partial: bool
    autocast: bool


class _Births:
    """The compressed variables that a context has made so far.

    Attributes:
        policy: The `Policy`.
        born: Dict of id -> `_Born`.
    """

    def __init__(self, policy):
        self.policy = policy
        self.born = {}
        self._thread = threading.get_ident()
        self._waiting = _Waiting()

    def close(self):
        """Lets go of the dense values that wait."""
        self._waiting.close()

    @contextlib.contextmanager
    def happening(self):
        """Context in which `Layer.add_weight` makes compressed variables."""
        try:
            with adapters.weights_made_by(self._pack, self._mine):
                yield
        finally:
            for born in self.born.values():
                del born.variable.assign  # Back to the method.

    def _mine(self):
        return threading.get_ident() == self._thread

    def _pack(self, original, autocast):
        """The compressed variable for a new one, or None where it stays as it is."""
        planned = self.policy.candidate(VariableSpec.of(original))
        partial = planned.partial and self.policy.fraction < 1
        never = partial and not self.policy.fraction
        if planned.codec is None or never or not tf.executing_eagerly():
            return None
        # Keras builds some layers where it reads their variables in 16 bits.
        with host.without_autocast():
            wrapping.check_finite([original], [planned])
            variable = wrapping.compressed_variable(original, planned, self.policy, 0)
            if partial:
                self._waiting.put(id(variable), original.numpy())
        # Its own attribute, in the place of the method: `assign` would keep the transform.
        variable.assign = functools.partial(self._assign, weakref.ref(variable), planned)
        self.born[id(variable)] = _Born(variable, partial, autocast)
        del original
        if planned.spec.dense_bytes >= _NOTABLE:
            gc.collect(1)  # Initial values stay behind in cycles, which are young.
        return variable

    def _assign(self, reference, planned, value, use_locking=None, name=None, read_value=True):
        """Packs anew: inside the context a new value is as good as an initial one."""
        variable = reference()
        value = tf.convert_to_tensor(value, tf.float32)
        value.shape.assert_is_compatible_with(variable.shape)
        wrapping.check_finite([value], [planned])
        variable.buffer.assign(planned.codec.encode(value))
        if self.born[id(variable)].partial:
            self._waiting.put(id(variable), value.numpy())
        return variable if read_value else None

    def unpack(self, variable):
        """Makes a born variable the plain one that it would have been, wherever it is held."""
        values = self._waiting.get(id(variable), tuple(variable.shape))
        if not np.array_equal(variable.buffer.numpy(), variable.codec.encode(values)):
            raise ModelError(  # What waits would undo it.
                "init_compressed",
                "weights that are only initialized or assigned inside",
                f"{VariableSpec.of(variable).name!r}, which was trained and is to be float32",
                "train after the with block.",
            )
        adapters.unpack(variable, values, self.born.pop(id(variable)).autocast)


class _Waiting:
    """float32 arrays in a file without a name."""

    def __init__(self):
        self._file = None
        self._begins = {}

    def put(self, key, array):
        """Keeps an array; one of the same key and size is overwritten."""
        with _writable():
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="omc-")
            begin = self._begins.setdefault(key, self._file.seek(0, 2))
            self._file.seek(begin)
            self._file.write(np.ascontiguousarray(array, np.float32))
            self._file.flush()

    def get(self, key, shape):
        """The array of a key."""
        array = np.empty(shape, np.float32)
        self._file.seek(self._begins[key])
        self._file.readinto(memoryview(array).cast("B"))
        return array

    def close(self):
        """Gives the room back."""
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def _writable():
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            "TMPDIR",
            "a temporary folder with room for the dense weights",
            f"{tempfile.gettempdir()!r} ({error.strerror})",
            "set it to another folder; policies of fraction 1 need none.",
        ) from error


def _models():
    """Every Keras model there is."""
    return [found for found in gc.get_objects() if issubclass(type(found), tf.keras.Model)]


def _settle(models, births):
    """Finishes the models of a context; larger ones first, for smaller ones may be parts."""
    if not models:
        raise ModelError(
            "init_compressed", "a model built inside", "none", "build it within the with block."
        )
    for model in models:
        if not host.is_built(model):
            raise ModelError(
                "init_compressed",
                "models that are built inside",
                f"{model.name!r}, which has no variables yet",
                "give it an Input, call model.build(input_shape), or the model on a batch.",
            )
    settled = set()
    for model in sorted(models, key=lambda model: -len(host.variables_of(model))):
        mine = {id(variable) for variable in host.variables_of(model)}
        if mine and mine <= settled:
            continue  # A part of one before, or another view of it.
        if mine & settled:
            raise ModelError(
                "init_compressed",
                "models of which each has its own weights, or is a part of another",
                f"{model.name!r}, which shares some and has others",
                "build one model inside that holds them all.",
            )
        settled |= _finish(model, births)


def _finish(model, births):
    """Makes of one model what `omc.wrap` would have made; returns the ids of its variables."""
    policy, born = births.policy, births.born
    wrapping.check_kind(model)
    wrapping.check_optimizer(model, slots=policy.slots)
    variables = wrapping.variables_of(model)
    plan = policy.plan([VariableSpec.of(variable) for variable in variables])
    # Bare variables, and those of layers that were there before, are still dense.
    rest = tuple(p._replace(format=FP32) if id(v) in born else p for p, v in zip(plan, variables))
    wrapping.check_finite(variables, rest)
    for variable, planned in zip(variables, plan):
        if id(variable) in born and planned.codec is None:
            births.unpack(variable)
    packed = [variable for variable in variables if id(variable) in born]
    places = adapters.References(model, packed)
    for variable in packed:
        variable.served = None  # Building a functional model calls its layers.
        places.replace(variable, variable)  # Which makes a penalty on it one that decodes.
    if any(planned.codec for planned in rest):
        create = functools.partial(_compressed, policy)
        wrapping.install(model, variables, rest, create)
        variables = wrapping.variables_of(model)
    for index, (variable, planned) in enumerate(zip(variables, plan)):
        wrapping.give_reason(variable, planned.reason)
        if id(variable) in born and policy.rounding != "nearest":
            variable.seed_rounding(wrapping.rounding_seed(policy, index))
    vars(model)["_omc_plan"] = plan
    wrapping.forget_functions(model)
    return {id(variable) for variable in variables}


def _compressed(policy, original, planned, index):
    return wrapping.compressed_variable(original, planned, policy, index)
