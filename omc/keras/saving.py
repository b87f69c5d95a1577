"""save() and load(): a wrapped model's variables as one artifact, packed as they are stored."""

import dataclasses

import numpy as np
import tensorflow as tf

from omc import artifacts
from omc.errors import ArtifactError, InputTypeError, ModelError
from omc.formats import FP32
from omc.keras import host, nested_files, nesting, wrapping
from omc.keras.variable import CompressedVariable
from omc.policies import PlannedVariable, Policy, VariableSpec
from omc.tensor_files import tensor_of

_KIND = "model"


def save(model, path, coded=False):
    """Writes a wrapped model's variables to one file, packed as they are stored.

    Nothing is decoded: the file holds each buffer byte for byte and every other variable raw, with
    a checksum over everything, in at most 1 % more than the stored bytes of a usual model. It is
    written beside `path` and then moved there, so that an error leaves the old file.

    The artifact holds no optimizer state, and no architecture: `load` wants a built model.

    Args:
        model: A model that `wrap` or `load` has wrapped, in whole or in part.
        path: File, str or os.PathLike; by custom "*.omc".
        coded: Whether to code the buffers (`omc.coding`), without loss: a file of about as many
            bits as they carry, for some nanoseconds a weight at either end. `load` needs no word
            of it; older versions of OMC refuse such a file.

    Raises:
        InputTypeError: `model` is no Keras model, or `path` no path.
        ModelError: The model is not wrapped, or holds a model that is nested and is not so itself.
        ArtifactError: The file cannot be written: disk full, no such folder, no permission.
    """
    check_wrapped(model)
    nested_files.check_saved_alone(model)
    path = artifacts.checked_path(path)
    variables = stored_order(model)
    entries = tuple(_entry(variable) for variable in variables)
    if not isinstance(coded, (bool, np.bool_)):
        raise InputTypeError("coded", "True or False", coded)
    artifacts.write(path, artifacts.Artifact(_KIND, entries, _properties(model, variables)), coded)


def load(path, model):
    """Fills a model from an artifact, in place, and returns it.

    A wrapped model has to store its variables in the artifact's formats. A plain one is wrapped, in
    the artifact's formats and with its rounding. Either way the buffers are then those that were
    saved, bit for bit. Everything is checked first: an error leaves the model untouched. A model
    that was nested is nested again, with its widths and at the width that it was saved at; one that
    is nested already has to be so alike. One
    variable's bytes at a time are read, unless the file was saved with `coded=True`; a model of
    `omc.init_compressed` is therefore never larger than its stored bytes and one variable.

    Variables are matched by their place in `stored_order`, with shape and dtype; names are not
    compared, for Keras numbers layers anew ("dense_7" for "dense_1"). Optimizer state, and the
    count from which stochastic rounding draws, are not in the artifact: the model keeps its own.

    Args:
        path: File that `save` wrote.
        model: A built `tf.keras.Model` of the same architecture.

    Returns:
        `model`.

    Raises:
        InputTypeError: `model` is no Keras model, or `path` no path.
        ModelError: The model is unbuilt, or it is to be wrapped or nested and its optimizer already
            has slots.
        ArtifactError: The file is missing, no artifact, truncated, altered or newer, or it is of
            another architecture or other formats than the model.
    """
    path = artifacts.checked_path(path)
    plain = not is_wrapped(model)
    if plain:
        wrapping.check_kind(model)
        _check_built(model)
        wrapping.check_variables(model)
    with artifacts.opened(path, _KIND, limit=_most_bytes(model)) as artifact:
        _fill(path, artifact, model, plain)
    host.settle(model)
    return model


def _fill(path, artifact, model, plain):
    """Puts what an open artifact holds into a model, one variable after the other."""
    structure = artifact.properties.get("nesting")
    entries = _base_entries(path, artifact, structure, model, plain)
    _check_match(path, entries, stored_order(model), plain)
    is_nested = nesting.nesting_of(model) is not None
    if structure and not is_nested:
        wrapping.check_optimizer(model, grows=True)  # Widths bring weights of their own.
    if plain:
        _wrap_around(model, dataclasses.replace(artifact, entries=entries))
    if structure and is_nested:
        nesting.switch_back(model, structure["bits"])
    elif structure:
        nesting.restore(model, stored_order(model), structure)
        wrapping.forget_functions(model)
    for variable, entry in zip(stored_order(model), artifact.entries):
        compressed = isinstance(variable, CompressedVariable)
        stored = variable.buffer if compressed else variable
        # What is stored as FP32 (a progressive model's last stage) stays plain in a plain model.
        raw = compressed or entry.codec is None
        data = entry.data if raw else entry.data.view(np.float32).reshape(entry.shape)
        wrapping.put(
            stored, tf.zeros([0], stored.dtype)
        )  # The old value goes before the new comes.
        wrapping.put(stored, tensor_of(data))


def _most_bytes(model):
    """More bytes than any artifact of the model holds; what says more is not decoded."""
    return (1 << 20) + sum(
        64 * int(np.prod(v.shape, dtype=np.int64)) for v in wrapping.variables_of(model)
    )


def stored_order(model):
    """A model's variables in an order that names and frozen layers do not change.

    Layer after layer as the model holds them, in each its own variables as they were made. (In
    `model.weights` a custom layer's frozen sublayers come after the others.) What `omc.nest`
    added comes last.

    Args:
        model: A built `tf.keras.Model`.

    Returns:
        List of variables, each once.
    """
    ranks = {}
    for layer in host.layers_of(model):
        for variable in host.own_variables(layer):
            ranks.setdefault(id(variable), len(ranks))
    added = nesting.added_variables(model)
    variables = {id(variable): variable for variable in wrapping.variables_of(model)}
    for variable in added:
        variables.pop(id(variable), None)
    return sorted(variables.values(), key=lambda v: ranks.get(id(v), len(ranks))) + added


def is_wrapped(model):
    """Whether a Keras model is wrapped, in whole or in part.

    Raises:
        InputTypeError: `model` is no Keras model.
    """
    host.check_model(model)
    if "_omc_plan" in vars(model):
        return True
    every = wrapping.variables_of(model) if model.built else []
    return any(isinstance(variable, CompressedVariable) for variable in every)


def check_wrapped(model):
    """Raises the error of a model that is not wrapped, or that is none."""
    if not is_wrapped(model):
        _check_built(model)
        tip = "model = omc.wrap(model, policy) first; policy 'FP32' leaves every variable as it is."
        raise ModelError("model", "a wrapped model", f"{model.name!r}, a plain one", tip)


def _check_built(model):
    if not host.is_built(model) or not model.weights:
        raise ModelError(
            "model",
            "a built model",
            f"{model.name!r}, which has no variables yet",
            "call model.build(input_shape), or the model on a batch, first.",
        )


def _entry(variable):
    spec = VariableSpec.of(variable)
    if isinstance(variable, CompressedVariable):
        codec = nesting.stored_codec(variable)
        return artifacts.Entry(spec.name, spec.shape, codec, variable.buffer.numpy())
    return artifacts.Entry(spec.name, spec.shape, None, variable.numpy())


def _properties(model, variables):
    seeds = [v._seed for v in variables if isinstance(v, CompressedVariable)]
    found = {"rounding": "nearest", "seed": 0}
    if seeds and seeds[0] is not None:
        found = {"rounding": "stochastic", "seed": int(seeds[0][0])}
    structure = nesting.described(model, variables)
    return found if structure is None else {**found, "nesting": structure}


def _base_entries(path, artifact, structure, model, plain):
    """The entries that match the model's variables as it is now: without what `nest` is to add.

    Raises:
        ArtifactError: The artifact and the model are nested unlike each other, or the model is
            nested and the artifact not.
    """
    if structure and nesting.nesting_of(model) is None:
        return artifact.entries[: structure["variables_before"]]
    mine = nesting.described(model, stored_order(model))
    # The width in use is a matter of the moment, and how widths are drawn one of training.
    moment = {"bits": None, "switching": None}
    theirs, mine = ({**(s or {}), **moment} for s in (structure, mine))
    if theirs != mine:
        raise ArtifactError(
            "path",
            "an artifact of a model that is nested as this one",
            f"{path!r}, of one with {_differences(theirs, mine)}",
            "a plain or wrapped model of the artifact's formats takes it, nested or not."
            if structure
            else "a model that is not nested takes it.",
        )
    return artifact.entries


_NAMES = {"prepared": "widths", "widths": "trained widths", "variables": "weights in widths"}


def _differences(theirs, mine):
    """What differs between two structures of nested models, in words."""
    if "prepared" not in theirs or "prepared" not in mine:
        both = [s["prepared"] if "prepared" in s else "no widths" for s in (theirs, mine)]
        return f"widths {both[0]} instead of {both[1]}" if both[0] != "no widths" else both[0]
    found = [
        f"{_NAMES.get(name, name)} {theirs.get(name)!r} instead of {mine.get(name)!r}"
        for name in dict.fromkeys([*theirs, *mine])
        if theirs.get(name) != mine.get(name) and name not in ("variables_before", "sets")
    ]
    return ", ".join(found) or "BatchNorm sets of other widths"


def _check_match(path, entries, variables, plain):
    """Raises for the first variable that does not take its entry."""
    for place, (entry, variable) in enumerate(zip(entries, variables)):
        theirs, ours = _described(entry), VariableSpec.of(variable)
        mine = f"{ours.shape} {ours.dtype.name}"
        compressed = isinstance(variable, CompressedVariable)
        held = _format(nesting.stored_codec(variable) if compressed else None)
        same = entry.shape == ours.shape and entry.dtype == ours.dtype.name
        if not same or (not plain and _format(entry.codec) != held):
            mine += "" if plain else f" in {held}"
            raise ArtifactError(
                "path",
                f"an artifact whose variable {place} fits the model's {ours.name!r}, {mine}",
                f"{entry.name!r}, {theirs}, in {path!r}",
                "build the model, and wrap it, as the one that was saved."
                + (" A plain model takes any formats." if same else ""),
            )
    if len(entries) != len(variables):
        raise ArtifactError(
            "path",
            f"an artifact of the model's {len(variables)} variables",
            f"{len(entries)} in {path!r}",
            "build the model as the one that was saved.",
        )


def _described(entry):
    return f"{entry.shape} {entry.dtype} in {_format(entry.codec)}"


def _format(codec):
    """A codec in words, for messages and for comparison."""
    if codec is None:
        return "raw form"
    return codec.format.name if codec.transform else f"{codec.format.name} without transform"


def _wrap_around(model, artifact):
    """Wraps a plain model around an artifact's buffers."""
    entries = {id(v): entry for v, entry in zip(stored_order(model), artifact.entries)}
    rounding, seed = artifact.properties["rounding"], artifact.properties["seed"]
    policy = Policy(FP32, rounding=rounding, seed=seed)

    def create(original, planned, index):
        entry = entries[id(original)]
        return CompressedVariable(
            entry.codec,
            entry.data,
            name=planned.spec.name,
            trainable=original.trainable,
            constraint=original.constraint,
            seed=wrapping.rounding_seed(policy, index),
            autocast=host.autocasts(original),
        )

    plan = tuple(_planned(v, entries[id(v)]) for v in wrapping.variables_of(model))
    wrapping.install(model, wrapping.variables_of(model), plan, create)
    wrapping.forget_functions(model)


def _planned(variable, entry):
    spec, codec, reason = VariableSpec.of(variable), entry.codec, "as in the artifact"
    if codec is None:
        return PlannedVariable(spec, FP32, reason)
    return PlannedVariable(spec, codec.format, reason, transform=codec.transform)
