"""Parts: whole or refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import omc.progressive
from omc.errors import ArtifactError, InputTypeError
from omc.progressive import Part
from tests.progressive.chains import network, sealed, stored


@pytest.fixture(scope="module")
def parts():
    return omc.progressive.split(network(), ["INT4", "INT8", "FP32"])


def test_a_part_comes_back_from_disk(parts, tmp_path):
    for index, part in enumerate(parts):
        path = tmp_path / f"{index}.part"
        part.save(path)
        for again in (
            omc.progressive.load(path),
            Part.load(str(path)),
            Part.from_bytes(bytes(part)),
        ):
            assert bytes(again) == bytes(part) and again.nbytes == path.stat().st_size
            assert (again.kind, again.index, again.stage) == (part.kind, index, part.stage)
            assert (again.base_digest, again.digest) == (part.base_digest, part.digest)
            assert again.entries == part.entries
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.part", "1.part", "2.part"]
    assert parts[1].base_digest == parts[0].digest and parts[0].base_digest is None


@given(data=st.data())
@settings(max_examples=150)
def test_whatever_is_not_whole_is_refused(parts, data):
    whole = bytes(data.draw(st.sampled_from(parts)))
    place = data.draw(st.integers(0, len(whole) - 1))
    way = data.draw(st.sampled_from(["cut", "flip", "more", "drop"]))
    if way == "cut":
        damaged = whole[:place]
    elif way == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        damaged = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
    else:
        damaged = whole + b"\0" if way == "more" else whole[:place] + whole[place + 1 :]
    with pytest.raises(ArtifactError) as caught:
        Part.from_bytes(damaged)
    assert caught.value.argument == "part"


@given(data=st.data())
@settings(max_examples=60)
def test_a_forged_part_is_refused_too_and_changes_nothing(parts, receivers, data):
    index = data.draw(st.sampled_from([0, 1]))
    receiver, before = receivers[index]
    whole = bytes(parts[index])
    place = data.draw(st.integers(4, len(whole) - 33))
    bit = 1 << data.draw(st.integers(0, 7))
    forged = sealed(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
    if forged == whole:
        return
    with pytest.raises(ArtifactError):
        receiver.apply(forged)
    assert stored(receiver.model) == before


@pytest.fixture(scope="module")
def receivers(parts):
    fresh, based = (omc.progressive.Receiver(network(seed=5)) for _ in range(2))
    based.apply(parts[0])
    return [(each, stored(each.model)) for each in (fresh, based)]


def test_newer_parts_and_what_are_none(parts, tmp_path):
    newer = bytearray(bytes(parts[0]))
    newer[4] = 5
    with pytest.raises(ArtifactError, match="newer omc"):
        Part.from_bytes(newer)
    for data in (b"", b"OM", b"something else" * 9):
        with pytest.raises(ArtifactError):
            Part.from_bytes(data)
    with pytest.raises(InputTypeError):
        Part.from_bytes("text")
    empty = tmp_path / "empty"
    empty.touch()
    for path in (empty, tmp_path, tmp_path / "absent"):
        with pytest.raises(ArtifactError):
            omc.progressive.load(path)
    with pytest.raises(InputTypeError):
        omc.progressive.load(7)
    with pytest.raises(ArtifactError, match="untouched"):
        parts[0].save(tmp_path / "absent" / "0.part")
