"""split(): a model as a base and deltas."""

import numpy as np
import tensorflow as tf

from omc import coding, nested
from omc.alternative_codecs import AlternativeCodec
from omc.codecs import Codec
from omc.errors import InputError, InputTypeError, ModelError
from omc.formats import FP32
from omc.keras import nesting, saving, wrapping
from omc.keras.variable import CompressedVariable
from omc.policies import Policy, VariableSpec
from omc.progressive import history, parts, statistics, streams, widths
from omc.progressive.stages import Chain, parsed

_TIP_KNOWN = "without known= the receiver gets a base of its own."


def split(model, stages, known=None, calibration=None):
    """Splits a model into a base, usable by itself, and deltas that make it more precise.

    The last stage is the model bit for bit: of a plain model its float32 weights ("FP32"), or the
    codes that `omc.wrap` would give it; of a wrapped model what it stores. An earlier stage is read
    out of the highest one that holds its codes, where there is one (INT4 of INT8, S1E3M3 of
    S1E3M7, by `omc.nested`), and else made of the last stage's values, with a transform.

    Variables that are not quantized (biases, BatchNorm) travel whole in the base. Those that a
    wrapped model stores in fewer bits than a stage asks for reach what is stored with that stage.
    Of a nested model (`omc.nest`) the stages are widths: a stage computes what
    `omc.nested.switch` to its width does.

    With `known` the first part is no base but an update of what a receiver has of another version:
    a variable that it holds, at any stage of this chain, goes on from there and is not sent again.

    Args:
        model: A built `tf.keras.Model`, plain or wrapped.
        stages: Names of formats, or Formats, each with more bits than the one before. All but the
            last have at most 16 bits. For a wrapped model the last is the widest that it stores.
            A stage before it may be a `Policy`, such as `omc.allocate(model, wire_bytes=...)`: each
            variable then has its own format there; what the policy leaves in float32 has that of
            the next stage at once.
        known: List of the parts, of another version of the model, that the receiver has applied;
            None for a receiver that has nothing.
        calibration: Batches of inputs, as `omc.calibrate` takes them: every stage with less than
            8 bits then comes with BatchNorm statistics that are its own. None for the target's.

    Returns:
        List of `Part`, one a stage.

    Raises:
        FormatError: Unknown format.
        InputError: No stages, stages out of order, too wide, or that do not end where the model
            does; a policy with partial quantization, as the last stage, of a nested model, or that
            has a variable shrink; NaN or Inf weights; `known` makes no chain, or is of another
            architecture.
        InputTypeError: `stages` is no list, `known` no list of parts, `model` no Keras model, or a
            variable holds strings.
        ModelError: The model is not built, partially quantized as a client's is, or nested with
            rounding "shift".
    """
    asked = parsed(stages)
    held = (_wrapped if saving.is_wrapped(model) else _plain)(model, asked)
    formats = [stage.format for stage in asked]
    growing = None  # Variables of a nested model that change their width; None for all.
    if nesting.nesting_of(model) is not None:
        _check_nested(model, formats, calibration)
        growing = {id(variable) for variable in nesting.nesting_of(model).variables}
    properties = _properties(model, formats)
    before = _Known(known, held, properties, formats[-1].is_fp32)
    held = before.held
    chains = Chain(model, asked, held)

    def packed(place):
        """List of (buffer, codec), one a stage, of a variable that is quantized."""
        variable, codec = held[place]
        own = chains.of(variable)
        if growing is not None and id(variable) not in growing:
            own = own[-1:]
        found = _chain(variable, codec, own, growing is None)
        return [found[0]] * (len(formats) - len(found)) + found

    def held_at(stage, place):
        """(buffer, codec) that a receiver has of such a variable at a stage."""
        return before.settled(place, packed(place))[0][stage]

    estimated = {}
    if calibration is not None:
        estimated = statistics.of_stages(model, held, held_at, len(formats), calibration)
    entries, payloads, raw, digests = ([[] for _ in formats] for _ in range(4))
    for place, (variable, codec) in enumerate(held):
        spec = VariableSpec.of(variable)
        if codec is not None:
            states = packed(place)
        else:
            states = estimated.get(place) or [_value(variable, spec)] * len(formats)
        if place in estimated:  # What an earlier stage lacks is not what the last one has.
            found = list(map(streams.digest_of_raw, states))
        else:
            states, found = before.settled(place, states)
        for stage, (state, digest) in enumerate(zip(states, found)):
            digests[stage].append(digest)
            if digest == digests[stage - 1][-1] if stage else before.holds(place, digest):
                continue
            if codec is None:
                raw[stage].append((spec.dtype.name, state.reshape(-1)))
                entry = parts.Entry(place, spec.name, spec.shape, None, spec.dtype.name)
            else:
                data = list(streams.encode(*state, *(states[stage - 1] if stage else ())))
                sizes = tuple(map(len, data))
                entry = parts.Entry(place, spec.name, spec.shape, state[1], "float32", sizes)
                payloads[stage] += data
            entries[stage].append(entry)
    reached = [before.digest, *(streams.state_digest(each) for each in digests)]
    first = "base" if known is None else "update"
    return [
        parts.assemble(
            "delta" if stage else first,
            stage,
            chains.names,
            reached[stage],
            reached[stage + 1],
            {} if stage or known else properties,
            entries[stage],
            _joined(raw[stage]),
            payloads[stage],
            calibrated=calibration is not None,
        )
        for stage in range(len(formats))
    ]


def _check_nested(model, formats, calibration):
    """Raises for what a nested model cannot be split with."""
    if None in formats:
        got = f"a policy for {model.name!r}, which is nested"
        tip = "formats in place of policies: INT4, INT8."
        raise InputError("stages", "widths of a nested model", got, tip)
    if calibration is not None:
        expected = f"none for {model.name!r}, whose widths have statistics of their own"
        raise InputError("calibration", expected, "some", "omc.calibrate(model, data) before.")
    widths.check_stages(model, formats)


def _value(variable, spec):
    value = np.asarray(variable.numpy())  # Of a scalar numpy() gives no array.
    if value.dtype.hasobject:
        got = f"{spec.name!r} of dtype {value.dtype}"
        tip = "keep vocabularies of strings outside of the model."
        raise InputTypeError("model", "variables of numbers or bools", got, tip)
    return value


class _Known:
    """What a receiver holds of another version, by digest; nothing where there is none.

    Args:
        known: As for `split`.
        held: List of (variable, codec of the last stage or None) of the model.
        properties: dict of the model's, as a base has them.
        fp32: Whether the last stage is FP32.

    Attributes:
        digest: Digest (hex) of the state that the receiver has, or None.
        held: As the argument; what the receiver has packed is packed, though it ends as FP32.

    Raises:
        InputTypeError, InputError: As `split`, for `known`.
    """

    def __init__(self, known, held, properties, fp32):
        self.digest, self.held, self._digests = None, held, []
        if known is None:
            return
        found = history.checked(known)
        expected = "parts of a model of the same architecture, of which the same is quantized"
        theirs = found.parts[0].properties.get("nesting")
        if len(found) != len(held) or theirs != properties.get("nesting"):
            got = f"parts of {len(found)} variables, or nested otherwise"
            raise InputError("known", expected, got, _TIP_KNOWN)
        for place, (variable, codec) in enumerate(held):
            entry, spec = found.entry(place), VariableSpec.of(variable)
            same = entry.shape == spec.shape and entry.dtype == spec.dtype.name
            if same and entry.codec is not None and codec is None and fp32:
                codec = Codec(FP32, spec.shape, transform=False)
                self.held[place] = variable, codec
            if not same or (entry.codec is None) is not (codec is None):
                stored = ["raw" if c is None else "quantized" for c in (entry.codec, codec)]
                got = f"{entry.name!r}, {entry.shape} {stored[0]}, where the model has"
                got += f" {spec.name!r}, {spec.shape} {stored[1]}"
                raise InputError("known", expected, got, _TIP_KNOWN)
        self.digest, self._digests = found.digest, found.digests()

    def holds(self, place, digest):
        """Whether the receiver has a variable as it is."""
        return bool(self._digests) and self._digests[place] == digest

    def settled(self, place, states):
        """A variable at every stage, where the stages before the one that is held are as that.

        Args:
            place: Its place.
            states: List, one a stage: (buffer, codec), or the array of a raw variable.

        Returns:
            (such a list, list of digests).
        """
        found = []
        for stage, state in enumerate(states):
            if stage and _same(state, states[stage - 1]):
                found.append(found[-1])
            else:
                raw = isinstance(state, np.ndarray)
                found.append(streams.digest_of_raw(state) if raw else streams.digest_of(*state))
        for stage in range(len(found) - 1, 0, -1):
            if self.holds(place, found[stage]):
                return tuple([each[stage]] * stage + each[stage:] for each in (states, found))
        return states, found


def _same(state, other):
    return state is other or (isinstance(state, tuple) and state[1] == other[1])


def _plain(model, stages):
    """List of (variable, codec of the last stage or None) of a plain model."""
    wrapping.check_kind(model)
    wrapping.check_built(model)
    last, variables = stages[-1].format, saving.stored_order(model)
    chosen = stages[-2] if last.is_fp32 and len(stages) > 1 else stages[-1]
    # A policy tells variables of other names by their places in the model.
    ordered = wrapping.variables_of(model)
    policy = chosen.policy or Policy(chosen.format)
    planned = policy.plan([VariableSpec.of(variable) for variable in ordered])
    planned = {id(variable): each for variable, each in zip(ordered, planned)}
    plan = [planned[id(variable)] for variable in variables]
    wrapping.check_finite(variables, plan)
    found = []
    for variable, planned in zip(variables, plan):
        codec = planned.codec
        if codec is not None and last.is_fp32:
            codec = Codec(FP32, codec.shape, transform=False)
        found.append((variable, codec))
    return found


def _wrapped(model, stages):
    """List of (variable, codec that it is stored in or None) of a wrapped model."""
    found, widest = [], None
    for variable in saving.stored_order(model):
        codec = None
        if isinstance(variable, CompressedVariable):
            if isinstance(variable.codec, AlternativeCodec):
                tip = "split the server's model."
                got = f"{model.name!r}, a client's partially quantized one"
                raise ModelError("model", "a model with one format a variable", got, tip)
            codec = nesting.stored_codec(variable)
            if codec.format.is_fp32 and stages[0].is_fp32:
                codec = None  # One stage: it travels raw.
            elif widest is None or codec.format.bits > widest.bits:
                widest = codec.format
        found.append((variable, codec))
    widest = widest or FP32
    stored = {codec.format for _, codec in found if codec and codec.format.bits == widest.bits}
    if stages[-1].format not in (stored or {widest}):
        raise InputError(
            "stages",
            f"stages that end with {widest.name!r}, the widest that the model stores",
            stages[-1].format.name,
            "more bits than are stored cannot be sent.",
        )
    return found


def _chain(variable, codec, formats, centred):
    """List of (buffer, codec), one a stage, of a variable whose last codec is given."""
    if isinstance(variable, CompressedVariable):
        buffer = variable.buffer.numpy()
    else:
        buffer = codec.encode(variable.read_value()).numpy()
    target = buffer, codec
    found, dense = [target], None
    for fmt in reversed(formats[:-1]):
        if fmt.bits < codec.format.bits:
            # The highest, for to round twice is not to round once.
            above = next((held for held in reversed(found) if _holds(held[1], fmt)), None)
            if above is not None:
                given = tf.constant(above[0]), above[1], fmt.bits
                buffer = nested.extract_buffer(*given, centred).numpy()
                found.insert(0, (buffer, nested.extracted_codec(above[1], fmt.bits)))
                continue
            dense = codec.decode(tf.constant(target[0])) if dense is None else dense
            lower = Codec(fmt, codec.shape)
            found.insert(0, (lower.encode(dense).numpy(), lower))
        else:
            found.insert(0, target)
    return found


def _holds(codec, fmt):
    """Whether codes of a format can be read out of a codec's."""
    stored = codec.format
    if stored.is_fp32 or not codec.transform or stored.kind != fmt.kind:
        return False
    fields = (stored.sign_bits, stored.exponent_bits) == (fmt.sign_bits, fmt.exponent_bits)
    return stored.kind == "int" or fields


def _joined(arrays):
    """Raw variables of one part, a list of (dtype, bytes, whether they are coded).

    Args:
        arrays: List of (name of a dtype, array [n]).
    """
    by_dtype, found = {}, []
    for dtype, array in arrays:
        by_dtype.setdefault(dtype, []).append(array)
    for dtype, each in by_dtype.items():
        data = np.concatenate(each)
        octets, coded = data.view(np.uint8).tobytes(), None
        if dtype == "float32" and data.size:
            codec = Codec(FP32, (data.size,), transform=False)
            coded = coding.encode_buffer(data.view(np.uint8), codec)
        smaller = coded is not None and len(coded) < len(octets)
        found.append((dtype, coded if smaller else octets, smaller))
    return found


def _properties(model, formats):
    found, variables = {"rounding": "stochastic", "seed": 0}, saving.stored_order(model)
    compressed = [v for v in variables if isinstance(v, CompressedVariable)]
    if compressed and compressed[0]._seed is None:
        found["rounding"] = "nearest"
    elif compressed:
        found["seed"] = int(compressed[0]._seed[0])
    structure = widths.described(model, variables, formats)
    return found if structure is None else {**found, "nesting": structure}
