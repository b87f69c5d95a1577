"""split(known=...): what a receiver holds of another version is not sent again."""

import numpy as np
import pytest

import omc
import omc.progressive
from omc.errors import ArtifactError, InputError, InputTypeError
from omc.keras.saving import stored_order
from omc.progressive import Part, folders
from tests.progressive.chains import batch, changed, nested, network, stored, values

CHAIN = ["INT4", "INT8", "FP32"]


@pytest.fixture(scope="module")
def old():
    return omc.progressive.split(network(), CHAIN)


def names(part):
    return [entry.name.partition("/")[0] for entry in part.entries]


@pytest.mark.parametrize("held", [1, 2, 3])
def test_a_new_head_costs_the_head(old, tmp_path, held):
    """From each stage of the old version, through each of the new one, to its bits."""
    parts = omc.progressive.split(changed(), CHAIN, known=old[:held])
    assert [part.kind for part in parts] == ["update", "delta", "delta"]
    assert names(parts[0]) == ["head", "head"]
    for stage in (1, 2):  # The rest goes on from where it is.
        assert set(names(parts[stage])) == {"head"} | (
            {"conv", "hidden"} if stage >= held else set()
        )
    device = omc.progressive.Receiver(network(seed=5), tmp_path)
    for part in old[:held]:
        device.apply(part)
    objects = list(map(id, stored_order(device.model)))
    fresh = omc.progressive.Receiver(network(seed=6))
    for stage, direct in enumerate(omc.progressive.split(changed(), CHAIN)):
        fresh.apply(direct)
        device.apply(parts[stage] if stage else bytes(parts[stage]))
        assert device.stage == CHAIN[stage] and not device.trained
        for mine, theirs, v in zip(
            stored(device.model), stored(fresh.model), stored_order(device.model)
        ):
            if "head" in v.name or stage + 1 >= held:
                assert mine == theirs
        again = omc.progressive.Receiver(network(seed=7), tmp_path)
        assert again.digest == device.digest and stored(again.model) == stored(device.model)
    assert values(device.model) == values(changed())
    assert list(map(id, stored_order(device.model))) == objects
    assert sum(p.nbytes for p in parts) < sum(
        p.nbytes for p in omc.progressive.split(changed(), CHAIN)
    )


def test_an_update_of_one_stage_and_an_update_of_an_update(old):
    device = omc.progressive.Receiver(network(seed=5))
    applied = []
    for model, stages in (
        (network(), CHAIN),
        (changed(), ["FP32"]),
        (changed(noise=1.0), ["FP32"]),
    ):
        parts = omc.progressive.split(model, stages, known=applied or None)
        for part in parts:
            device.apply(part)
        applied += parts
        assert values(device.model) == values(model)
    assert len(applied[-1].entries) == 2
    (again,) = omc.progressive.split(changed(noise=1.0), ["FP32"], known=applied)
    assert not again.entries and again.digest == again.base_digest
    device.apply(again)
    assert values(device.model) == values(changed(noise=1.0))


def test_what_differs_below_a_stage_only_is_sent_from_there_on():
    """A change that INT4's codes do not show costs the delta alone."""
    first, second = (omc.wrap(network(), "INT8") for _ in range(2))
    buffer = second.get_layer("hidden").kernel.buffer
    codes = buffer.numpy()
    codes[:-8] ^= 1  # The last bit of every code: what rounds to 4 bits rounds as before.
    buffer.assign(codes)
    parts = omc.progressive.split(first, ["INT4", "INT8"])
    update, delta = omc.progressive.split(second, ["INT4", "INT8"], known=parts[:1])
    assert not update.entries and len(delta.entries) == 3
    device = omc.progressive.Receiver(network(seed=5))
    for part in (parts[0], update, delta):
        device.apply(part)
    assert stored(device.model) == stored(second) != stored(first)
    update, delta = omc.progressive.split(second, ["INT4", "INT8"], known=parts)
    assert names(update) == names(delta) == ["hidden"]


def test_a_wrapped_model_and_a_nested_one(old):
    first, second = (omc.wrap(m, "INT8") for m in (network(), changed()))
    chain = ["INT4", "INT8"]
    parts = omc.progressive.split(first, chain)
    device = omc.progressive.Receiver(network(seed=5))
    for part in [*parts, *omc.progressive.split(second, chain, known=parts)]:
        device.apply(part)
    assert stored(device.model) == stored(second)
    first, second = nested(), nested()
    second.get_layer("hidden").kernel.assign(second.get_layer("hidden").kernel.numpy() * 0.7)
    parts = omc.progressive.split(first, chain)
    update = omc.progressive.split(second, chain, known=parts)
    assert "conv" not in names(update[0])
    device = omc.progressive.Receiver(network(seed=5))
    for part in parts:
        device.apply(part)
    for part in update:
        device.apply(part)
        omc.nested.switch(second, omc.Format.parse(part.stage).bits)
        np.testing.assert_allclose(device.model(batch()), second(batch()), rtol=1e-5, atol=1e-6)
    assert stored(device.model) == stored(second)


def test_an_interrupted_update_is_completed(old, monkeypatch):
    from omc.progressive import upgrading

    parts = omc.progressive.split(changed(), CHAIN, known=old)
    device = omc.progressive.Receiver(network(seed=5))
    for part in old:
        device.apply(part)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "upgrade", interrupted)
        with pytest.raises(KeyboardInterrupt):
            device.apply(parts[0])
    for part in parts:
        device.apply(part)
    assert values(device.model) == values(changed())


def refused(device, part, match):
    before = stored(device.model), device.stage, device.digest
    with pytest.raises(ArtifactError, match=match) as caught:
        device.apply(part)
    assert caught.value.argument == "part"
    assert (stored(device.model), device.stage, device.digest) == before


def test_who_lacks_what_an_update_refers_to_is_told(old):
    update = omc.progressive.split(changed(), CHAIN, known=old[:2])[0]
    device = omc.progressive.Receiver(network(seed=5))
    refused(device, update, "out of order")
    device.apply(old[0])
    refused(device, update, "of another chain")  # It has the stage before.
    device.apply(old[1])
    device.model.compile("sgd", "mse")
    device.model.fit(batch(), np.zeros((4, 3)), verbose=0)
    refused(device, update, "changed since")
    other = omc.progressive.Receiver(network(seed=5))
    for part in omc.progressive.split(network(seed=3), CHAIN)[:2]:
        other.apply(part)
    refused(other, update, "of another chain")


def test_an_older_omc_refuses_an_update_by_its_version(old):
    update, delta, _ = omc.progressive.split(changed(), CHAIN, known=old[:1])
    versions = [int.from_bytes(bytes(p)[4:8], "little") for p in (old[0], old[1], update, delta)]
    assert versions == [1, 1, 2, 1]
    assert Part.from_bytes(bytes(update)).kind == "update"


@pytest.mark.parametrize(
    "known, error",
    [
        (lambda parts: "parts", InputTypeError),
        (lambda parts: parts[0], InputTypeError),
        (lambda parts: [bytes(parts[0])], InputTypeError),
        (lambda parts: [], InputError),
        (lambda parts: parts[1:], InputError),
        (lambda parts: [parts[0], parts[2]], InputError),
        (lambda parts: omc.progressive.split(network(width=14), CHAIN), InputError),
        (lambda parts: omc.progressive.split(nested(), ["INT4", "INT8"]), InputError),
    ],
)
def test_known_parts_that_are_none(old, known, error):
    with pytest.raises(error) as caught:
        omc.progressive.split(network(), CHAIN, known=known(old))
    assert caught.value.argument == "known"
    assert not isinstance(caught.value, ArtifactError)


def test_the_chain_of_a_folder(old):
    update = omc.progressive.split(changed(), CHAIN, known=old[:2])
    assert folders.chain([*update, *reversed(old[:2])]) == [*old[:2], *update]
    assert folders.chain([old[2], old[0], old[1]]) == old
    assert folders.chain([*old, update[0]]) == [*old[:2], update[0]]  # As long: the newer one.
    assert folders.chain(old[1:]) == [] and folders.chain([old[0], old[2]]) == [old[0]]
    still = omc.progressive.split(network(), ["FP32"], known=old)  # Leads to where it begins.
    assert folders.chain([*old, *still]) == [*old, *still]
