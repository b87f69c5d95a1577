"""Stands in for tff_sims.simulate, evaluate and central: their flags and files, made-up figures.

python stub.py -m tff_sims.simulate --flag=value ...

Figures depend on the flags and the seed alone. Like the real one it keeps a checkpoint after each
round and goes on from there. STUB_FAIL is the end of the name of a folder that fails,
STUB_SECONDS the time of a round.
"""

import csv
import json
import os
import pathlib
import random
import sys
import time

DENSE = 1_000_000
BITS = {"S1E4M14": 19, "S1E5M10": 16, "S1E3M7": 11, "S1E2M3": 6}


def main():
    flags = dict(argument[2:].split("=", 1) for argument in sys.argv[3:])
    out = pathlib.Path(flags.pop("out"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "cores").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
    start, command = flags.pop("init", None), sys.argv[1:]
    if start is not None:
        assert (pathlib.Path(start) / f"weights-{flags['seed']}.npz").exists(), start
    fail = os.environ.get("STUB_FAIL")
    if fail and str(out).endswith(fail):
        sys.exit("something broke\nValueError: the reason")
    rng = random.Random(json.dumps(flags))
    share = 1.0 if flags.get("method") == "fp32" else BITS.get(flags.get("format"), 32) / 32
    figures = {"accuracy": rng.uniform(0.5, 0.9), "method": flags.get("method")}
    figures.update(init=start, command=" ".join(command))
    if flags["task"] == "speech":
        figures["wer"] = 1 - figures["accuracy"]
    if sys.argv[2].endswith("simulate"):
        rows = rounds(flags, out, rng, share)
        figures.update(
            parameter_bytes=round(DENSE * share),
            dense_parameter_bytes=DENSE,
            peak_memory_bytes=memory(flags, share),
            downlink_bytes_per_client_round=rows[0]["downlink_bytes"],
            uplink_bytes_per_client_round=rows[0]["uplink_bytes"],
            rounds_per_minute=rng.uniform(50, 60),
            versions={"omc": "0", "tensorflow": "2"},
        )
        (out / f"weights-{flags['seed']}.npz").write_bytes(b"weights")
    if sys.argv[2].endswith("central"):
        figures.update(central(flags, out, rng))
    part = out / "summary.part"  # Like the real one's: there whole or not at all.
    part.write_text(json.dumps(figures))
    part.rename(out / "summary.json")


def central(flags, out, rng):
    fp32, epochs = flags["method"] == "fp32", int(flags["epochs"])
    for _ in train(out, epochs, flags["seed"]):
        pass
    if fp32:
        (out / f"weights-{flags['seed']}.npz").write_bytes(b"weights")
    given = "32" if fp32 else flags.get("budgets")
    given = given or ",".join(filter(None, [flags["bits"], flags.get("extra_bits")]))
    widths = given.split(",")
    figures = {
        "accuracies": {width: rng.uniform(0.5, 0.9) for width in widths},
        "bytes_at_width": {width: round(DENSE * float(width) / 32) for width in widths},
        "cpu_seconds_per_step": rng.uniform(0.1, 0.2) if epochs else None,
        "parameter_bytes": DENSE if fp32 else DENSE // 4,
        "peak_memory_bytes": 3 * DENSE if epochs else None,
        "domain": flags.get("domain"),
        "versions": {"omc": "0", "tensorflow": "2"},
    }
    if flags.get("read_by_shift") == "true":
        figures["shift_accuracies"] = {width: rng.uniform(0.2, 0.5) for width in widths}
    return {**figures, "accuracy": figures["accuracies"][widths[0]]}


def train(out, total, seed):
    """Yields each round's number; those that an earlier attempt has trained take no time."""
    trained = out / "trained"
    done = len(trained.read_text().splitlines()) if trained.exists() else 0
    for number in range(1, total + 1):
        yield number
        if number > done:
            time.sleep(float(os.environ.get("STUB_SECONDS", 0)))
            with open(trained, "a") as file:  # One write: a kill comes before or after it.
                file.write(f"{number}\n")
            print(f"[{number}/{total}] seed {seed}", flush=True)


def memory(flags, share):
    measured = flags.get("client_memory") != "false"
    return round(3 * DENSE * (0.4 + 0.6 * share)) if measured else None


def rounds(flags, out, rng, share):
    total, rows = int(flags["rounds"]), []
    for number in train(out, total, flags["seed"]):
        evaluated = number == total or number % int(flags["evaluate_every"]) == 0
        rows.append(
            dict(
                round=number,
                accuracy=rng.uniform(0.1, 0.9) if evaluated else float("nan"),
                downlink_bytes=round(DENSE * share) + 99,
                uplink_bytes=round(DENSE * share) + 44,
            )
        )
    with open(out / "rounds.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


if __name__ == "__main__":
    main()
