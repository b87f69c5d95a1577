"""What parts delivered, rebuilt from the parts themselves, one variable at a time.

Nobody keeps a copy of what was delivered: its codes come out of the base and the deltas again.
"""

from omc.errors import InputError, InputTypeError
from omc.progressive import contents, streams
from omc.progressive.parts import Part


class History:
    """The state that a chain of parts leads to.

    Attributes:
        parts: Tuple of `Part`, a base first, as they were applied.
        digest: Digest (hex) of the state.
    """

    def __init__(self, parts):
        """Takes a chain.

        Args:
            parts: List of `Part`, each on the state that the one before leads to.
        """
        self.parts = tuple(parts)
        self.digest = self.parts[-1].digest
        self._entries, self._raw = {}, {}
        for part in self.parts:
            for entry in part.entries:
                before = self._entries.get(entry.place, []) if part.kind == "delta" else []
                self._entries[entry.place] = [*before, (part, entry)]

    def __len__(self):
        return len(self._entries)

    def entry(self, place):
        """The `Entry` that brought a variable to where it is."""
        return self._entries[place][-1][1]

    def buffer(self, place):
        """(Buffer, uint8 array; its codec) of a packed variable."""
        given = ()
        for part, entry in self._entries[place]:
            given = contents.buffer_of(part, entry, *given), entry.codec
        return given

    def variable_digest(self, place):
        """Digest (bytes) of a variable."""
        part, entry = self._entries[place][-1]
        if entry.codec is not None:
            return streams.digest_of(*self.buffer(place))
        if part.sha256 not in self._raw:
            self._raw[part.sha256] = contents.raw_values(part)
        return streams.digest_of_raw(self._raw[part.sha256][place])

    def digests(self):
        """List of all variables' digests."""
        return [self.variable_digest(place) for place in range(len(self))]


def checked(known):
    """The `History` of the parts that a caller of `split` names.

    Args:
        known: List of `Part`, as a receiver has applied them.

    Raises:
        InputTypeError: It is no list of parts.
        InputError: They make no chain.
    """
    if isinstance(known, (str, bytes, Part)) or not hasattr(known, "__iter__"):
        raise InputTypeError("known", "a list of Parts, a base first", type(known).__name__)
    known = list(known)
    for part in known:
        if not isinstance(part, Part):
            raise InputTypeError("known", "a list of Parts, a base first", type(part).__name__)
    expected = "the parts that the receiver has applied, in order, a base first"
    tip = "known=parts[:2] where it has the second stage of parts."
    if not known or known[0].kind != "base":
        raise InputError("known", expected, known[:1], tip)
    for before, part in zip(known, known[1:]):
        if part.kind == "base" or part.base_digest != before.digest:
            raise InputError("known", expected, f"{part!r} after {before!r}", tip)
    return History(known)
