"""Seconds of the runs' clients, measured once and kept in the folder of the results."""

import hashlib
import json

from tff_sims.fleet import client_seconds
from tff_sims.machine import processor
from tff_sims.results import write_whole, writing

_FILE = "client_seconds.json"


def of_runs(works, out, show):
    """Seconds of each run's clients, those that are known from `out`.

    Args:
        works: List of `Work`, with labels of their own.
        out: pathlib.Path of the folder.
        show: Called with a line before something is measured.

    Returns:
        Dict of label -> as of `client_seconds.measure`.

    Raises:
        OmcError: A run's task cannot be made here.
        InputError: The disk does not take the file.
    """
    path, known = out / _FILE, {}
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # Not there, or of no use: measured anew.
        pass
    found = {}
    for work in works:
        key = _key(work)
        if not _fits(known, key, work):
            show(f"measuring the seconds of a client of {work.folder}")
            known = {
                **(known if isinstance(known, dict) else {}),
                key: client_seconds.measure(work),
            }
            with writing(_FILE):
                write_whole(path, (json.dumps(known, indent=2) + "\n").encode())
        found[work.label] = known[key]
    return found


def _key(work):
    """Digest of the run and of the machine's processor."""
    text = json.dumps([work.summary, processor()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _fits(known, key, work):
    if not isinstance(known, dict) or not isinstance(known.get(key), dict):
        return False
    times = known[key]
    return tuple(times) == work.widths and all(
        isinstance(own, list)
        and len(own) == len(next(iter(times.values())))
        and all(isinstance(value, float) and value > 0 for value in own)
        and own
        for own in times.values()
    )
