"""The container: what goes in comes out, and nothing else is taken for an artifact."""

import base64
import contextlib
import hashlib
import json
import os
import re
import resource
import zlib

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omc import artifacts
from omc.artifacts import Artifact, Entry
from omc.codecs import Codec
from omc.errors import ArtifactError, InputTypeError
from omc.formats import Format

DTYPES = "float32 float64 float16 bfloat16 int8 int64 uint8 uint16 bool complex64".split()


def packed(name, fmt, shape, seed=0, transform=True):
    codec = Codec(Format.parse(fmt), shape, transform)
    octets = np.random.default_rng(seed).integers(0, 256, codec.nbytes).astype(np.uint8)
    return Entry(name, shape, codec, octets)


def raw(name, dtype, shape, seed=0):
    dtype = tf.as_dtype(dtype).as_numpy_dtype
    values = np.random.default_rng(seed).integers(0, 100, shape)
    return Entry(name, shape, None, np.asarray(values).astype(dtype))


def sample():
    return Artifact(
        "model",
        (
            packed("dense/kernel", "S1E3M7", (5, 7)),
            raw("dense/bias", "float32", (7,)),
            raw("step", "int64", ()),
            packed("ünï/kernel", "INT4", (3, 3, 2, 2), transform=False),
            raw("dense_1/bias", "float32", (2,), seed=1),
        ),
        {"rounding": "stochastic", "seed": 3},
    )


def assert_equal(got, want):
    assert (got.kind, got.properties) == (want.kind, want.properties)
    assert len(got.entries) == len(want.entries)
    for ours, theirs in zip(got.entries, want.entries):
        assert (ours.name, ours.shape, ours.codec) == (theirs.name, theirs.shape, theirs.codec)
        assert (ours.dtype, ours.data.dtype) == (theirs.dtype, theirs.data.dtype)
        np.testing.assert_array_equal(ours.data, theirs.data)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def whole(place):
    """Bytes of a good file."""
    artifacts.write(place / "whole.omc", sample())
    return (place / "whole.omc").read_bytes()


def read_bytes(place, content):
    (place / "other.omc").write_bytes(content)
    return artifacts.read(place / "other.omc", "model")


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
NAMES = st.text(max_size=8)
ENTRIES = st.lists(
    st.one_of(
        st.builds(raw, NAMES, st.sampled_from(DTYPES), SHAPES, st.integers(0, 9)),
        st.builds(
            packed,
            NAMES,
            st.sampled_from(["S1E3M7", "INT2", "FP32", "S0E4M3"]),
            SHAPES,
            st.integers(0, 9),
            st.booleans(),
        ),
    ),
    max_size=8,
)


@given(ENTRIES)
def test_what_is_written_is_read(place, entries):
    want = Artifact("delta", tuple(entries), {"a": [1, "b"]})
    artifacts.write(place / "round.omc", want)
    assert_equal(artifacts.read(str(place / "round.omc"), "delta"), want)


@given(position=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
@settings(max_examples=300)
def test_any_altered_byte_is_refused(place, whole, position, mask):
    altered = bytearray(whole)
    altered[int(position * len(whole))] ^= mask
    with pytest.raises(ArtifactError):
        read_bytes(place, bytes(altered))


def test_every_single_bit_counts(place, whole):
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 1 << position % 8
        with pytest.raises(ArtifactError):
            read_bytes(place, bytes(altered))


@given(st.floats(0, 1, exclude_max=True))
@example(0.0)
def test_truncated_anywhere_is_refused(place, whole, position):
    length = int(position * len(whole))
    with pytest.raises(ArtifactError, match="truncated" if length > 8 else "no OMC artifact"):
        read_bytes(place, whole[:length])


def test_a_longer_file_is_refused(place, whole):
    with pytest.raises(ArtifactError, match="altered"):
        read_bytes(place, whole + b"\0")


def test_the_file_is_as_the_document_says(place, whole):
    """Read without our reader: the library for the tensors, hashlib for the checksum."""
    tensors = safetensors.numpy.load(whole)
    want = sample().entries
    np.testing.assert_array_equal(tensors["0"], want[0].data)
    np.testing.assert_array_equal(tensors["3"], want[3].data)
    np.testing.assert_array_equal(tensors["float32"], np.append(want[1].data, want[4].data))
    np.testing.assert_array_equal(tensors["int64"], [want[2].data])
    assert set(tensors) == {"0", "3", "float32", "int64"}
    with safetensors.safe_open(place / "whole.omc", "np") as file:
        metadata = file.metadata()
    assert (metadata["omc_artifact"], metadata["kind"]) == ("1", "model")
    content = json.loads(zlib.decompress(base64.b64decode(metadata["content"])))
    assert content["properties"] == {"rounding": "stochastic", "seed": 3}
    assert content["entries"][:2] == [
        {"name": "dense/kernel", "shape": [5, 7], "format": "S1E3M7", "transform": True},
        {"name": "dense/bias", "shape": [7], "dtype": "float32"},
    ]
    method, digest, size = metadata["checksum"].split(":")
    assert method == "sha256" and int(size) == len(whole)
    blank = whole.replace(digest.encode(), b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == digest


@pytest.mark.parametrize(
    "content",
    [b"", b"x", bytes(range(256)), b"\0" * 100, b"\xff" * 100, safetensors.numpy.save({})],
    ids=["empty", "short", "arbitrary", "zeros", "ones", "without tensors"],
)
def test_other_files_are_refused(place, content):
    with pytest.raises(ArtifactError, match="no OMC artifact"):
        read_bytes(place, content)


def test_a_newer_version_is_refused_by_name(place, monkeypatch):
    monkeypatch.setattr(artifacts, "VERSION", 12)
    artifacts.write(place / "newer.omc", peaked(), coded=True)
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="of version 12. Tip: install a newer omc"):
        artifacts.read(place / "newer.omc", "model")


def test_another_kind_is_refused(place, whole):
    with pytest.raises(ArtifactError, match="kind 'base'.*of 'model'"):
        artifacts.read(place / "whole.omc", "base")


@pytest.mark.parametrize(
    "row",
    [
        {"name": "a", "shape": [6, 7], "format": "S1E3M7", "transform": True},
        {"name": "a", "shape": [5, 7], "format": "S9E3M7", "transform": True},
        {"name": "a", "shape": [5, 7], "dtype": "float99"},
        {"name": "a", "shape": ["5"], "dtype": "float32"},
        {"name": "a", "shape": [50], "dtype": "float32"},
        {"name": "a"},
        7,
    ],
)
def test_sealed_nonsense_is_refused(place, monkeypatch, row):
    """A file with a right checksum whose table does not fit its tensors."""
    pack = artifacts._packed
    monkeypatch.setattr(artifacts, "_packed", lambda entries: (pack(entries)[0], [row]))
    artifacts.write(place / "nonsense.omc", sample())
    with pytest.raises(ArtifactError, match="malformed"):
        artifacts.read(place / "nonsense.omc", "model")


def test_the_head_of_many_small_variables_is_small(tmp_path):
    """As in a convolutional network: kernels, and four vectors of batch statistics each."""
    entries = []
    for block in range(50):
        entries.append(packed(f"block_{block}_expand/kernel", "INT4", (1, 1, 120, 300)))
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            entries.append(raw(f"block_{block}_expand_BN/{name}", "float32", (300,)))
    artifacts.write(tmp_path / "m.omc", Artifact("model", tuple(entries)))
    assert (tmp_path / "m.omc").stat().st_size <= 1.01 * sum(e.data.nbytes for e in entries)


# Coded tensors.


def peaked():
    """As `sample`, of values that coding shortens."""
    entries = []
    for entry in sample().entries:
        shape = (40, *entry.shape)
        codec = entry.codec and Codec(entry.codec.format, shape, entry.codec.transform)
        if codec:
            data = np.zeros(codec.nbytes, np.uint8)
            data[:: codec.nbytes // 5] = 77
        else:
            data = np.arange(40 * int(np.prod(entry.shape))).reshape(shape) % 3
            data = data.astype(entry.data.dtype)
        entries.append(Entry(entry.name, shape, codec, data))
    return Artifact("model", tuple(entries), sample().properties)


@pytest.mark.parametrize("artifact", [sample(), peaked(), Artifact("model", ())])
def test_coded_files_hold_the_same(place, artifact):
    artifacts.write(place / "plain.omc", artifact)
    artifacts.write(place / "coded.omc", artifact, coded=True)
    assert_equal(artifacts.read(place / "coded.omc", "model"), artifact)
    sizes = [(place / f"{name}.omc").stat().st_size for name in ("plain", "coded")]
    assert sizes[1] <= sizes[0]


def test_only_files_with_coded_tensors_need_the_newer_version(place):
    for artifact, coded, version in (
        (peaked(), True, 2),
        (peaked(), False, 1),
        (sample(), True, 1),
    ):
        artifacts.write(place / "v.omc", artifact, coded=coded)
        assert b'"omc_artifact":"%d"' % version in (place / "v.omc").read_bytes()


def test_what_coded_tensors_hold_is_safetensors_still(place):
    artifacts.write(place / "coded.omc", peaked(), coded=True)
    tensors = safetensors.numpy.load_file(place / "coded.omc")
    assert {name: array.dtype.name for name, array in tensors.items()} == {
        "0": "uint8",
        "3": "uint8",
        "float32": "uint8",
        "int64": "int64",
    }


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_any_altered_bit_of_a_coded_file_is_noticed(place, index, bit):
    artifacts.write(place / "c.omc", peaked(), coded=True)
    content = bytearray((place / "c.omc").read_bytes())
    content[index % len(content)] ^= 1 << bit
    with pytest.raises(ArtifactError):
        read_bytes(place, bytes(content))


def test_sealed_streams_that_are_damaged_are_refused(place, monkeypatch):
    """Under a right checksum of the file: altered streams, and names that are none."""
    encode = artifacts._encode

    def altered(change):
        def write(tensors, table):
            names = encode(tensors, table)
            return change(tensors, names) or names

        monkeypatch.setattr(artifacts, "_encode", write)
        artifacts.write(place / "altered.omc", peaked(), coded=True)
        monkeypatch.setattr(artifacts, "_encode", encode)
        with pytest.raises(ArtifactError, match="malformed"):
            artifacts.read(place / "altered.omc", "model")

    altered(lambda tensors, names: tensors.update({"0": tensors["0"][:-1]}))
    altered(lambda tensors, names: tensors.update({"0": tensors["3"]}))
    altered(lambda tensors, names: tensors.update({"float32": tensors["float32"].view(np.int8)}))
    altered(lambda tensors, names: [*names, "7"])
    altered(lambda tensors, names: [*names, "int64"])
    altered(lambda tensors, names: 7)


def test_a_few_bytes_cannot_ask_for_much_memory(place):
    codec = Codec(Format.parse("INT8"), (3000, 1000))
    entry = Entry("kernel", codec.shape, codec, np.zeros(codec.nbytes, np.uint8))
    artifacts.write(place / "tiny.omc", Artifact("model", (entry,)), coded=True)
    assert (place / "tiny.omc").stat().st_size < 1000
    with pytest.raises(ArtifactError, match="at most 1000000 bytes"):
        artifacts.read(place / "tiny.omc", "model", limit=1_000_000)
    assert artifacts.read(place / "tiny.omc", "model").entries[0].data.nbytes == codec.nbytes


# Writing.


@contextlib.contextmanager
def room_for(nbytes):
    """A real limit of the operating system on the length of files; writes beyond it fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def big():
    return Artifact("model", (packed("kernel", "INT8", (1000, 300)),))


def fail_with(error):
    def fail(*args):
        raise error

    return fail


@pytest.mark.parametrize("name", ["old.omc", "new.omc"])
@pytest.mark.parametrize("failure", ["room", "replace", "seal", "interrupt"])
def test_a_failed_write_leaves_everything_as_it_was(tmp_path, monkeypatch, failure, name):
    artifacts.write(tmp_path / "old.omc", sample())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    error = ArtifactError
    if failure == "replace":
        monkeypatch.setattr(os, "replace", fail_with(PermissionError(13, "Permission denied")))
    if failure == "seal":
        monkeypatch.setattr(os, "fsync", fail_with(OSError(28, "No space left on device")))
    if failure == "interrupt":
        monkeypatch.setattr(artifacts, "_seal", fail_with(KeyboardInterrupt()))
        error = KeyboardInterrupt
    with room_for(100_000) if failure == "room" else contextlib.nullcontext():
        with pytest.raises(error) as caught:
            artifacts.write(tmp_path / name, big())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    if error is ArtifactError:
        assert caught.value.argument == "path"
        assert re.search("large|denied|space", str(caught.value))


def test_an_old_file_is_replaced_through_links_and_keeps_its_mode(tmp_path):
    target, link = tmp_path / "target.omc", tmp_path / "link.omc"
    artifacts.write(target, sample())
    os.umask(umask := os.umask(0))
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask
    target.chmod(0o640)
    link.symlink_to(target.name)
    artifacts.write(link, big())
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o640
    assert_equal(artifacts.read(target, "model"), big())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.omc", "target.omc"]


@pytest.mark.parametrize("path", [3, None, "a\0b", object()])
def test_what_is_no_path_is_refused(path):
    for use in (lambda: artifacts.write(path, sample()), lambda: artifacts.read(path, "model")):
        with pytest.raises(InputTypeError) as caught:
            use()
        assert caught.value.argument == "path"


def test_paths_that_cannot_be_written_or_read(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for name in ("", "no/such/m.omc", "file/m.omc", "x" * 300):
        with pytest.raises(ArtifactError):
            artifacts.write(tmp_path / name, sample())
        with pytest.raises(ArtifactError):
            artifacts.read(tmp_path / name, "model")
    os.mkfifo(tmp_path / "pipe")  # Stands for devices too, which a rename would replace.
    for use in (artifacts.write, artifacts.read):
        with pytest.raises(ArtifactError, match="no regular file"):
            use(tmp_path / "pipe", sample())
    with pytest.raises(ArtifactError, match="No such file"):
        artifacts.read(tmp_path / "missing.omc", "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


def test_strings_are_refused(tmp_path):
    entry = Entry("words", (1,), None, np.array([b"a"], object))
    with pytest.raises(InputTypeError, match="'words'"):
        artifacts.write(tmp_path / "m.omc", Artifact("model", (entry,)))
    assert not list(tmp_path.iterdir())
