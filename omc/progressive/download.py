"""Download: a part that arrives in chunks, kept on disk, so that a kill loses nothing.

The part's bytes stand in `<address>.partial` as far as they arrived, the heads of its chunks
(`omc.progressive.chunks`), one after another, in `<address>.heads`. What a process left behind is
checked against the heads, chunk by chunk, before it counts.
"""

import contextlib
import os

from omc.errors import ArtifactError
from omc.progressive import chunks, folders, parts

_PARTIAL, _HEADS = ".partial", ".heads"
_SYNC = 1 << 20  # Bytes after which what arrived is forced to the disk.


class Download:
    """Takes a part's chunks as they come, and goes on where a killed process stopped.

    >>> download = omc.progressive.Download("parts")
    >>> for chunk in part.chunks(start=download.offset):  # At the sender; here off the wire.
    ...     download.feed(chunk)
    >>> receiver.apply(download.finish())

    One part at a time, one `Download` a folder. Chunks come in order; what is held already is
    passed over. Memory: one chunk. [ours]

    Attributes:
        part: SHA-256 (hex, `Part.sha256`) of the part that is begun; None where none is.
        offset: Bytes of it that are held and verified: the `start` to ask the sender for.
        nbytes: Its length; None where none is begun.
    """

    def __init__(self, directory):
        """Opens a folder, and checks what is there of a part.

        Args:
            directory: Folder, made if it is not there; a `Receiver` may have the same.

        Raises:
            InputTypeError: `directory` is no path.
            InputError: It cannot be made, or is no folder.
        """
        self._directory = folders.opened(directory)
        self._reset()
        for name in sorted(os.listdir(self._directory)):
            if not name.endswith(_HEADS):
                continue
            path = os.path.join(self._directory, name)
            if self.part is None and self._resume(path):
                continue
            _remove(path, path.removesuffix(_HEADS) + _PARTIAL)

    @property
    def complete(self):
        """Whether every byte of the part is held: `finish` then gives it."""
        return self.part is not None and self.offset == self.nbytes

    def feed(self, chunk):
        """Takes the next chunk, on disk before it counts; a kill loses none that was taken.

        A loss of power may lose the last megabyte: it is asked for again.

        Args:
            chunk: bytes, as `Part.chunks` made them.

        Returns:
            `offset`: bytes held now.

        Raises:
            InputTypeError: `chunk` is no bytes.
            ArtifactError: It is damaged, of another part than is begun, or comes before others
                that are missing; or it cannot be written (`directory`). What is held stays.
        """
        found = chunks.read(chunk)
        if self.part is None and found.offset == 0:
            self._begin(found)
        self._check(found)
        data = found.data[self.offset - found.offset :]
        if not len(data):
            return self.offset
        head, _ = chunks.written(self.part, self.offset, self.nbytes, data)
        try:
            with open(self._partial, "r+b", buffering=0) as file:
                _put(file, self.offset, data)
                with open(self._heads, "r+b", buffering=0) as notes:
                    _put(notes, self._noted, head)
                    self._unsynced += len(data)
                    if self._unsynced >= _SYNC or self.offset + len(data) == self.nbytes:
                        os.fsync(file.fileno())
                        os.fsync(notes.fileno())
                        self._unsynced = 0
        except OSError as error:
            raise self._unwritable(error) from error
        self.offset, self._noted = self.offset + len(data), self._noted + len(head)
        return self.offset

    def finish(self):
        """The part, once every byte of it is held; its file is then one of a Receiver's folder.

        Returns:
            `Part`, mapped from its file.

        Raises:
            ArtifactError: Bytes are missing; or they are no part though every chunk was whole:
                the sender's is damaged, and what is held is given up.
        """
        if not self.complete:
            got = "no chunk yet" if self.part is None else f"{self.offset} of {self.nbytes} bytes"
            raise ArtifactError("chunk", "every chunk of a part", got, "feed() the missing ones.")
        try:
            part = parts.load(self._partial)
            if part.sha256 != self.part:
                raise ArtifactError("part", "the part that the chunks name", repr(part))
        except ArtifactError as error:
            self.discard()
            tip = "the sender's part is damaged; nothing of it is kept."
            raise ArtifactError("chunk", "the chunks of a whole part", error.got, tip) from error
        path = os.path.join(self._directory, folders.name_of(part))
        try:
            os.replace(self._partial, path)
            parts.sync_folder(self._directory)
        except OSError as error:
            raise self._unwritable(error) from error
        _remove(self._heads)
        self._reset()
        return part

    def discard(self):
        """Gives up the part that is begun: its bytes leave the disk."""
        if self.part is not None:
            _remove(self._heads, self._partial)
        self._reset()

    def __repr__(self):
        state = "nothing" if self.part is None else f"{self.part[:12]}, {self.offset} bytes"
        return f"<omc.progressive.Download of {state}>"

    @property
    def _partial(self):
        return os.path.join(self._directory, self.part[:16] + _PARTIAL)

    @property
    def _heads(self):
        return os.path.join(self._directory, self.part[:16] + _HEADS)

    def _reset(self):
        self.part, self.offset, self.nbytes = None, 0, None
        self._noted = self._unsynced = 0

    def _begin(self, chunk):
        self.part, self.nbytes = chunk.part, chunk.total
        try:
            for path in (self._partial, self._heads):
                with open(path, "wb"):
                    pass
            parts.sync_folder(self._directory)
        except OSError as error:
            failed = self._unwritable(error)
            self.discard()
            raise failed from error

    def _check(self, chunk):
        """Raises for a chunk that is not the next of the part that is begun."""
        got = f"bytes {chunk.offset} to {chunk.offset + chunk.length} of {chunk.part[:12]}"
        if self.part is None:
            expected = "the first chunk of a part"
        else:
            expected = f"the chunk at byte {self.offset} of {self.part[:12]}"
        if self.part is not None and (chunk.part, chunk.total) != (self.part, self.nbytes):
            tip = "finish() the part that is begun, or discard() it."
            raise ArtifactError("chunk", expected, f"{got}, another part", tip)
        if chunk.offset > self.offset or self.part is None:
            tip = f"ask the sender for chunks(start={self.offset})."
            raise ArtifactError("chunk", expected, f"{got}, with a gap before", tip)

    def _resume(self, heads):
        """Counts what a process left, as far as it is whole; whether there is any."""
        partial = heads.removesuffix(_HEADS) + _PARTIAL
        with contextlib.suppress(OSError, ArtifactError):
            with open(partial, "r+b") as file, open(heads, "r+b") as notes:
                left = os.fstat(file.fileno()).st_size
                while head := notes.read(chunks.HEAD_BYTES):
                    try:
                        chunk = chunks.head(head)
                    except ArtifactError:
                        break
                    if self.part is None:
                        self.part, self.nbytes = chunk.part, chunk.total
                    same = (chunk.part, chunk.total, chunk.offset)
                    if same != (self.part, self.nbytes, self.offset) or chunk.length > left:
                        break
                    if not chunks.is_sound(head, file.read(chunk.length)):
                        break
                    self.offset, left = self.offset + chunk.length, left - chunk.length
                    self._noted += len(head)
                file.truncate(self.offset)
                notes.truncate(self._noted)
        if self.offset and heads == self._heads:
            return True
        self._reset()
        return False

    def _unwritable(self, error):
        tip = "what arrived is kept; make room, and go on at download.offset."
        got = f"{self._directory!r}: {error.strerror or error}"
        return ArtifactError("directory", "a folder that can be written to", got, tip)


def _put(file, at, data):
    """Writes all of `data` at a place of an unbuffered file."""
    file.seek(at)
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]


def _remove(*paths):
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
