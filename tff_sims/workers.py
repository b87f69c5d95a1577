"""Starts TFF workers on this machine, for simulations here or on another machine.

  python -m tff_sims.workers --count=2 --port=8000

They end with this program, however it ends. Each listens on every network interface, and TFF's
protocol has neither password nor encryption: whoever reaches the port can run code here. Use it in
a trusted network, or behind a firewall through an SSH tunnel (docs/workers.md).
"""

import argparse
import contextlib
import os
import sys
import time

import psutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from omc.errors import OmcError  # noqa: E402
from tff_sims.arguments import from_to  # noqa: E402


def serve(count, port, host):
    """Runs workers until one of them dies.

    Args:
        count: Number of workers.
        port: Port of the first; the others have the next ones.
        host: Name or address under which the simulating machine reaches this one.

    Returns:
        Addresses of those that died; the others were ended.

    Raises:
        InputError: A port that is taken.
        WorkerError: A worker did not come up.
    """
    # Not before the arguments are known to be right: TensorFlow takes a while.
    from omc.learning.worker_processes import (
        running_workers,
        sigterm_exits,
        why_without_ops,
        workers,
    )

    ports = range(port, port + count)
    with sigterm_exits(), running_workers(ports):
        addresses = [f"{host}:{number}" for number in ports]
        print(f"{count} running, listening on every interface, without password or encryption:")
        print("\n".join(f"  {address}" for address in addresses))
        print("simulate on them with")
        print(f"  python -m tff_sims.simulate --workers={','.join(addresses)} --out=runs/remote")
        why = why_without_ops()
        if why is not None:
            print(f"Without OMC's native ops, so slower: {why}.")
        print("Ctrl-C ends them.", flush=True)
        while len(running := workers()) == count:
            time.sleep(0.5)
        alive = []
        for worker in running:
            with contextlib.suppress(psutil.Error):  # It may die this very moment.
                alive += worker.cmdline()
        return [
            address
            for address, number in zip(addresses, ports, strict=True)
            if f"--port={number}" not in alive
        ]


def main():
    """Checks the arguments, runs the workers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=from_to(1, 64), default=2, help="number of workers (2)")
    parser.add_argument(
        "--port",
        type=from_to(1, 65535),
        default=8000,
        help="port of the first; the others have the next ones (8000)",
    )
    parser.add_argument(
        "--host",
        default="localhost",
        help="name or address under which the simulating machine reaches this one, for the lines "
        "that are printed (localhost); TFF's worker itself always listens on every interface",
    )
    parser.error = lambda message: _fail(2, message)  # One line, without the usage.
    arguments = parser.parse_args()
    if arguments.port + arguments.count - 1 > 65535:
        _fail(2, f"--port: expected room for {arguments.count} ports, but got {arguments.port}.")
    try:
        dead = serve(arguments.count, arguments.port, arguments.host)
    except OmcError as error:
        _fail(2, f"--{error.argument}: expected {error.expected}, but got {error.got}. {error.tip}")
    except KeyboardInterrupt:
        sys.exit(130)
    _fail(1, f"worker {', '.join(dead)} died; the others were ended.")


def _fail(status, message):
    print(message.strip(), file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
