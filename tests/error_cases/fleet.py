"""Mistakes with `tff_sims.fleet`."""

import json
import pathlib
import shutil

import numpy as np
import tensorflow as tf

from omc import progressive
from tests.error_cases.registry import case
from tff_sims.fleet import costs, delivery, rehearsal, rounds, table, work
from tff_sims.fleet.devices import draw

RUN = pathlib.Path(__file__).resolve().parents[2] / "docs" / "demo" / "fp32"
HEAD = "name,share,down_mbps,up_mbps,latency_s"


def read(*lines):
    return table.parse(lines, "a test")


def mistake(name, function):
    """Registers a function of no arguments that goes wrong."""
    case(name)(lambda _: function())


case("fleet that is not there")(lambda folder: table.read(folder / "absent.csv"))
mistake("fleet with an unknown column", lambda: read(HEAD + ",colour", "a,1,1,1,0,red"))
mistake("fleet without a column", lambda: read("name,share,down_mbps,latency_s", "a,1,1,0"))
mistake("fleet with a column twice", lambda: read(HEAD + ",share", "a,1,1,1,0,1"))
mistake("fleet with a short row", lambda: read(HEAD, "a,1,1,1"))
mistake("fleet without rows", lambda: read(HEAD))
mistake("fleet with shares of 0", lambda: read(HEAD, "a,0,1,1,0"))
mistake("share of a class below 0", lambda: read(HEAD, "a,-1,1,1,0"))
mistake("class without a name", lambda: read(HEAD, " ,1,1,1,0"))
mistake("unknown distribution", lambda: read(HEAD, "a,1,normal 1 2,1,0"))
mistake("bandwidth of 0", lambda: read(HEAD, "a,1,0,1,0"))
mistake("devices where each row is one", lambda: draw(read(HEAD[:5] + HEAD[11:], "a,1,1,0"), 2, 0))
mistake("classes without a number of devices", lambda: draw(read(HEAD, "a,1,1,1,0"), None, 0))


@case("fleet that is no text")
def _(folder):
    (folder / "given").write_bytes(b"\xff\xfe\x00")
    table.read(folder / "given")


@case("devices that fail without a deadline")
def _(_):
    devices = draw(read(HEAD + ",failure", "a,1,1,1,0,0.1"), 5, 0)
    ones = np.ones(5)
    rounds.simulate(devices, {"m": rounds.Costs(ones, ones, ones)}, rounds.Protocol(2), 1, 0)


@case("class at a width that the run does not have")
def _(folder):
    run = altered(folder, "downlink_bytes_by_width", {"8": 2, "4": 1})
    devices = draw(read(HEAD + ",bits", "a,1,1,1,0,2"), 5, 0)
    costs.of_devices(devices, work.read(run), {"8": [1.0], "4": [1.0]}, 0)


@case("class to rehearse that is not there")
def _(_):
    rehearsal.check_class(draw(read(HEAD, "a,1,1,1,0"), 5, 0), "b")


def altered(folder, key, value):
    """A copy of a run in whose summary something is another."""
    run = pathlib.Path(shutil.copytree(RUN, folder / "given"))
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    summary.update({key: value, key.replace("downlink", "uplink"): value})
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return run


case("run that is not there")(lambda folder: work.read(folder / "absent"))
case("run whose summary says no bytes")(
    lambda folder: work.read(altered(folder, "downlink_bytes_per_client_round", "many"))
)
case("fleet over a run with budgets")(lambda folder: work.read(altered(folder, "budgets", "2,8")))
mistake("splitting a run without weights", lambda: delivery.split_run(work.read(RUN), ("INT4",)))


@case("run with a damaged summary")
def _(folder):
    (altered(folder, "task", "digits") / "summary.json").write_text("{", encoding="utf-8")
    work.read(folder / "given")


@case("run with damaged rounds")
def _(folder):
    rows = altered(folder, "task", "digits") / "rounds.csv"
    rows.write_text(rows.read_text("utf-8")[:-40] + "?", encoding="utf-8")
    work.read(folder / "given")


@case("parts that are no chain")
def _(folder):
    (folder / "given").mkdir()
    model = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(20)])
    paths = [folder / "given" / f"{index}.part" for index in range(2)]
    for path, part in zip(paths, progressive.split(model, ["INT4", "INT8"])):
        part.save(path)
    delivery.from_files(paths[::-1])
