"""Stages in which each variable has a format of its own: policies, as `omc.allocate` gives them."""

import numpy as np
import pytest

import omc
import omc.progressive
from omc.errors import FormatError, InputError
from omc.keras.host import variables_of
from omc.keras.saving import stored_order
from omc.progressive import Receiver
from tests.progressive.chains import expected_values, nested, network, stored, values

WIDTHS = {"conv/kernel": "INT8", "hidden/kernel": "INT3", "head/kernel": "INT5"}


def policy(**widths):
    return omc.Policy("INT8", overrides={**WIDTHS, **widths})


def formats_of(part):
    return {entry.name: entry.codec.format.name for entry in part.entries if entry.codec}


def average(model, formats):
    counts = [int(np.prod(v.shape)) for v in stored_order(model) if v.name.split(":")[0] in formats]
    bits = [
        int(formats[v.name.split(":")[0]][3:]) for v in stored_order(model) if "kernel" in v.name
    ]
    return np.average(bits, weights=counts)


@pytest.mark.parametrize("rest", [["FP32"], ["INT8"], ["INT8", "FP32"], ["S1E3M7", "FP32"]])
def test_each_variable_goes_its_own_way_to_the_exact_target(rest):
    """Against the values of each variable's own chain, calculated without omc.progressive."""
    model, receiver = network(), Receiver(network(seed=5))
    parts = omc.progressive.split(model, [policy(), *rest])
    name = f"mixed-{average(network(), WIDTHS):.2f}"
    assert parts[0].stages == (name, *rest)
    dense = [v.numpy() for v in stored_order(network())]
    for index, part in enumerate(parts):
        receiver.apply(omc.progressive.Part.from_bytes(bytes(part)))
        assert receiver.stage == part.stage == parts[0].stages[index]
        for variable, wanted in zip(stored_order(receiver.model), dense):
            key = variable.name.split(":")[0]
            if key in WIDTHS:
                chain = [WIDTHS[key], *rest]
                if chain[0] == chain[1]:
                    chain = chain[1:]
                wanted = expected_values(wanted, chain)[max(0, index - len(rest) - 1 + len(chain))]
            assert np.asarray(variable.numpy()).tobytes() == wanted.tobytes(), (index, key)
    if rest[0] == "INT8":  # The convolution has its 8 bits from the base on.
        assert "conv/kernel" not in {entry.name for entry in parts[1].entries}
    if rest[-1] == "FP32":
        assert values(receiver.model) == values(model)


def test_an_allocation_under_a_budget_of_bytes_on_the_wire(tmp_path):
    """The base obeys it, but for what a part adds; people and folders find the stage by name."""
    model = network(width=200)
    budget = 0.12 * sum(v.numpy().nbytes for v in variables_of(model))

    def coded(buffer, codec):
        return len(omc.coding.encode_buffer(buffer, codec))

    allocation = omc.allocate(model, wire_bytes=budget, coded_nbytes=coded)
    assert len(set(allocation.widths.values())) > 1
    parts = omc.progressive.split(model, [allocation, "INT8", "FP32"])
    assert parts[0].nbytes < budget + 1500
    folder = tmp_path / "parts"
    receiver = Receiver(network(5, 200), folder)
    for part in parts:
        receiver.apply(part)
    again = Receiver(network(6, 200), folder)
    assert stored(again.model) == stored(receiver.model) and again.stage == "FP32"
    back = Receiver(network(6, 200), folder, stage=parts[0].stage)
    assert back.stage.startswith("mixed-")
    formats = {v.codec.format.name for v in stored_order(back.model) if hasattr(v, "codec")}
    assert formats == set(allocation.widths.values())
    with pytest.raises(InputError, match="mixed-9.99"):
        Receiver(network(6, 200), folder, stage="mixed-9.99")
    with pytest.raises(FormatError):
        Receiver(network(6, 200), folder, stage="mixed")


def test_older_programs_refuse_parts_of_mixed_chains_and_read_all_others():
    for part in omc.progressive.split(network(), [policy(), "FP32"]):
        assert bytes(part)[4] == 3
    assert bytes(omc.progressive.split(network(), ["INT4", "FP32"])[0])[4] == 1


def test_a_wrapped_model_ends_with_what_it_stores():
    model = omc.wrap(network(), omc.Policy("INT8", overrides={"head/kernel": "INT4"}))
    parts = omc.progressive.split(model, [policy(), "INT8"])
    receiver = Receiver(network(seed=5))
    for part in parts:
        receiver.apply(part)
    assert stored(receiver.model) == stored(model)
    assert [e.name for e in parts[1].entries] == ["hidden/kernel"]  # The rest is complete.


def test_what_a_policy_leaves_in_float32_is_complete_at_once():
    base, end = omc.progressive.split(network(), [policy(**{"conv/kernel": "FP32"}), "INT8"])
    formats = formats_of(base)
    assert formats == {"conv/kernel": "INT8", "hidden/kernel": "INT3", "head/kernel": "INT5"}
    assert {entry.name for entry in end.entries} == {"hidden/kernel", "head/kernel"}


def test_nothing_has_more_bits_than_at_the_end():
    base, end = omc.progressive.split(network(), [policy(), "INT4"])
    assert formats_of(base) == {
        "conv/kernel": "INT4",
        "hidden/kernel": "INT3",
        "head/kernel": "INT4",
    }
    assert formats_of(end) == {"hidden/kernel": "INT4"}


@pytest.mark.parametrize(
    "stages, reason",
    [
        ([policy()], "the last stage"),
        ([policy(), "INT3"], "more bits a weight"),
        (["INT4", policy(), "FP32"], "'hidden/kernel' has at the stage after"),
        (["INT3", policy(), policy(), "FP32"], "more bits a weight"),
        ([omc.Policy("INT4", fraction=0.5), "FP32"], "partial quantization"),
        ([omc.Policy("S1E5M12", overrides=WIDTHS), "FP32"], None),
        ([omc.Policy("S1E5M12"), "FP32"], "at most 16 bits"),
        ([omc.Policy("INT4", overrides={"*bias": "INT4"}), "INT8", "FP32"], "bias"),
    ],
)
def test_policies_that_are_no_stage(stages, reason):
    if reason is None:
        assert omc.progressive.split(network(), stages)
        return
    with pytest.raises(InputError, match=reason) as caught:
        omc.progressive.split(network(), stages)
    assert caught.value.argument == "stages"


def test_nested_models_have_widths_of_their_own():
    with pytest.raises(InputError, match="which is nested"):
        omc.progressive.split(nested(), [policy(), "INT8"])
