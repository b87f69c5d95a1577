"""What crosses to two TFF workers, counted on the sockets, next to what the process measures.

Digits, 10 clients a round. Each worker is reached through a TCP proxy that counts. TFF's own
process has its server in the computation, so that float32 state crosses, too.
"""

import collections
import functools
import time

import numpy as np
import tensorflow_federated as tff

from benchmarks.harness import Table
from omc.learning import (
    build_controlled_fed_avg,
    build_fp32_fed_avg,
    remote_runtime,
    traffic,
)
from omc.learning.downlinks import Coded
from omc.learning.uplinks import Dithered
from omc.learning.worker_processes import running_workers
from omc.measurement.sockets import CountingProxy
from omc.policies import Policy
from tff_sims.tasks import TASKS

_CLIENTS = 10
_ERROR = 0.2  # Squared, of the mean of a round's updates, relative to one.
_COLUMNS = [
    ("method", "process", ""),
    ("measured", "measured payload", ",.0f"),
    ("messages", "payload messages", ",.0f"),
    ("data", "data sets", ",.0f"),
    ("other", "other messages", ",.0f"),
    ("socket", "socket", ",.0f"),
    ("protocol", "socket - messages", ",.0f"),
    ("ratio", "socket - data sets / measured", ".4f"),
    ("first", "socket, first round", ",.0f"),
    ("seconds", "s a round", ".2f"),
]


def run(quick):
    """Counts rounds of each process.

    Args:
        quick: 3 rounds instead of 10.

    Returns:
        List of one `Table`.
    """
    title = "bytes a client and round, both ways together, after the first round"
    table = Table("links", title, _COLUMNS)
    task = TASKS["digits"](0)
    rate, step = (tff.learning.optimizers.build_sgdm(value) for value in (0.1, 1.0))
    coded = {"downlink": Coded(bits=4), "uplink": Dithered(_CLIENTS, _ERROR)}
    processes = {
        "OMC S1E3M7, 0.9, controller": (Policy("S1E3M7", fraction=0.9), {}),
        "INT8, 4 bits coded down, dithered up, controller": (Policy("INT8"), coded),
        "FP32, controller": (Policy("FP32"), {}),
    }
    builders = {
        name: functools.partial(
            build_controlled_fed_avg, task.model_fn, policy, rate, step, **links
        )
        for name, (policy, links) in processes.items()
    }
    name = "FP32, TFF's own composed process"
    builders[name] = functools.partial(build_fp32_fed_avg, task.model_fn, rate, step)
    for name, build in builders.items():
        table.rows.append({"method": name, **_count(build, task, 3 if quick else 10)})
    return [table]


def _count(build, task, rounds):
    rows = []
    draw = np.random.default_rng(0)
    with running_workers((None, None)) as addresses:
        proxies = [CountingProxy(address) for address in addresses]
        with remote_runtime([proxy.address for proxy in proxies]):
            process = build()  # Inside: coded links ask what the workers can do.
            state = process.initialize()
            for _ in range(rounds + 1):
                chosen = draw.choice(task.num_clients, _CLIENTS, replace=False)
                data = [task.client_dataset(int(client)) for client in chosen]
                before = _socket(proxies)
                start = time.perf_counter()
                state, metrics = process.next(state, data)
                seconds = time.perf_counter() - start
                rows.append((_row(metrics), _socket(proxies) - before, seconds))
        for proxy in proxies:
            proxy.close()
    counts = sum((counts for counts, _, _ in rows[1:]), collections.Counter())
    share = {key: value / rounds / _CLIENTS for key, value in counts.items()}
    socket = sum(count for _, count, _ in rows[1:]) / rounds / _CLIENTS
    row = {
        **share,
        "socket": socket,
        "first": rows[0][1] / _CLIENTS,
        "ratio": (socket - share.get("data", 0)) / share["measured"],
        "seconds": float(np.median([seconds for _, _, seconds in rows[1:]])),
    }
    if "messages" in share:
        row["protocol"] = socket - share["messages"] - share["data"] - share["other"]
    return row


def _row(metrics):
    counted = traffic(metrics)
    measured = counted["downlink_bytes"] * counted["clients"]
    row = {"measured": measured + counted["uplink_bytes"] * counted["answers"]}
    if "link" in metrics:
        link = metrics["link"]
        row["messages"] = link["payload_bytes"] + link["result_bytes"]
        row["data"] = link["data_bytes"]
        row["other"] = link["program_bytes"] + link["control_bytes"]
    return collections.Counter(row)


def _socket(proxies):
    return sum(proxy.up + proxy.down for proxy in proxies)
