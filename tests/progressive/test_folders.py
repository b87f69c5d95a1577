"""A receiver's folder: where it goes on after versions came and went, and what it passes over."""

import hashlib
import itertools
import json
import struct
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf

import omc.progressive
from omc.errors import ArtifactError, InputError, ModelError, OmcError
from omc.progressive import Part, folders, upgrading
from tests.progressive.chains import stored, values

L = tf.keras.layers
HEAD = struct.Struct("<4sIQI")


def small(seed=0):
    tf.keras.utils.set_random_seed(seed)
    return tf.keras.Sequential([tf.keras.Input((6,)), L.Dense(8), L.Dense(3)])


def versions(count):
    """Models that differ in their heads."""
    found = []
    for seed in range(count):
        model = small()
        model.layers[-1].set_weights(small(100 + seed).layers[-1].get_weights())
        found.append(model)
    return found


def updates_among(models):
    """(Chain of the first, dict of (from, to) -> update)."""
    first = omc.progressive.split(models[0], ["INT8"])
    chains = {0: first}
    for place, model in enumerate(models[1:], 1):
        chains[place] = [*first, *omc.progressive.split(model, ["INT8"], known=first)]
    found = {}
    for a, b in itertools.permutations(range(len(models)), 2):
        (found[a, b],) = omc.progressive.split(models[b], ["INT8"], known=chains[a])
    return first, found


def test_a_restart_after_many_switches_goes_on_where_it_was_and_at_once(tmp_path):
    """All ways through five versions and twenty updates were tried once: hours."""
    first, updates = updates_among(versions(5))
    device = omc.progressive.Receiver(small(7), tmp_path)
    device.apply(first[0])
    rng, at = np.random.default_rng(0), 0
    pairs = []
    while len(set(pairs)) < len(updates):
        to = int(rng.choice([v for v in range(5) if v != at]))
        device.apply(updates[at, to])
        pairs.append((at, to))
        at = to
    begin = time.process_time()
    again = omc.progressive.Receiver(small(8), tmp_path)
    assert time.process_time() - begin < 60  # No search through all ways.
    assert again.digest == device.digest == updates[pairs[-1]].digest
    assert stored(again.model) == stored(device.model)
    following = next(b for (a, b) in updates if a == at)
    again.apply(updates[at, following])  # And it goes on from there.
    assert omc.progressive.Receiver(small(9), tmp_path).digest == again.digest


def test_a_restart_after_many_updates(tmp_path):
    """One on the other, more than Python calls functions inside of another."""
    first, updates = updates_among(versions(2))

    class Link:
        kind, stages, index = "update", first[0].stages, 0

        def __init__(self, number):
            self.base_digest = first[0].digest if number == 0 else f"state {number}"
            self.digest, self.sha256 = f"state {number + 1}", f"{number:064x}"

    links = [Link(number) for number in range(3000)]
    found = folders.chain([*links[::-1], first[0]])
    assert found == [first[0], *links]
    some = folders.chain([*links, first[0]], [first[0].sha256, *(x.sha256 for x in links[:5])])
    assert some == [first[0], *links]  # What it did not apply is gone through.


def test_without_a_note_of_what_was_applied_the_farthest_is_gone_to(tmp_path):
    first, updates = updates_among(versions(3))
    for part in (first[0], updates[0, 1], updates[1, 2]):
        part.save(tmp_path / folders.name_of(part))
    assert omc.progressive.Receiver(small(5), tmp_path).digest == updates[1, 2].digest
    (tmp_path / "applied").write_text("nonsense\n" + "0" * 64 + "\n" + updates[0, 1].sha256[:9])
    assert omc.progressive.Receiver(small(5), tmp_path).digest == updates[1, 2].digest


def test_an_update_that_arrives_twice_leads_back_again(tmp_path):
    first, updates = updates_among(versions(2))
    device = omc.progressive.Receiver(small(7), tmp_path)
    device.apply(first[0])
    for pair in ((0, 1), (1, 0), (0, 1), (1, 0), (0, 1)):
        device.apply(updates[pair])
        again = omc.progressive.Receiver(small(8), tmp_path)
        assert again.digest == device.digest and stored(again.model) == stored(device.model)


# Sealed rightly, for SHA-256 is no signature, and nonsense.


def opened(part):
    data = bytes(part)
    length = HEAD.unpack_from(data)[3]
    header = json.loads(zlib.decompress(data[HEAD.size : HEAD.size + length]))
    return header, data[HEAD.size + length : -32]


def sealed(header, payload, version=1):
    text = header if isinstance(header, str) else json.dumps(header)
    packed = zlib.compress(text.encode())
    size = HEAD.size + len(packed) + len(payload) + 32
    data = HEAD.pack(b"OMCP", version, size, len(packed)) + packed + payload
    return data + hashlib.sha256(data).digest()


@pytest.fixture(scope="module")
def chain():
    return omc.progressive.split(small(), ["INT4", "FP32"])


def junk(chain):
    """Name -> bytes of a base that no split writes."""
    header, payload = opened(chain[0])
    properties = header["properties"]
    nested = {"variables_before": 4}
    return {
        "deep": sealed("[" * 100_000, b""),
        "endless index": sealed(
            json.dumps(header).replace('"index": 0', '"index": 1e999'), payload
        ),
        "base of another type": sealed({**header, "base": [], "kind": "update"}, payload, 2),
        "digest of another type": sealed({**header, "digest": 7}, payload),
        "no rounding": sealed({**header, "properties": {}}, payload),
        "rounding": sealed({**header, "properties": {**properties, "rounding": "up"}}, payload),
        "nesting": sealed({**header, "properties": {**properties, "nesting": nested}}, payload),
        "nesting of another type": sealed(
            {**header, "properties": {**properties, "nesting": [1]}}, payload
        ),
    }


def test_nonsense_is_a_typed_error_and_changes_nothing(chain, tmp_path):
    plain = small()
    device = omc.progressive.Receiver(plain)
    for name, data in junk(chain).items():
        with pytest.raises(ArtifactError) as caught:
            device.apply(data)
        assert caught.value.argument == "part", name
        assert device.stage is None and values(plain) == values(small())
    device.apply(chain[0])
    assert device.stage == "INT4"


def test_nonsense_beside_a_chain_is_passed_over(chain, tmp_path):
    for part in chain:
        part.save(tmp_path / folders.name_of(part))
    for place, data in enumerate(junk(chain).values()):
        (tmp_path / f"{place}-junk.part").write_bytes(data)
    (tmp_path / ".omc-x.tmp").mkdir()
    assert omc.progressive.Receiver(small(3), tmp_path).stage == "FP32"


def test_an_update_of_other_shapes_is_refused_before_it_is_decoded(chain):
    """A few hundred bytes may say that they are of a gigabyte."""
    stream = omc.coding.encode_buffer(
        np.zeros(4 * 5_000_000, np.uint8),
        omc.codecs.Codec(omc.Format.parse("FP32"), (5_000_000,), False),
    )
    header = dict(
        kind="update", index=0, stages=["FP32"], base=chain[0].digest, digest="0" * 64,
        properties={}, raw=[["float32", len(stream), True]],
        entries=[[1, "x", [5_000_000], "float32"]],
    )  # fmt: skip
    device = omc.progressive.Receiver(small())
    device.apply(chain[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omc.coding.decode_buffer", lambda *a: pytest.fail("it was decoded"))
        with pytest.raises(ArtifactError, match="another shape"):
            device.apply(sealed(header, stream, 2))


# Interrupted.


def test_after_an_interruption_a_model_that_was_traced_predicts_and_is_completed(
    chain, monkeypatch
):
    x = np.ones((2, 6), np.float32)
    device = omc.progressive.Receiver(small())
    device.apply(chain[0])
    device.model.compile("sgd", "mse")
    device.model.predict(x, verbose=0)
    real, calls = upgrading.upgrade, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "upgrade", interrupted)
        with pytest.raises(KeyboardInterrupt):
            device.apply(chain[1])
    np.testing.assert_allclose(device.model.predict(x, verbose=0), device.model(x), rtol=1e-5)
    device.apply(chain[1])
    assert device.stage == "FP32" and values(device.model) == values(small())


def test_training_after_an_interruption_is_named(chain, monkeypatch):
    device = omc.progressive.Receiver(small())
    device.apply(chain[0])
    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "upgrade", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            device.apply(chain[1])
    device.model.layers[0].kernel.assign_add(tf.fill([6, 8], 0.1))
    with pytest.raises(ArtifactError, match="changed since it was interrupted.*take a new, plain"):
        device.apply(chain[1])


def test_what_was_trained_to_nan_is_not_kept(chain, tmp_path):
    device = omc.progressive.Receiver(small(), tmp_path, trained="keep")
    device.apply(chain[0])
    device.model.layers[0].bias.assign(tf.fill([8], np.nan))
    with pytest.raises(ModelError, match="NaN or Inf in .*bias"):
        device.apply(chain[1])
    assert device.stage == "INT4"


@pytest.mark.parametrize("directory", ["", b""])
def test_no_path_is_not_the_current_folder(directory):
    with pytest.raises(InputError) as caught:
        omc.progressive.Receiver(small(), directory)
    assert caught.value.argument == "directory"
    assert isinstance(caught.value, OmcError) and Part is omc.progressive.Part
