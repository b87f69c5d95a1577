"""A receiver's folder: the parts in it, and which of them make a chain."""

import os

from omc.errors import ArtifactError, InputError, InputTypeError, OmcError
from omc.keras import saving
from omc.progressive import checks, parts
from omc.progressive.stages import checked_name

SUFFIX = ".part"
"""With which the names of parts end."""


def opened(directory):
    """The absolute path of a folder, made if it is not there.

    Args:
        directory: str or os.PathLike.

    Raises:
        InputTypeError: It is no path.
        InputError: It cannot be made or read.
    """
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


def name_of(part):
    """The name that a part has in a folder, its address in it: other bytes have another name."""
    return f"{part.index}-{part.sha256[:16]}{SUFFIX}"


def keep(directory, part):
    """Has a part on the disk, and gives it back mapped from there.

    Args:
        directory: What `opened` returned.
        part: `Part`.

    Raises:
        ArtifactError: It cannot be written; `directory` is the argument.
    """
    path = os.path.join(directory, name_of(part))
    try:
        kept = parts.load(path)  # A `Download` put it there.
        if kept.sha256 == part.sha256:
            return kept
    except OmcError:
        pass
    try:
        part.save(path)
        return parts.load(path)
    except ArtifactError as error:
        tip = "the model is as it was; make room, and apply the part again."
        raise ArtifactError("directory", error.expected, error.got, tip) from error


def chain(found):
    """The longest chain of parts, in order; an update before a delta where both are as long.

    Args:
        found: List of `Part`, in any order.

    Returns:
        List of `Part`, a base first; empty without a base.
    """
    following = {}
    for part in {part.sha256: part for part in found}.values():
        following.setdefault(part.base_digest, []).append(part)
    for each in following.values():
        each.sort(key=lambda part: part.kind == "delta")

    def longest(made):
        last, best = made[-1], made
        for part in following.get(last.digest, ()):
            grows = part.index == last.index + 1 and part.stages == last.stages
            if (part.kind == "update" or grows) and all(part is not each for each in made):
                further = longest([*made, part])
                best = further if len(further) > len(best) else best
        return best

    bases = [part for part in following.get(None, ()) if part.kind == "base"]
    return max((longest([base]) for base in bases), key=len, default=[])


def until(chain, stage):
    """A chain up to the last part that leads to a stage.

    Args:
        chain: List of `Part`.
        stage: Name of a stage.

    Raises:
        FormatError: Unknown format.
        InputError: No part leads to it.
    """
    name = checked_name(stage)
    places = [place for place, part in enumerate(chain) if part.stage == name]
    if not places:
        raise InputError("stage", f"one of {[part.stage for part in chain]}", stage)
    return chain[: places[-1] + 1]


def loaded(directory):
    """List of the whole parts in a folder; what is truncated, altered or none is passed over.

    Args:
        directory: What `opened` returned.
    """
    found = []
    for name in sorted(os.listdir(directory)):
        if name.endswith(SUFFIX):
            try:
                found.append(parts.load(os.path.join(directory, name)))
            except OmcError:
                continue
    return found


def kept(directory, model):
    """The longest chain of whole parts in a folder that fits a plain model, a list of `Part`."""
    found = []
    for part in loaded(directory):
        if part.kind == "base":
            try:
                checks.check_match(part, saving.stored_order(model))
                checks.verify_base(part)
            except OmcError:  # Of another model: as if it were not there.
                continue
        found.append(part)
    return chain(found)
