"""A user's own pictures: a folder or zip of class folders of images becomes uint8 arrays."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import stat
import struct
import zipfile
from collections.abc import Callable
from concurrent import futures

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from omc.errors import InputError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
SIZE = 32
"""Height and width of what is resized."""
LARGEST = 64
"""Most height or width of pictures that keep their size, all being of the same."""
HELD_OUT = 5
"""One picture in so many is a test picture where the user names none."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
_MOST_BYTES = 2**28  # Of one picture in a zip, which may claim to unpack to more than any memory.
_CHUNK = 256  # Pictures that a thread decodes at a time.
_LAYOUT = "a folder or zip with a folder of pictures for each class"
_TIP = "docs/own_pictures.md shows the layouts."


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of classes, in memory; read-only.

    Attributes:
        classes: Tuple of the classes' names in alphabetical order; a label is an index into it.
        train: (pictures, labels) to train on: uint8 [n, height, width, 3] and int32 [n], sorted by
            class and file name.
        test: The same, held out.
    """

    classes: tuple
    train: tuple
    test: tuple


def load(domain):
    """Reads CLASS/NAME.jpg (and the like) below a folder or in a zip.

    There may be a folder around the classes, and a division: folders `train` and `test` with the
    same classes in each, or files `train.zip` and `test.zip`. Without one, a fifth of each class is
    held out, at least one picture: those whose path CLASS/NAME has the lowest SHA-256, so that it
    does not depend on order, dates or a seed.

    Pictures that are all of one size, and that no higher or wider than 64, stay as they are; else
    each is resized to 32x32, whatever its shape. They are turned as their EXIF data says; grey
    becomes RGB, transparent white; of several frames the first counts. Zips are never unpacked to
    disk. Hidden files and folders, `__MACOSX`, links and files of other suffixes are ignored, and
    so are pictures beside the class folders.

    Args:
        domain: Path of the folder or zip.

    Returns:
        `Pictures`. The last ones stay in memory: loading the same content again costs its digest.

    Raises:
        InputError: No such path, a damaged zip, fewer than two classes, a class without pictures
            (or with one, undivided), pictures in folders within a class, test classes that are not
            the training classes, or a picture that cannot be decoded.
    """
    return _load(_resolved(domain), digest(domain))


def digest(domain):
    """SHA-256 of all pictures with their paths, of zips all bytes: tells whether data changed.

    Args:
        domain: As in `load`.

    Returns:
        Hexadecimal str.

    Raises:
        InputError: No such path, or one that cannot be read.
    """
    found = hashlib.sha256()
    for part, path in _sources(_resolved(domain)).items():
        try:
            if path.is_dir():
                for name, read in sorted(_folder(path).pictures.items()):
                    found.update(_key(name) + b"\0")
                    found.update(hashlib.sha256(read()).digest())
            else:
                found.update(part.encode() + b"\0" + _file_digest(path))
        except OSError as error:
            raise _unreadable(path, error) from error
    return found.hexdigest()


def normalize(pictures):
    """Pictures as a model takes them: (x - 127.5) / 64, whatever data they are of.

    About mean 0 and deviation 1 for photographs. It is fixed, so that weights of one run mean the
    same on other pictures, no client has to tell its mean, and the 256 levels stay equally spaced:
    eight bits hold them exactly.

    Args:
        pictures: uint8 tensor or array.

    Returns:
        float32 tf.Tensor of the same shape.
    """
    return (tf.cast(pictures, tf.float32) - 127.5) / 64.0


def augment(pictures, rng, padding=4):
    """Random crops of pictures with a black border, half of them mirrored (He et al., 1512.03385).

    For central training; the federated task trains on the pictures as they are.

    Args:
        pictures: uint8 array [n, height, width, channels].
        rng: numpy Generator.
        padding: Width of the border, and so the farthest that a picture moves.

    Returns:
        New array of the same shape and type.
    """
    count, height, width = pictures.shape[:3]
    border = (padding, padding)
    padded = np.pad(pictures, ((0, 0), border, border, (0, 0)))
    top, left = rng.integers(2 * padding + 1, size=(2, count, 1))
    rows, columns = top + np.arange(height), left + np.arange(width)
    mirrored = rng.random(count) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    which = np.arange(count)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]]


@dataclasses.dataclass(frozen=True)
class _Tree:
    """What lies below one folder, on disk or in a zip.

    Attributes:
        where: Its path, for messages.
        pictures: Path of a picture, a tuple of names -> no-arg function that reads its bytes.
        folders: Set of paths of folders, with and without pictures.
    """

    where: str
    pictures: dict[tuple, Callable]
    folders: set[tuple]

    @property
    def top(self):
        """Names of the folders directly in it, in alphabetical order."""
        return sorted(path[0] for path in self.folders if len(path) == 1)

    def shows(self, name):
        """Whether pictures lie directly in the folder of that name."""
        return any(len(path) == 2 and path[0] == name for path in self.pictures)

    def below(self, name):
        """The folder of that name as a tree."""
        return _Tree(
            where=f"{self.where}/{name}",
            pictures={p[1:]: read for p, read in self.pictures.items() if p[0] == name and p[1:]},
            folders={p[1:] for p in self.folders if p[0] == name and p[1:]},
        )

    def unwrapped(self):
        """Without folders that hold nothing but one folder, as around the classes of many zips."""
        tree = self
        while len(tree.top) == 1 and not tree.shows(tree.top[0]):
            tree = tree.below(tree.top[0])
        return tree


def _resolved(domain):
    if not domain:
        raise InputError("domain", _LAYOUT, domain, _TIP)
    return pathlib.Path(domain).resolve()


def _sources(path):
    """Part -> file or folder: "train" and "test" for two zips, else "" for the path itself."""
    zips = {part: path / f"{part}.zip" for part in ("train", "test")}
    if all(file.is_file() for file in zips.values()):
        return zips
    if not path.exists():
        raise InputError("domain", _LAYOUT, f"{str(path)!r}, which does not exist", _TIP)
    return {"": path}


def _unreadable(path, error):
    expected = "a folder or zip that can be read"
    return InputError("domain", expected, f"{str(path)!r} ({error})", _TIP)


def _key(path):
    return "/".join(path).encode("utf-8", "surrogateescape")  # Names on disk may be any bytes.


def _file_digest(path):
    found = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(functools.partial(file.read, 2**20), b""):
            found.update(chunk)
    return found.digest()


@functools.lru_cache(maxsize=1)
def _load(path, content):
    """Kept, for a simulation makes its task several times, and 60,000 pictures take seconds."""
    del content  # Its digest, as part of the key: what changed is read again.
    with contextlib.ExitStack() as files:
        trees = {part: _tree(source, files) for part, source in _sources(path).items()}
        parts = _divided(trees)
        members = [member for part in parts for of_class in part.values() for member in of_class]
        pictures = _arrays(members)
    pictures.flags.writeable = False
    labels = [
        np.repeat(np.arange(len(part), dtype=np.int32), [len(members) for members in part.values()])
        for part in parts
    ]
    cut = len(labels[0])
    train, test = (pictures[:cut], labels[0]), (pictures[cut:], labels[1])
    return Pictures(tuple(parts[0]), train, test)


def _tree(path, files):
    try:
        if path.is_dir():
            return _folder(path)
        return _zip(str(path), files.enter_context(zipfile.ZipFile(path)))
    except (OSError, ValueError, NotImplementedError, struct.error, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _folder(path):
    tree = _Tree(str(path), {}, set())

    def walk(folder, names):
        with os.scandir(folder) as entries:
            for entry in entries:
                name = (*names, entry.name)
                if _hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    tree.folders.add(name)
                    walk(entry.path, name)
                elif entry.is_file(follow_symlinks=False) and _is_picture(entry.name):
                    tree.pictures[name] = pathlib.Path(entry.path).read_bytes

    walk(path, ())
    return tree


def _zip(where, opened):
    tree = _Tree(where, {}, set())
    for info in opened.infolist():
        # A directory's name ends in "/". Absolute paths and those with ".." count as hidden.
        names = tuple(name for name in info.filename.split("/") if name != ".")
        folder, name = names[:-1], names[-1] if names else ""
        if any(map(_hidden, folder)) or stat.S_ISLNK(info.external_attr >> 16):
            continue
        tree.folders.update(folder[:depth] for depth in range(1, len(folder) + 1))
        if not _hidden(name) and _is_picture(name):
            tree.pictures[names] = functools.partial(_member, opened, info)
    return tree


def _member(opened, info):
    if info.file_size > _MOST_BYTES:
        raise ValueError(f"{info.file_size} bytes, more than {_MOST_BYTES}")
    return opened.read(info)


def _hidden(name):
    return name in ("", "__MACOSX") or name.startswith(".")


def _is_picture(name):
    return name.lower().endswith(SUFFIXES)


def _divided(trees):
    """(train, test), both class -> pictures as `_classes` returns them."""
    if "" in trees:
        tree = trees[""].unwrapped()
        parts = ("train", "test")
        if not set(parts) <= set(tree.top) or any(map(tree.shows, parts)):
            return _held_out(_classes(tree))
        trees = {part: tree.below(part) for part in parts}
    train, test = (_classes(trees[part].unwrapped()) for part in ("train", "test"))
    if list(train) != list(test):
        found = f"without their like {_some(sorted(set(train) ^ set(test)))}"
        raise InputError("domain", "the same classes for training and test", found, _TIP)
    return train, test


def _classes(tree):
    """Class -> list of (path, path for messages, read), all in alphabetical order."""
    classes = {name: [] for name in tree.top}
    for path in sorted(tree.pictures):
        where = f"{tree.where}/{'/'.join(path)}"
        if len(path) > 2:
            expected = "every picture directly in the folder of its class"
            raise InputError("domain", expected, repr(where), _TIP)
        if len(path) == 2:
            classes[path[0]].append((path, where, tree.pictures[path]))
    if len(classes) < 2:
        found = f"{_some(classes)} in {tree.where!r}"
        raise InputError("domain", "two or more class folders of pictures", found, _TIP)
    empty = [name for name, members in classes.items() if not members]
    if empty:
        kinds = ", ".join(SUFFIXES)
        expected = f"pictures ({kinds}) in every class folder"
        raise InputError("domain", expected, f"none in {_some(empty)} of {tree.where!r}", _TIP)
    return classes


def _held_out(classes):
    train, test = {}, {}
    for name, members in classes.items():
        if len(members) < 2:
            expected = "two or more pictures of every class, or test pictures of their own"
            raise InputError("domain", expected, f"one of {name!r}", _TIP)
        ranks = [hashlib.sha256(_key(path)).digest() for path, _, _ in members]
        bound = sorted(ranks)[max(1, len(members) // HELD_OUT)]
        test[name] = [member for member, rank in zip(members, ranks) if rank < bound]
        train[name] = [member for member, rank in zip(members, ranks) if rank >= bound]
    return train, test


def _some(names):
    names = list(names)
    shown = ", ".join(map(repr, names[:5])) or "none"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


class _OtherSize(Exception):
    """A picture is not of the size of the first."""


def _arrays(pictures):
    """All pictures as uint8 [n, height, width, 3]."""
    shape = _decode(pictures[0], None).shape
    if max(shape[:2]) <= LARGEST:
        # Tried, not asked: to read the sizes alone first would take half as long again.
        with contextlib.suppress(_OtherSize):
            return _fill(pictures, shape, False)
    return _fill(pictures, (SIZE, SIZE, 3), True)


def _fill(pictures, shape, resize):
    made = np.empty((len(pictures), *shape), np.uint8)

    def fill(start):
        for index in range(start, min(start + _CHUNK, len(pictures))):
            picture = _decode(pictures[index], SIZE if resize else None)
            if picture.shape != shape:
                raise _OtherSize
            made[index] = picture

    with futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(0, len(pictures), _CHUNK)):
            pass
    return made


def _decode(picture, size):
    _, where, read = picture
    try:
        with Image.open(io.BytesIO(read()), formats=_FORMATS) as image:
            if size:  # A large JPEG is decoded at a half, a quarter or an eighth, which is faster.
                image.draft(None, (2 * size, 2 * size))
            if "exif" in image.info:
                image = ImageOps.exif_transpose(image)
            image = _rgb(image)
            if size and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(image)
    except Exception as error:  # Pillow and zipfile raise nearly anything at broken files.
        known = not isinstance(error, UnidentifiedImageError)
        why = f"{type(error).__name__}: {error}" if known else "of no format we know"
        expected = "pictures that can be decoded"
        raise InputError("domain", expected, f"{where!r} ({why})", _TIP) from error


def _rgb(image):
    if image.mode.startswith("I"):  # Grey of 16 bits: to convert it would clip, not scale it.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
