"""From runs to what is told: real runs' figures, real bytes through sockets, the command line."""

import csv
import dataclasses
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest

from omc import progressive
from tff_sims.fleet import (
    __main__,
    client_seconds,
    costs,
    delivery,
    measured,
    rehearsal,
    table,
    transfer,
    work,
)
from tff_sims.fleet.devices import draw
from tff_sims.results import save_weights
from tff_sims.settings import Settings

RUNS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "demo"
HEAD = "name,share,down_mbps,up_mbps,latency_s,speed"


def summary(name):
    return json.loads((RUNS / name / "summary.json").read_text("utf-8"))


def fleet(*rows, devices=100, head=HEAD):
    return draw(table.parse((head, *rows), "test"), devices, 0)


def close(real, simulated):
    return abs(simulated / real() - 1) < 0.1


def test_a_part_through_a_throttled_socket_takes_the_simulated_time():
    model = Settings(task="digits").make_task(0).build_model()
    part = bytes(progressive.split(model, ["INT4", "INT8"])[0])
    links = fleet("a,1,4,1,0.02,1", "b,1,8,1,0.1,1", devices=2)
    simulated = delivery.download_seconds(links, delivery.Offer("base", len(part)))

    def real(place):
        seconds, arrived = rehearsal.transfer_seconds(
            part, links.down_mbps[place], links.latency_s[place]
        )
        assert arrived == part
        return seconds

    for place in range(2):  # Once of a few times: a busy machine adds to it, never takes away.
        assert any(close(lambda p=place: real(p), simulated[place]) for _ in range(6))


def test_a_real_round_of_a_class_takes_the_simulated_time():
    run = work.read(RUNS / "fp32")
    devices = fleet("a,1,60,40,0.01,1", devices=1)

    def agrees():
        real = rehearsal.client_round(run, 60, 40, 0.01)
        # What crosses is what the run counted.
        assert (
            real["down_bytes"]
            == run.down_bytes[""]
            == summary("fp32")["downlink_bytes_per_client_round"]
        )
        assert real["up_bytes"] == run.up_bytes[""]
        simulated = costs.of_devices(devices, run, {"": [real["train_seconds"]]}, 0).seconds[0]
        return close(lambda: real["seconds"], simulated)

    assert any(agrees() for _ in range(4))


def test_a_shaped_link_is_no_quicker_than_its_rate_and_opens_its_window_slowly():
    data = bytes(range(256)) * 200  # 51,200 bytes: windows of 14,600, 29,200 and the rest.
    seconds, arrived = rehearsal.transfer_seconds(data, 1000, 0.04)
    assert arrived == data
    assert seconds >= 0.04 * (transfer.TRIPS + 2)


def test_a_cost_is_the_sum_of_what_was_measured():
    run = work.read(RUNS / "omc")
    down, up = (summary("omc")[f"{way}link_bytes_per_client_round"] for way in ("down", "up"))
    devices = fleet("a,1,8,2,0,0.5", devices=200)
    cost = costs.of_devices(devices, run, {"": [1.0, 3.0]}, 0)
    link = down / 1e6 + up / 0.25e6
    assert set(np.round(cost.seconds - link, 9)) == {2.0, 6.0}  # Half as quick as was measured.
    assert np.all(cost.down_bytes == down) and np.all(cost.up_bytes == up)


def with_widths(folder, seed=0):
    run = pathlib.Path(shutil.copytree(RUNS / "omc", folder / "widths"))
    told = summary("omc")
    told.update(format="INT8", fraction=1.0, uplink="update", widths="8,4,2", seed=seed)
    for way in ("downlink", "uplink"):
        told[f"{way}_bytes_by_width"] = {"8": 8000, "4": 4000, "2": None}  # Nobody had 2.
    (run / "summary.json").write_text(json.dumps(told))
    return work.read(run)


def test_widths_have_bytes_and_seconds_of_their_own(tmp_path):
    run = with_widths(tmp_path)
    assert run.widths == ("8", "4") and run.label == "OMC INT8, 1, update up, at 8,4,2"
    seconds = {"8": [8.0], "4": [4.0]}
    head = HEAD + ",bits"
    named = fleet("a,1,8,8,0,1,4", "b,1,8,8,0,1,8", devices=10, head=head)
    cost = costs.of_devices(named, run, seconds, 0)
    assert cost.down_bytes.tolist() == [4000] * 5 + [8000] * 5
    np.testing.assert_allclose(cost.seconds, [4 + 0.008] * 5 + [8 + 0.016] * 5)
    drawn = costs.of_devices(fleet("a,1,8,8,0,1", devices=4000), run, seconds, 0)
    assert abs((drawn.down_bytes == 4000).mean() - 0.5) < 0.03
    found = client_seconds.measure(run, clients=2)
    assert list(found) == ["8", "4"] and all(len(own) == 2 for own in found.values())
    payloads = [
        sum(int(np.prod(tensor.shape)) for tensor in client.payload(1) if tensor.dtype == "uint8")
        for _, client in client_seconds.at_widths(run)
    ]
    assert payloads[1] < 0.51 * payloads[0]


@pytest.mark.parametrize("uplink", ["update", "dithered"])
def test_answers_of_other_uplinks_are_timed(uplink):
    run = work.read(RUNS / "omc")
    settings = dataclasses.replace(run.settings, uplink=uplink)
    found = client_seconds.measure(dataclasses.replace(run, settings=settings), clients=1)
    assert list(found) == [""] and found[""][0] > 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The demo's runs, the first with weights."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("fp32", "omc"):
        shutil.copytree(RUNS / name, folder / name)
    save_weights(folder / "fp32", 0, Settings(task="digits").make_task(0).build_model())
    return folder


@pytest.fixture(scope="module")
def told(runs):
    out = runs / "out"
    flags = ["--devices=3000", "--rounds=30", "--answers=20", "--target=0.9", f"--out={out}"]
    flags += [f"--runs={runs / 'fp32'},{runs / 'omc'}", "--rehearse=wifi"]
    __main__.main(flags)
    return json.loads((out / "fleet.json").read_text()), out, flags


def test_everything_is_told_side_by_side(told):
    told, out, _ = told
    assert list(told["methods"]) == ["FP32", "OMC S1E3M7, 0.9"]
    fp32, omc = told["methods"].values()
    assert omc["round"]["median"] < fp32["round"]["median"]
    assert omc["round"]["down_bytes"] == 26 * summary("omc")["downlink_bytes_per_client_round"]
    assert 0 < fp32["round"]["late_share"] < 0.3 and 0 < fp32["round"]["failed_share"] < 0.2
    reach = omc["to_target"]
    assert reach["seeds"] == 3 and reach["rounds"] > 1 and reach["seconds"] > 0
    assert set(omc["device_round"]["by_class"]) == {"wifi", "4G", "3G", "2G"}
    assert sum(of["devices"] for of in told["fleet"]["classes"].values()) == 3000
    assert set(told["rehearsal"]["runs"]) == set(told["methods"])
    for kind in ("first_model", "rounds"):
        assert (out / f"{kind}.png").stat().st_size > 5000
    with open(out / "fleet.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    found = {(one["table"], one["row"], one["class"], one["figure"]): one["value"] for one in lines}
    assert (
        float(found["device_round", "FP32", "2G", "p95"])
        == (fp32["device_round"]["by_class"]["2G"]["p95"])
    )
    text = (out / "fleet.txt").read_text()
    ratio = omc["to_target"]["seconds"] / fp32["to_target"]["seconds"]
    assert next(line for line in text.splitlines() if "time to the target" in line).endswith(
        f"  {ratio:.3f}"
    )


def test_offers_are_what_exists(told, runs):
    told, *_ = told
    model = Settings(task="digits").make_task(0).build_model()
    sizes = [len(bytes(p)) for p in progressive.split(model, ["INT4", "INT8", "FP32"])]
    offers = {offer["label"]: offer for offer in told["first_model"]}
    # The names that Keras counts up are in the parts' headers, and differ.
    assert abs(offers["INT4"]["bytes"] - sizes[0]) < 50 and offers["INT4"]["apply_seconds"] > 0
    assert abs(offers["INT4 + INT8 + FP32"]["bytes"] - sum(sizes)) < 150
    assert offers["FP32 whole"]["bytes"] == summary("fp32")["downlink_bytes_per_client_round"]
    assert offers["INT4"]["download_median"] < offers["FP32, one part"]["download_median"]
    paths = [runs / f"{index}.part" for index in range(2)]
    for path, part in zip(paths, progressive.split(model, ["INT4", "INT8"])):
        part.save(path)
    assert [o.nbytes for o in delivery.from_files(paths)][0] == paths[0].stat().st_size


def test_the_same_again_measures_nothing_and_gives_the_same(told, monkeypatch):
    told, out, flags = told
    monkeypatch.setattr(client_seconds, "measure", lambda _: pytest.fail("measured again"))
    __main__.main([*flags[:-1], "--stages="])
    again = json.loads((out / "fleet.json").read_text())
    assert again["methods"] == told["methods"]


def test_a_damaged_record_of_seconds_is_measured_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(client_seconds, "measure", lambda _: {"": [0.5]})
    run, file = work.read(RUNS / "fp32"), tmp_path / "client_seconds.json"
    for content in ("{", "[]", '{"a": 1}', json.dumps({measured._key(run): {"": ["x"]}})):
        file.write_text(content)
        assert measured.of_runs([run], tmp_path, print) == {"FP32": {"": [0.5]}}
        assert measured._key(run) in json.loads(file.read_text())


def test_runs_of_one_kind_are_told_apart():
    twice = work.labelled([work.read(RUNS / "fp32"), work.read(RUNS / "fp32")])
    assert twice[0].label.startswith("FP32 (") and "fp32" in twice[0].label


@pytest.mark.parametrize(
    "flags, line",
    [
        ([], "--runs: expected folders of finished runs, or --quick, but got both or none"),
        (["--runs=a", "--quick"], "--runs: expected"),
        (["--runs=absent"], "--runs: expected folders of finished runs, but got absent"),
        (["--runs=a", "--devices=0"], "argument --devices: expected 1 to 10000000, but got '0'"),
        (["--runs=a", "--over_selection=-1"], "--over_selection: expected a number from 0 to 100"),
        (["--runs=a", "--deadline=never"], "--deadline: expected seconds above 0, or none"),
        (["--runs=a", "--target=2"], "--target: expected an accuracy above 0, at most 1"),
        (["--runs=a", "--fleet=absent.csv"], "--fleet: expected a CSV file, but got absent.csv"),
        (["--runs=a", "--rehearse=5G"], "--rehearse: expected one of the classes wifi, 4G, 3G, 2G"),
        (["--runs=a", "--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flags, line):
    with pytest.raises(SystemExit) as ended:
        __main__.main(["--devices=100", *flags, f"--out={tmp_path}"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_a_quick_look_whose_runs_fail_ends(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(SystemExit) as ended:
        __main__.main(["--quick", "--devices=9", f"--out={tmp_path}"])
    assert ended.value.code == 1 and "the runs of --quick failed" in capsys.readouterr().err
