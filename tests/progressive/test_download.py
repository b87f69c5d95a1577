"""Chunks off the wire: what is held, what is refused, and that it is the part in the end."""

import os
import random

import pytest

import omc.progressive
from omc.errors import ArtifactError, InputError, InputTypeError
from omc.progressive import Download, chunks, parts
from tests.progressive.chains import network, stored


@pytest.fixture(scope="module")
def found():
    return omc.progressive.split(network(), ["INT4", "INT8"])


@pytest.mark.parametrize("nbytes", [1 << 16, 1000, 37])
def test_a_part_arrives(found, tmp_path, nbytes):
    part, download = found[0], Download(tmp_path)
    sizes = []
    for chunk in part.chunks(nbytes):
        sizes.append(len(chunk) - chunks.HEAD_BYTES)
        assert download.feed(chunk) == sum(sizes) == download.offset
        assert download.part == part.sha256 and download.nbytes == part.nbytes
    assert max(sizes) <= nbytes and sum(sizes) == part.nbytes and download.complete
    arrived = download.finish()
    assert bytes(arrived) == bytes(part) and arrived.sha256 == part.sha256
    (name,) = os.listdir(tmp_path)
    device = omc.progressive.Receiver(network(seed=5), tmp_path)
    assert device.stage == "INT4" and name.endswith(".part")
    assert (download.part, download.offset, download.nbytes) == (None, 0, None)
    for chunk in found[1].chunks(nbytes):
        download.feed(chunk)
    device.apply(download.finish())
    assert sorted(os.listdir(tmp_path))[0] == name and len(list(tmp_path.glob("*.part"))) == 2
    direct = omc.progressive.Receiver(network(seed=6))
    for part in found:
        direct.apply(part)
    assert stored(device.model) == stored(direct.model)


def test_the_whole_part_is_never_joined(found):
    pieces = found[0].chunks(64)
    assert iter(pieces) is pieces and len(next(pieces)) == 64 + chunks.HEAD_BYTES
    assert list(found[0].chunks(64, start=found[0].nbytes)) == []


def damage(way, chunk, place, foreign):
    if way == "flip":
        return chunk[:place] + bytes([chunk[place] ^ (1 + place % 255)]) + chunk[place + 1 :]
    if way == "cut":
        return chunk[:place]
    return {"more": chunk + b"\0", "foreign": foreign, "none": b"", "text": b"GET /" * 40}[way]


def test_thousands_of_damaged_lost_repeated_and_foreign_chunks(found, tmp_path):
    """Whatever comes, what is held is the part's beginning, also for a process that starts anew."""
    rng, part = random.Random(0), found[0]
    whole, foreign = bytes(part), next(found[1].chunks(50))
    download, refused, resumed, finished = Download(tmp_path), 0, 0, 0
    for _ in range(4000):
        held = download.offset
        way = rng.choice(["next"] * 8 + ["flip", "cut", "more", "foreign", "none", "text"])
        way = rng.choice([way] * 9 + ["early", "again", "start", "torn", "overlap"])
        chunk = next(part.chunks(rng.randint(1, 90), start=held), b"")
        if way in ("start", "torn"):
            if way == "torn" and held:  # As after a loss of power: an end that was not written.
                path = next(tmp_path.glob(rng.choice(["*.partial", "*.heads"])))
                os.truncate(path, rng.randint(0, path.stat().st_size))
            elif held and rng.random() < 0.5:
                path = next(tmp_path.glob("*.partial"))
                with open(path, "r+b") as file:
                    file.seek(place := rng.randrange(held))
                    file.write(bytes([whole[place] ^ 1]))
            download, resumed = Download(tmp_path), resumed + 1
            assert download.offset <= held
        elif way == "again":
            assert download.feed(next(part.chunks(50))) == max(held, 50)
        elif way == "overlap":
            start = max(0, held - rng.randint(0, 40))
            piece = next(part.chunks(60, start=start), None)
            if piece is not None:
                assert download.feed(piece) == max(held, min(start + 60, part.nbytes))
        elif way == "next":
            if chunk:
                download.feed(chunk)
            assert download.offset == held + max(0, len(chunk) - chunks.HEAD_BYTES)
        elif way != "early" or held + 7 < part.nbytes:
            if way == "early":
                chunk = next(part.chunks(50, start=held + 7))
            elif len(chunk):
                chunk = damage(way, chunk, rng.randrange(len(chunk)), foreign)
            if way == "foreign" and not held or not chunk and way not in ("none", "cut"):
                continue
            with pytest.raises(ArtifactError) as caught:
                download.feed(chunk)
            assert caught.value.argument == "chunk" and download.offset == held
            refused += 1
        if download.part is not None:
            with open(next(tmp_path.glob("*.partial")), "rb") as file:
                assert file.read(download.offset) == whole[: download.offset]
        if download.complete and rng.random() < 0.5:
            assert bytes(download.finish()) == whole
            finished += 1
    assert refused > 500 and resumed > 50 and finished > 2


def test_every_byte_is_asked_for_once(found, tmp_path):
    part, sent = found[0], 0
    while True:
        download = Download(tmp_path)  # A process that is killed after each third chunk.
        for number, chunk in enumerate(part.chunks(100, start=download.offset)):
            download.feed(chunk)
            sent += len(chunk) - chunks.HEAD_BYTES
            if number == 2:
                break
        if download.complete:
            break
    assert sent == part.nbytes and bytes(download.finish()) == bytes(part)


def test_a_killed_finish_is_done_again(found, tmp_path):
    download = Download(tmp_path)
    for chunk in found[0].chunks():
        download.feed(chunk)
    again = Download(tmp_path)  # Killed before finish().
    assert again.complete and bytes(again.finish()) == bytes(found[0])
    (tmp_path / "0123456789abcdef.heads").write_bytes(b"")  # Killed inside it.
    third = Download(tmp_path)
    assert third.part is None and len(os.listdir(tmp_path)) == 1


def test_what_is_missing_or_given_up(found, tmp_path):
    download = Download(tmp_path)
    with pytest.raises(ArtifactError, match="no chunk yet"):
        download.finish()
    download.feed(next(found[0].chunks(100)))
    with pytest.raises(ArtifactError, match="100 of"):
        download.finish()
    with pytest.raises(ArtifactError, match="discard"):
        download.feed(next(found[1].chunks(100)))
    download.discard()
    assert not os.listdir(tmp_path)
    with pytest.raises(ArtifactError, match="gap"):
        download.feed(next(found[1].chunks(100, start=100)))
    download.feed(next(found[1].chunks(100)))
    assert download.part == found[1].sha256


def test_a_sender_whose_part_is_damaged(found, tmp_path):
    data = bytearray(bytes(found[0]))
    data[len(data) // 2] ^= 1
    download = Download(tmp_path)
    for chunk in chunks.pieces(memoryview(data), found[0].sha256, 100, 0):
        download.feed(chunk)
    with pytest.raises(ArtifactError, match="sender's part is damaged"):
        download.finish()
    assert download.part is None and not os.listdir(tmp_path)


def test_a_full_disk_loses_nothing(found, tmp_path, monkeypatch):
    download, pieces = Download(tmp_path), found[0].chunks(100)
    download.feed(next(pieces))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    from omc.progressive import download as module

    for name, owner in (("_put", module), ("open", module)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full, raising=False)
            with pytest.raises(ArtifactError, match="No space left") as caught:
                download.feed(next(found[0].chunks(100, start=100)))
        assert caught.value.argument == "directory" and download.offset == 100
    with monkeypatch.context() as patch:
        patch.setattr(parts, "sync_folder", full)
        fresh = Download(tmp_path / "fresh")
        with pytest.raises(ArtifactError, match="No space left"):
            fresh.feed(next(found[0].chunks(100)))
    assert fresh.part is None and not os.listdir(tmp_path / "fresh")
    for chunk in pieces:
        download.feed(chunk)
    assert bytes(download.finish()) == bytes(found[0])


def test_mistakes(found, tmp_path):
    for nbytes, start, error, argument in (
        (0, 0, InputError, "nbytes"),
        (1.5, 0, InputTypeError, "nbytes"),
        (True, 0, InputTypeError, "nbytes"),
        (9, -1, InputError, "start"),
        (9, found[0].nbytes + 1, InputError, "start"),
    ):
        with pytest.raises(error) as caught:
            found[0].chunks(nbytes, start)
        assert caught.value.argument == argument
    with pytest.raises(InputTypeError):
        Download(tmp_path).feed("text")
    with pytest.raises(InputTypeError):
        Download(7)
    newer = bytearray(next(found[0].chunks()))
    newer[4] = 9
    with pytest.raises(ArtifactError, match="newer omc"):
        Download(tmp_path).feed(bytes(newer))
