"""A receiver's folder: the parts in it, and which of them make a chain."""

import contextlib
import os
import re

from omc.errors import ArtifactError, InputError, InputTypeError, OmcError
from omc.keras import saving
from omc.progressive import checks, parts
from omc.progressive.stages import checked_name

SUFFIX = ".part"
"""With which the names of parts end."""

_JOURNAL = "applied"  # File: the addresses of the parts as they were applied, one a line.
_ADDRESS = re.compile(r"[0-9a-f]{64}")


def opened(directory):
    """The absolute path of a folder, made if it is not there.

    Args:
        directory: str or os.PathLike.

    Raises:
        InputTypeError: It is no path.
        InputError: It is empty, or cannot be made or read.
    """
    try:
        if not os.fsdecode(directory):
            raise InputError("directory", "a path", repr(directory), "'.' is the current folder.")
        path = os.path.realpath(os.fsdecode(directory))
    except InputError:
        raise
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
            with contextlib.suppress(OSError):  # A folder of that name is nobody's temporary file.
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


def note(directory, part):
    """Writes down that a part was applied, after all that were before.

    Where the line cannot be written, the next start takes the part for one that just arrived.

    Args:
        directory: What `opened` returned.
        part: `Part`, in the folder.
    """
    with contextlib.suppress(OSError):
        with open(os.path.join(directory, _JOURNAL), "a", encoding="ascii") as file:
            file.write(f"{part.sha256}\n")
            file.flush()
            os.fsync(file.fileno())


def noted(directory):
    """Addresses of the parts that were applied, in order, a list of str; what is none is left out.

    Args:
        directory: What `opened` returned.
    """
    try:
        with open(os.path.join(directory, _JOURNAL), encoding="ascii", errors="replace") as file:
            return [line for line in file.read().split("\n") if _ADDRESS.fullmatch(line)]
    except OSError:
        return []


def chain(found, applied=()):
    """Parts in order that lead to where a receiver was, and on with those that it has not applied.

    Of those the farthest is gone to, by the shortest way; an update before a delta where both are
    as far. (States are exact, so that it does not matter by which way one is reached.)

    Args:
        found: List of `Part`, in any order.
        applied: Addresses of parts in the order in which they were applied.

    Returns:
        List of `Part`, a base first; empty without a base.
    """
    known, following = {part.sha256: part for part in found}, {}
    for part in known.values():
        following.setdefault(part.base_digest, []).append(part)
    for each in following.values():
        each.sort(key=lambda part: part.kind == "delta")

    def ways(first, allowed):
        """Dict of address -> the part before it, nearest first: all that can be reached."""
        before = {part.sha256: None for part in first}
        queue = list(first)
        for last in queue:  # Which grows meanwhile.
            for part in following.get(last.digest, ()):
                grows = part.index == last.index + 1 and part.stages == last.stages
                fits = part.kind == "update" or grows
                if fits and part.sha256 not in before and part.sha256 in allowed:
                    before[part.sha256] = last
                    queue.append(part)
        return before

    def way(before, address):
        made, part = [], known[address]
        while part is not None:
            made.append(part)
            part = before[part.sha256]
        return made[::-1]

    def farthest(before):
        lengths = {}
        for address, last in before.items():
            lengths[address] = 0 if last is None else lengths[last.sha256] + 1
        return max(lengths, key=lengths.get, default=None)

    bases = [part for part in following.get(None, ()) if part.kind == "base"]
    whole = ways(bases, known)
    last = next((address for address in reversed(applied) if address in whole), None)
    if last is None:
        end = farthest(whole)
        return [] if end is None else way(whole, end)
    further = ways([known[last]], set(known) - set(applied))
    return way(whole, last)[:-1] + way(further, farthest(further))


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
    """The chain of whole parts in a folder that fits a plain model, as `chain` says."""
    found = []
    for part in loaded(directory):
        if part.kind == "base":
            try:
                checks.check_match(part, saving.stored_order(model))
                checks.verify_base(part)
            except OmcError:  # Of another model: as if it were not there.
                continue
        found.append(part)
    return chain(found, noted(directory))
