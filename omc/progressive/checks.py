"""Whether a part leads where it says: found out by decoding it once, before anything changes."""

import numpy as np
import tensorflow as tf

from omc.errors import ArtifactError, ModelError, OmcError
from omc.keras import nesting
from omc.keras.variable import CompressedVariable
from omc.policies import VariableSpec
from omc.progressive import contents, streams


def check_match(part, variables):
    """Raises the ArtifactError of a base that is not of the model's architecture.

    Args:
        part: `Part`, a base.
        variables: List of the plain model's variables in stored order.
    """
    with sound(part):
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


def verify_base(part):
    """Raises the ArtifactError of a base that does not lead to the state that it says."""
    with sound(part):
        raw, digests = contents.raw_values(part), []
        for entry in part.entries:
            if entry.codec is None:
                digests.append(streams.digest_of_raw(raw[entry.place]))
            else:
                digests.append(contents.decoded_digest(part, entry))
        _check_digest(part, digests)


def verify_step(part, variables, digests):
    """Raises as `verify_base`, for a delta or an update on a model as it is.

    Args:
        part: `Part`.
        variables: List of the model's variables in stored order.
        digests: Theirs, list of bytes.

    Returns:
        Digests (list of bytes) of the state that it leads to.
    """

    def given(place):
        variable = variables[place]
        return contents.held(variable.buffer), nesting.stored_codec(variable)

    return _verified(part, variables, digests, given)


def verify_on_delivered(part, variables, history):
    """Raises as `verify_step`, for a delta on a model that has been trained.

    Args:
        part: `Part`, a delta.
        variables: List of the model's variables in stored order.
        history: `History` of the parts before.

    Returns:
        (Digests of what was delivered, of what the delta leads to), lists of bytes.

    Raises:
        ArtifactError: As `verify_step`; or the parts before lead elsewhere now (`directory`).
        ModelError: A variable that is to be refined has become NaN or Inf.
    """
    try:
        delivered = history.digests()
        whole = streams.state_digest(delivered) == part.base_digest
    except (OmcError, LookupError, ValueError, tf.errors.OpError):
        whole = False
    if not whole:
        expected = "the parts that were applied, as they were"
        got = "parts that were altered meanwhile"
        tip = "start again in an empty directory, with the base."
        raise ArtifactError("directory", expected, got, tip)
    targets = _verified(part, variables, delivered, history.buffer, trained=True)
    packed = {entry.place for entry in part.entries if entry.codec is not None}
    for place, variable in enumerate(variables):
        if not _is_finite(variable, place in packed):
            got = f"NaN or Inf in {variable.name!r}"
            tip = "load a state from before it diverged; codes that are not numbers cannot grow."
            raise ModelError("model", "finite weights", got, tip)
    return delivered, targets


def _is_finite(variable, refined):
    """Whether a variable can be kept: by the transform of a packed one, all values of a raw one."""
    if isinstance(variable, CompressedVariable):
        if not refined:
            return True
        last = streams.trailer(contents.held(variable.buffer), nesting.stored_codec(variable))
        return bool(np.isfinite(np.frombuffer(last, "<f4")).all())
    if not (variable.dtype.is_floating and variable.trainable):
        return True
    return bool(tf.reduce_all(tf.math.is_finite(variable)))


def _verified(part, variables, digests, given, trained=False):
    with sound(part):
        targets = list(digests)
        for entry in part.entries:  # Before anything is decoded: it says how much that is.
            _check_entry(part, entry, variables[entry.place])
        raw = contents.raw_values(part)
        for entry in part.entries:
            variable = variables[entry.place]
            if entry.codec is None:
                targets[entry.place] = streams.digest_of_raw(raw[entry.place])
            elif part.kind == "update":
                targets[entry.place] = contents.decoded_digest(part, entry)
            elif trained or nesting.stored_codec(variable) != entry.codec:
                digest = contents.decoded_digest(part, entry, *given(entry.place))
                targets[entry.place] = digest
            # Else it was upgraded already, before an interruption.
        _check_digest(part, targets)
        return targets


def _check_entry(part, entry, variable):
    if isinstance(variable, CompressedVariable) is (entry.codec is None):
        raise ValueError("a variable that is stored otherwise")
    if entry.shape != tuple(variable.shape):
        raise ValueError("a variable of another shape")
    if entry.codec is None:
        if entry.dtype != variable.dtype.name:
            raise ValueError("a raw variable of another dtype")
        if part.kind == "delta" and not part.calibrated:
            raise ValueError("a raw variable in a delta")


class sound:
    """Context in which what is wrong with a part's contents is an ArtifactError.

    Args:
        part: `Part`.
    """

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
