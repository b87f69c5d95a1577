"""Receiver: a device's model, which parts make usable and then more precise, in place."""

import dataclasses
import os

import numpy as np
import tensorflow as tf
from keras.src.mixed_precision.autocast_variable import AutoCastVariable

from omc import coding
from omc.codecs import Codec
from omc.errors import ArtifactError, InputError, InputTypeError, ModelError, OmcError
from omc.formats import FP32
from omc.keras import nesting, saving, wrapping
from omc.keras.variable import CompressedVariable
from omc.policies import PlannedVariable, Policy, VariableSpec
from omc.progressive import parts, streams, widths
from omc.progressive.parts import Part

_SUFFIX = ".part"
_ALIGNED = 64  # Bytes, to which TensorFlow aligns tensors.


class Receiver:
    """Takes parts into a model, each verified as a whole before anything changes.

    The base wraps the plain model around the base's codes. A delta then replaces codes and format
    of one variable after the other; the `CompressedVariable`s stay the same objects, so that an
    optimizer keeps its slots. The stage "FP32" is a `CompressedVariable` too, of raw float32. A
    model may predict between parts; once it is trained it is no longer what a delta applies to,
    and the delta is refused.

    Keras' own traced functions are forgotten with every part. Functions that you traced yourself
    (`tf.function`) have to be traced again: the codes that they hold are emptied, and they fail.

    Attributes:
        model: The model.
        stages: Names of the stages of the chain that the base began; () before.
        index: Index of the stage that the model has; -1 before the base.
        digest: Digest (hex) of the state that the last part led to; None before.
    """

    def __init__(self, model, directory=None):
        """Takes a plain model, and what already arrived for it.

        Args:
            model: A built, plain `tf.keras.Model` of the architecture that was split. Its values do
                not matter.
            directory: Folder, made if it is not there, to keep each part in before it is applied;
                the parts that are whole in it are applied at once, as far as they make a chain.
                What is truncated, altered or foreign is passed over. None keeps nothing.

        Raises:
            InputTypeError: `model` is no Keras model, or `directory` no path.
            ModelError: The model is unbuilt, already wrapped, or its optimizer has slots.
            InputError: `directory` cannot be made, or is no folder.
        """
        wrapping.check_kind(model)
        if not model.built:
            tip = "call model.build(input_shape), or the model on a batch, first."
            raise ModelError("model", "a built model", f"{model.name!r}, which is not", tip)
        wrapping.check_variables(model)
        self.model = model
        self.stages, self.index, self.digest = (), -1, None
        self._structure, self._planned = None, []
        self._interrupted = None
        self._directory = None if directory is None else _folder(directory)
        if self._directory is not None:
            for part in _kept(self._directory, model):
                self._take(part)

    @property
    def stage(self):
        """Name of the stage that the model has; None before the base."""
        return self.stages[self.index] if self.index >= 0 else None

    def apply(self, part):
        """Verifies a part, keeps it where there is a directory, and takes it into the model.

        Beside the model there is one variable at its new format, and a few megabytes. Where the
        process is stopped in the middle of it (`KeyboardInterrupt`, out of memory), every variable
        is whole, at one stage or the other; applying the same part again completes it.

        Args:
            part: `Part`, bytes of one, or the path of its file.

        Returns:
            `model`.

        Raises:
            InputTypeError: `part` is none.
            ArtifactError: The part is damaged, of another architecture, of another chain, out of
                order, already applied, or the model has been trained since; it cannot be kept in
                the directory. The model is as it was.
        """
        return self._take(_as_part(part), keep=self._directory is not None)

    def _take(self, part, keep=False):
        if part.kind == "base":
            self._check_order(part)
            variables = saving.stored_order(self.model)
            _check_match(part, variables)
            _verify_base(part)
            self._keep(part, keep)
            self._install(part, variables)
            self.stages = part.stages
        else:
            self._check_order(part)
            variables = saving.stored_order(self.model)
            digests = self._check_state(part, variables)
            targets = _verify_delta(part, variables, digests)
            self._keep(part, keep)
            self._interrupted = part.digest
            for entry in part.entries:
                if digests[entry.place] != targets[entry.place]:
                    _upgrade(part, entry, variables[entry.place], targets[entry.place])
            self._interrupted = None
            self._renew_plan(part)
        self.index, self.digest = part.index, part.digest
        if self._structure is not None:
            widths.use_stage(self.model, self._structure, part.stage)
        wrapping.forget_functions(self.model)
        return self.model

    def _check_order(self, part):
        """Raises for a part that is not the next of this chain."""
        if self._interrupted is not None and part.digest != self._interrupted:
            expected = "the part whose application was interrupted"
            raise ArtifactError("part", expected, repr(part), "apply that one again.")
        expected = "a base, the first part of a chain"
        if self.index >= 0:
            if self.index + 1 == len(self.stages):
                expected = f"no further part: the model has the last stage, {self.stage}"
            else:
                expected = f"part {self.index + 1} of {self.stages}, given {self.stage}"
        tip = "apply the parts in the order of split()."
        if self.index >= 0 and part.digest == self.digest:
            raise ArtifactError("part", expected, f"{part!r}, which is already applied", tip)
        if part.index != self.index + 1:
            raise ArtifactError("part", expected, f"{part!r}, out of order", tip)
        if part.kind == "delta" and (part.stages != self.stages or part.base_digest != self.digest):
            got = f"{part!r} of another chain, given {part.base_digest}"
            raise ArtifactError("part", f"a delta on {self.digest}", got, "split once, send all.")

    def _check_state(self, part, variables):
        """Digests (list of bytes) of the variables, which are those that a delta applies to."""
        digests = [_digest(variable) for variable in variables]
        if self._interrupted is not None or streams.state_digest(digests) == part.base_digest:
            return digests
        raise ArtifactError(
            "part",
            "a delta on the model as it is",
            f"{part!r}, for the model as the last part left it, which has changed since",
            "a trained model takes no deltas; make a new Receiver of a plain model.",
        )

    def _keep(self, part, keep):
        if not keep:
            return
        name = f"{part.index}-{part.digest[:16]}{_SUFFIX}"
        try:
            part.save(os.path.join(self._directory, name))
        except ArtifactError as error:
            tip = "the model is as it was; make room, and apply the part again."
            raise ArtifactError("directory", error.expected, error.got, tip) from error

    def _install(self, part, variables):
        """Wraps the plain model around a base that was verified."""
        model, properties = self.model, part.properties
        entries = {id(v): entry for v, entry in zip(variables, part.entries)}
        policy = Policy(FP32, rounding=properties["rounding"], seed=properties["seed"])

        def create(original, planned, index):
            entry = entries[id(original)]
            return CompressedVariable(
                entry.codec,
                _buffer(part, entry),
                name=planned.spec.name,
                trainable=original.trainable,
                constraint=original.constraint,
                seed=wrapping.rounding_seed(policy, index),
                autocast=isinstance(original, AutoCastVariable),
            )

        plan = tuple(
            _planned(VariableSpec.of(v), entries[id(v)].codec, part.stage)
            for v in wrapping.variables_of(model)
        )
        raw, self._structure = _raw_values(part), properties.get("nesting")
        del variables[:]  # So that each dense original is gone before the next one's turn.
        wrapping.install(model, wrapping.variables_of(model), plan, create)
        self._planned = wrapping.variables_of(model)
        if self._structure is not None:
            widths.restore(model, saving.stored_order(model), self._structure)
        for variable, entry in zip(saving.stored_order(model), part.entries):
            if isinstance(variable, CompressedVariable) is not (entry.codec is not None):
                raise AssertionError(f"{variable.name} is not what the base says")
            if entry.codec is None:
                variable.assign(raw[entry.place])
        for layer in model._flatten_layers():  # As Keras' set_weights does.
            layer.finalize_state()

    def _renew_plan(self, part):
        plan = []
        for old, variable in zip(vars(self.model)["_omc_plan"], self._planned):
            if isinstance(variable, CompressedVariable):
                old = _planned(old.spec, nesting.stored_codec(variable), part.stage)
            plan.append(old)
        vars(self.model)["_omc_plan"] = tuple(plan)


def _planned(spec, codec, stage):
    if codec is None:
        return PlannedVariable(spec, FP32, "raw in the base")
    return PlannedVariable(spec, codec.format, f"stage {stage}", transform=codec.transform)


def _as_part(part):
    if isinstance(part, Part):
        return part
    if isinstance(part, (bytearray, memoryview, bytes)):
        return Part.from_bytes(part)
    if isinstance(part, (str, os.PathLike)):
        return parts.load(part)
    expected = "a Part, bytes of one, or the path of its file"
    raise InputTypeError("part", expected, type(part).__name__)


def _folder(directory):
    try:
        path = os.path.realpath(os.fsdecode(directory))
    except (TypeError, ValueError) as error:
        got = type(directory).__name__
        raise InputTypeError("directory", "a path, str or os.PathLike", got) from error
    try:
        os.makedirs(path, exist_ok=True)
        names = os.listdir(path)
    except OSError as error:
        got = f"{path!r}: {error.strerror}"
        raise InputError("directory", "a folder that can be made and read", got) from error
    for name in names:  # What a killed process was writing.
        if name.startswith(".omc-") and name.endswith(".tmp"):
            os.unlink(os.path.join(path, name))
    return path


def _kept(directory, model):
    """The longest chain of whole parts in a folder that fits a plain model."""
    bases, deltas = [], {}
    for name in sorted(os.listdir(directory)):
        if not name.endswith(_SUFFIX):
            continue
        try:
            part = parts.load(os.path.join(directory, name))
            if part.kind == "base":
                _check_match(part, saving.stored_order(model))
                _verify_base(part)
        except OmcError:  # Truncated, altered, of another model: as if it were not there.
            continue
        if part.kind == "base":
            bases.append([part])
        else:
            deltas[part.base_digest, part.stages] = part
    for chain in bases:
        while (chain[-1].digest, chain[-1].stages) in deltas:
            chain.append(deltas[chain[-1].digest, chain[-1].stages])
            if chain[-1].index != len(chain) - 1:
                chain.pop()
                break
    return max(bases, key=len, default=[])


def _check_match(part, variables):
    """Raises for a base that is not of the model's architecture."""
    with _sound(part):
        structure = part.properties.get("nesting")
        entries = part.entries[: structure["variables_before"] if structure else None]
    for place, (entry, variable) in enumerate(zip(entries, variables)):
        mine = VariableSpec.of(variable)
        theirs = f"{entry.name!r}, {entry.shape} {entry.dtype}"
        if entry.place != place:
            raise ArtifactError("part", f"variable {place} at its place", theirs)
        if entry.shape != mine.shape or entry.dtype != mine.dtype.name:
            place = f"{mine.name!r}, {mine.shape} {mine.dtype.name}"
            raise ArtifactError(
                "part",
                f"a base whose variables fit the model's {place}",
                f"{theirs}, in {part!r}",
                "build the model as the one that was split.",
            )
    if len(entries) != len(variables):
        raise ArtifactError(
            "part",
            f"a base of the model's {len(variables)} variables",
            f"{len(entries)} in {part!r}",
            "build the model as the one that was split.",
        )


def _verify_base(part):
    """Raises for a base that does not lead to the state that it says."""
    with _sound(part):
        raw, digests = _raw_values(part), []
        for entry in part.entries:
            if entry.codec is None:
                digests.append(streams.digest_of_raw(raw[entry.place]))
            else:
                digests.append(_decoded_digest(part, entry))
        _check_digest(part, digests)


def _verify_delta(part, variables, digests):
    """Digests (list of bytes) of the state that a delta leads to; raises as `_verify_base`."""
    with _sound(part):
        targets = list(digests)
        for entry in part.entries:
            variable = variables[entry.place]
            if not isinstance(variable, CompressedVariable) or entry.codec is None:
                raise ValueError("a delta of a raw variable")
            if entry.shape != tuple(variable.shape):
                raise ValueError("a delta of another shape")
            if nesting.stored_codec(variable) == entry.codec:
                continue  # Upgraded already, before an interruption.
            buffer = _held(variable.buffer)
            given = buffer, nesting.stored_codec(variable)
            targets[entry.place] = _decoded_digest(part, entry, *given)
        _check_digest(part, targets)
        return targets


class _sound:
    """Context in which what is wrong with a part's contents is an ArtifactError."""

    def __init__(self, part):
        self._part = part

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, ArtifactError) or not isinstance(
            error, (OmcError, LookupError, TypeError, ValueError, tf.errors.OpError)
        ):
            return False
        got = f"{self._part!r}, whose contents are not ({type(error).__name__}: {error})"
        raise ArtifactError("part", "a part that leads where it says", got) from error


def _check_digest(part, digests):
    if streams.state_digest(digests) != part.digest:
        raise ValueError("they lead to another state")


def _decoded_digest(part, entry, given=None, given_codec=None):
    data, codec = part.streams(entry), entry.codec
    digest = streams.Digest(codec.shape, codec.format.name, codec.transform)
    for _, piece in streams.decode(data, codec, given, given_codec):
        digest.update(piece)
    digest.update(data[0])
    return digest.done()


def _buffer(part, entry, given=None, given_codec=None):
    """The buffer that an entry leads to, uint8 array."""
    codec, data = entry.codec, part.streams(entry)
    # Aligned, TensorFlow takes it as it is; otherwise it would make a copy of its own first.
    buffer = np.empty(codec.nbytes + _ALIGNED, np.uint8)
    begin = -buffer.ctypes.data % _ALIGNED
    buffer = buffer[begin : begin + codec.nbytes]
    for where, piece in streams.decode(data, codec, given, given_codec):
        at = 0
        for start, stop in streams.ranges(codec, *where):
            buffer[start:stop] = piece[at : at + stop - start]
            at += stop - start
    if len(data[0]):
        buffer[codec.nbytes - len(data[0]) :] = np.frombuffer(data[0], np.uint8)
    return buffer


def _upgrade(part, entry, variable, target):
    """Puts the next stage's codes in the place of a variable's."""
    before, codec = variable.buffer, entry.codec
    buffer = _buffer(part, entry, _held(before), nesting.stored_codec(variable))
    if streams.digest_of(buffer, codec) != target:
        raise ArtifactError("part", "a part that stays as it is", f"{part!r}, altered meanwhile")
    with tf.device(before.device):
        # A copy, in TensorFlow's memory, and whole: a variable that is assigned to by slices is
        # copied at every read from then on.
        after = tf.raw_ops.DeepCopy(x=buffer)
        after = tf.Variable(after, trainable=False, name=before.name.split(":")[0])
    variable.restore(dataclasses.replace(codec, saturates=variable.codec.saturates), after)
    wrapping.give_reason(variable, f"stage {part.stage}")
    # A function that someone traced may hold the old buffer: its memory is freed all the same.
    empty = tf.zeros([0], tf.uint8)
    tf.raw_ops.AssignVariableOp(resource=before.handle, value=empty, validate_shape=False)


def _held(buffer):
    """What a buffer (tf.Variable) holds, without the copy that `read_value` makes."""
    return tf.raw_ops.ReadVariableOp(resource=buffer.handle, dtype=tf.uint8)


def _digest(variable):
    if isinstance(variable, CompressedVariable):
        return streams.digest_of(_held(variable.buffer), nesting.stored_codec(variable))
    return streams.digest_of_raw(variable.numpy())


def _raw_values(part):
    """Dict of place -> array of the raw variables of a base."""
    found, values, at = {}, {}, {}
    counts = {}
    for entry in part.entries:
        if entry.codec is None:
            count = int(np.prod(entry.shape, dtype=np.int64))
            counts[entry.dtype] = counts.get(entry.dtype, 0) + count
    for dtype, count in counts.items():
        data, coded = part.raw(dtype)
        if coded:
            data = coding.decode_buffer(data, Codec(FP32, (count,), transform=False)).tobytes()
        kind = tf.as_dtype(dtype).as_numpy_dtype
        values[dtype], at[dtype] = np.frombuffer(data, np.uint8).view(kind), 0
        if values[dtype].size != count:
            raise ValueError("raw variables of another length")
    for entry in part.entries:
        if entry.codec is None:
            start, count = at[entry.dtype], int(np.prod(entry.shape, dtype=np.int64))
            at[entry.dtype] += count
            chosen = values[entry.dtype][start : start + count]
            found[entry.place] = chosen.reshape(entry.shape)
    return found
