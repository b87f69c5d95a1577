"""What the commands of `python -m omc.progressive` do."""

import importlib
import math
import os
import tempfile

import numpy as np
import tensorflow as tf

from omc import artifacts
from omc.errors import ArtifactError, InputError, InputTypeError, ModelError, OmcError
from omc.keras import saving
from omc.progressive import folders, parts, splitting
from omc.progressive.receiver import Receiver

ARCHITECTURE = "architecture.json"
"""Beside the parts in a folder: the model without its weights, as Keras' `to_json` has it."""


def split(model, stages, out, architecture=None, known=None, calibration=None):
    """Writes the parts of a model to a folder, under the names that a Receiver looks for.

    Args:
        model: Path of a .keras file, or of an .omc artifact.
        stages: Formats, with commas between.
        out: Folder.
        architecture: Where to get the model without weights, for an artifact; as `built` takes it.
        known: List of paths of parts that a receiver has applied, or None.
        calibration: Path of an .npy file of inputs, for BatchNorm statistics of each stage, or
            None.

    Raises:
        OmcError: As `omc.progressive.split` and `built`; for a file that cannot be read or written.
    """
    if str(model).endswith(".omc"):
        if architecture is None:
            tip = "--architecture model.keras, a .json of model.to_json(), or module:function."
            raise InputError("architecture", "what the artifact is of", "none", tip)
        network = built(architecture)
        saving.load(model, network)
    else:
        network = built(model, "model")
    names = [name.strip() for name in stages.split(",") if name.strip()]
    known = None if known is None else _found(known)
    inputs = None if calibration is None else _array(calibration)
    found = splitting.split(network, names, known, inputs)
    folder = _folder_for(found, known, out)
    for part in found:
        part.save(os.path.join(folder, folders.name_of(part)))
    try:
        text = network.to_json()
    except NotImplementedError:  # A subclass of tf.keras.Model without a config.
        print(f"no {ARCHITECTURE}: {network.name!r} has no configuration of its own.")
    else:
        path = os.path.join(folder, ARCHITECTURE)
        with artifacts.replacing(path) as temporary:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, path)
    print(table(found))


def _folder_for(found, known, out):
    """The folder that parts are written to; one of another chain would make two of it."""
    try:
        folder = folders.opened(out)
    except (InputError, InputTypeError) as error:
        raise type(error)("out", error.expected, error.got, error.tip) from error
    ours = {part.sha256 for part in [*found, *(known or ())]}
    others = [part for part in folders.loaded(folder) if part.sha256 not in ours]
    if others and known is None:
        expected = "a folder without parts of another chain"
        tip = "another folder; or --known with these, to send what a receiver of them lacks."
        raise InputError("out", expected, f"{out!r}, with {others[0]!r}", tip)
    return folder


def show(parts):
    """Prints a table of parts.

    Args:
        parts: List of paths, of parts or of folders.

    Raises:
        ArtifactError: A file is no whole part, or there is none.
    """
    print(table(_found(parts)))


def apply(parts, out, stage=None, architecture=None):
    """Applies parts to a plain model and writes it.

    Args:
        parts: List of paths of parts, in order, or of one folder.
        out: Path that ends with .omc or .keras.
        stage: Name of the last stage to apply, or None for all.
        architecture: Where to get the model without weights, as `built` takes it; None for the
            `architecture.json` beside the parts.

    Raises:
        OmcError: As `Receiver.apply` and `built`; no such stage; `out` cannot be written.
    """
    out = artifacts.checked_path(out)
    if not os.path.isdir(os.path.dirname(os.path.abspath(out))):
        raise InputError("out", "a path in a folder that is there", out)
    if not out.endswith((".omc", ".keras")):
        raise InputError("out", "a path that ends with .omc or .keras", out)
    chain = _found(parts)
    if stage is not None:
        chain = folders.until(chain, stage)
    if not chain:
        tip = "name the folder that split wrote, or its first file, too."
        expected = "a base, the first part of a chain"
        raise ArtifactError("parts", expected, f"none in {parts}", tip)
    if architecture is None:
        beside = parts[0] if os.path.isdir(parts[0]) else os.path.dirname(parts[0])
        architecture = os.path.join(beside, ARCHITECTURE)
        if not os.path.exists(architecture):
            tip = "--architecture model.keras, a .json of model.to_json(), or module:function."
            raise InputError("architecture", f"an {ARCHITECTURE} beside the parts", "none", tip)
    receiver = Receiver(built(architecture))
    for part in chain:
        receiver.apply(part)
    if out.endswith(".omc"):
        saving.save(receiver.model, out)
    else:
        _save_keras(receiver.model, out)
    place = f"stage {receiver.index + 1} of {len(receiver.stages)}"
    print(f"{receiver.stage}, {place}: {out}, {os.path.getsize(out):,} bytes")


def _array(path):
    expected = "an .npy file of inputs, as numpy.save writes it"
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError("calibration", expected, f"{path!r} ({error})") from error
    if not isinstance(found, np.ndarray):  # A zip of several.
        raise InputError("calibration", expected, f"{path!r}, an archive of several")
    return found


def table(found):
    """Parts as text: one row each.

    Args:
        found: List of `Part`.

    Returns:
        str; "of FP32" are a part's bytes over those of the dense variables of the base before it.
    """
    head = ("part", "kind", "stage", "bytes", "of FP32", "so far", "variables", "digest", "on")
    rows, dense, sofar = [], None, 0
    for part in found:
        if part.kind != "delta":
            sofar = 0
        if part.kind == "base":
            dense = sum(
                math.prod(entry.shape) * tf.as_dtype(entry.dtype).size for entry in part.entries
            )
        sofar += part.nbytes
        shares = [f"{100 * n / dense:.1f} %" if dense else "-" for n in (part.nbytes, sofar)]
        on = part.base_digest[:12] if part.base_digest else "-"
        row = (part.index, part.kind, part.stage, f"{part.nbytes:,}", *shares)
        rows.append((*row, len(part.entries), part.digest[:12], on))
    lines = [[str(cell) for cell in line] for line in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    right = (0, 3, 4, 5, 6)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def built(source, argument="architecture"):
    """A model from a file, or from a function of one's own.

    Args:
        source: Path of a .json of `model.to_json()`, or of what Keras loads; or "module:function".
        argument: Name for messages.

    Returns:
        A built `tf.keras.Model`.

    Raises:
        InputError: No such file, module or function; or Keras cannot read it.
        ModelError: What comes of it is no built model.
    """
    try:
        if not os.path.exists(source) and ":" in source:
            module, _, function = source.partition(":")
            model = getattr(importlib.import_module(module), function)()
        elif str(source).endswith(".json"):
            with open(source, encoding="utf-8") as file:
                model = tf.keras.models.model_from_json(file.read())
        else:
            model = tf.keras.models.load_model(source, compile=False)
    except OmcError:
        raise
    except (Exception, SystemExit) as error:  # Whatever the caller's own function, or a file, says.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        expected = "a .json or .keras file of a model, or module:function"
        raise InputError(argument, expected, f"{source!r}: {reason}") from error
    if not isinstance(model, tf.keras.Model) or not model.built:
        got = f"{type(model).__name__} from {source!r}"
        tip = "build it in the function: model.build(shape), or call it once."
        raise ModelError(argument, "a built tf.keras.Model", got, tip)
    return model


def _found(paths):
    """The parts of paths, each a file or a folder whose whole parts are taken in their chain."""
    found = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(parts.load(path))
            continue
        inside = folders.loaded(folders.opened(path))
        chain = folders.chain(inside, folders.noted(path))
        found += chain or sorted(inside, key=lambda part: part.index)
    if not found:
        tip = "`python -m omc.progressive split` writes them."
        expected = "a part, or a folder of parts"
        raise ArtifactError("parts", expected, f"none in {paths}", tip)
    return found


def _save_keras(model, path):
    with (
        artifacts.replacing(path),
        tempfile.TemporaryDirectory(dir=os.path.dirname(path), prefix=".omc-") as folder,
    ):
        temporary = os.path.join(folder, "model.keras")
        model.save(temporary)
        os.replace(temporary, path)
