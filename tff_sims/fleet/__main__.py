"""A fleet of up to a million devices, simulated over what real runs measured.

  python -m tff_sims.fleet --quick                          # makes two small runs first
  python -m tff_sims.fleet --runs=runs/demo/fp32,runs/demo/omc
  python -m tff_sims.fleet --runs=runs/a,runs/b --fleet=mine.csv --answers=300 --deadline=900

Bytes and accuracies come from finished runs of tff_sims.simulate, the seconds of a client and of
applying a part are measured here, now; links, availability and failures come from the fleet's CSV.
Told are the time until a device has a usable model (whole, or base and deltas), the time of a
round, and time and bytes to a target accuracy, side by side, with ratios to the first run.

Into --out go fleet.json, fleet.csv, fleet.txt, two pictures, devices.csv (the built-in fleet, to be
changed and given as --fleet) and client_seconds.json (measured once). docs/fleet.md tells more.
"""

import argparse
import dataclasses
import os
import pathlib
import shlex
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from omc.errors import OmcError  # noqa: E402
from tff_sims.arguments import Parser, from_to  # noqa: E402
from tff_sims.command_line import fail  # noqa: E402
from tff_sims.fleet import (  # noqa: E402
    accuracy,
    delivery,
    measured,
    presets,
    quick,
    rehearsal,
    report,
    simulation,
    table,
    transfer,
    work,
)
from tff_sims.fleet.devices import draw  # noqa: E402
from tff_sims.fleet.rounds import Protocol  # noqa: E402
from tff_sims.machine import processor  # noqa: E402
from tff_sims.results import versions, write_whole, writing  # noqa: E402
from tff_sims.settings import as_line, unwritable  # noqa: E402

_FLAGS = (
    "runs", "quick", "fleet", "devices", "answers", "over_selection", "deadline", "rounds",
    "target", "lasting", "stages", "parts", "rehearse", "seed", "out",
)  # fmt: skip
_QUICK_ROUNDS = 25


def main(arguments=None):
    """Runs the command line.

    Args:
        arguments: List of str; None for those of the command line.
    """
    given = _parse(arguments)
    problem = unwritable(given.out)
    if problem:
        fail(problem)
    given.command = shlex.join(["python", "-m", "tff_sims.fleet", *(arguments or sys.argv[1:])])
    try:
        _run(given, pathlib.Path(given.out))
    except OmcError as error:
        fail(as_line(error, _FLAGS))
    except KeyboardInterrupt:
        fail("interrupted.", status=130)


def _parse(arguments):
    parser = Parser(
        prog="python -m tff_sims.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def flag(name, type_, default, text):
        parser.add_argument(f"--{name}", type=type_, default=default, help=text)

    flag("runs", _words, [], "folders of finished runs, A,B,...; ratios are to the first")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="in place of --runs: first train digits with FP32 and with OMC, 25 rounds each",
    )
    flag("fleet", str, None, "CSV that describes the devices; phones on four kinds of links (ours)")
    flag(
        "devices",
        from_to(1, 10_000_000),
        None,
        "number of devices (1,000,000); none where each row of --fleet is one device",
    )
    flag("answers", from_to(1, 1_000_000), 100, "answers that end a round (100)")
    flag(
        "over_selection",
        _number("a number from 0 to 100", lambda value: 0 <= value <= 100),
        0.3,
        "devices asked beyond that, as a share of it (0.3)",
    )
    flag("deadline", _deadline, 600.0, "seconds after which a round ends anyway (600), or none")
    flag("rounds", from_to(1, 100_000), 200, "rounds whose times are told, at least (200)")
    flag(
        "target",
        _number("an accuracy above 0, at most 1", lambda value: 0 < value <= 1),
        None,
        "held-out accuracy to reach; by default the first run's last, less half a point",
    )
    flag("lasting", from_to(0, 1000), 2, "evaluations after it that have to be as good (2)")
    flag(
        "stages",
        _words,
        ["INT4", "INT8", "FP32"],
        "formats of the parts that the first run's model is split into (INT4,INT8,FP32); '' for "
        "no parts",
    )
    flag("parts", _words, [], "files of parts, base and deltas in order, of whatever model")
    flag(
        "rehearse",
        str,
        None,
        "class of devices: also do one client's round for real, at the class's medians, through a "
        "throttled socket, and tell what was simulated for it",
    )
    flag("seed", from_to(0, 2**31), 0, "seed of devices and rounds (0)")
    flag("out", str, "runs/fleet", "folder for the results (runs/fleet)")
    given = parser.parse_args(arguments)
    if given.quick == bool(given.runs):
        parser.error("--runs: expected folders of finished runs, or --quick, but got both or none")
    return given


def _run(given, out):
    start = time.perf_counter()
    read = _default_table() if given.fleet is None else table.read(given.fleet)
    count = given.devices or (None if read.shares is None else 1_000_000)
    devices = draw(read, count, given.seed)
    protocol = Protocol(given.answers, given.over_selection, given.deadline)
    if given.rehearse is not None:
        rehearsal.check_class(devices, given.rehearse)
    folders = quick.make(out / "runs", _QUICK_ROUNDS) if given.quick else given.runs
    if folders is None:
        fail("the runs of --quick failed.", status=1)
    works = work.labelled([work.read(folder) for folder in folders])
    seconds = measured.of_runs(works, out, _show)
    offers = delivery.whole(works) + delivery.from_files(given.parts)
    if given.stages:
        _show(f"splitting the model of {works[0].folder} into {', '.join(given.stages)}")
        offers += delivery.split_run(works[0], given.stages)
    target = given.target or accuracy.default_target(works[0].rows)
    simulating = time.perf_counter()
    _show(f"simulating {len(devices):,} devices")
    told, curves = simulation.compare(
        devices,
        works,
        seconds,
        offers,
        protocol,
        target=target,
        lasting=given.lasting,
        number=given.rounds,
        seed=given.seed,
    )
    told = {
        "fleet": {
            "source": "built in" if given.fleet is None else given.fleet,
            "devices": len(devices),
            "classes": simulation.describe(devices),
        },
        "protocol": dataclasses.asdict(protocol),
        "target": {"accuracy": target, "lasting": given.lasting},
        "seed": given.seed,
        "measured": {
            one.label: {
                "folder": str(one.folder),
                "command": one.summary.get("command"),
                "down_bytes": one.down_bytes,
                "up_bytes": one.up_bytes,
                "client_seconds": seconds[one.label],
            }
            for one in works
        },
        **told,
        "simulated_in_seconds": time.perf_counter() - simulating,
        "processor": processor(),
        "versions": versions(),
        "command": given.command,
    }
    if given.rehearse is not None:
        told["rehearsal"] = _rehearse(given.rehearse, told["fleet"]["classes"], works)
    if given.fleet is None:
        with writing("devices.csv"):
            write_whole(out / "devices.csv", presets.DEFAULT.encode())
    names = report.write(told, curves, out)
    print(f"\n{report.text(told)}\n\n{out}: {', '.join(names)}")
    print(
        f"{len(devices):,} devices simulated in {told['simulated_in_seconds']:.1f} s, "
        f"{time.perf_counter() - start:.0f} s in all"
    )


def _rehearse(name, classes, works):
    """One real round of each run at a class's medians, next to the simulated seconds."""
    link, told = classes[name], {}
    mbps, latency = (link["down_mbps"], link["up_mbps"]), link["latency_s"]
    for one in works:
        real = rehearsal.client_round(one, *mbps, latency)
        simulated = real["train_seconds"] + sum(
            float(transfer.seconds(nbytes, rate, latency))
            for nbytes, rate in zip((real["down_bytes"], real["up_bytes"]), mbps)
        )
        told[one.label] = {**real, "simulated_seconds": simulated}
        _show(
            f"rehearsal, {name}, {one.label}: {real['seconds']:.2f} s, simulated {simulated:.2f} s "
            f"({simulated / real['seconds'] - 1:+.1%})"
        )
    return {"class": name, "runs": told}


def _default_table():
    return table.parse(presets.DEFAULT.splitlines(), "the built-in fleet")


def _words(text):
    return [word.strip() for word in text.split(",") if word.strip()]


def _number(expected, allowed):
    def number(text):
        try:
            value = float(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, but got {text!r}")
        return value

    return number


def _deadline(text):
    if text == "none":
        return None
    return _number("seconds above 0, or none", lambda value: 0 < value < 1e9)(text)


def _show(line):
    print(line, flush=True)


if __name__ == "__main__":
    main()
