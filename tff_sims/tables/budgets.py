"""Sections of federations under budgets: the server's model, and those that the clients would hold.

Figures come from summaries of `tff_sims.simulate`. A mean over clients is weighted by how many
clients have each budget.
"""

import dataclasses

from tff_sims.tables.grid import Grid
from tff_sims.tables.plan import Reading, Section
from tff_sims.tables.readings import mean, std, values, with_spread

MASTER, DOWNLOADED, OWN = "master_error", "downloaded_error", "own_error"
_ERRORS = {MASTER: "server", DOWNLOADED: "downloaded", OWN: "own"}
_BYTES = {"downlink_bytes_per_client_round": "down", "uplink_bytes_per_client_round": "up"}


@dataclasses.dataclass(frozen=True)
class BudgetSection(Section):
    """Rows of federations, one way to give out widths each."""


def derived(summary, evaluations=()):
    """What a run says of models under budgets; nothing where there are none.

    Args:
        summary: Dict.
        evaluations: List of dicts, accuracies by column of rounds.csv: the evaluations over which
            an error is the mean, of those that have it (clients' own models are evaluated once, in
            the end); the summary's accuracies, of the last one, where there are none.

    Returns:
        Dict: `MASTER`, error of the server's float32 model; `DOWNLOADED`, of what clients would
        download next; `OWN`, of what clients held after their local training; percent, the latter
        two as means over clients; average_bits, likewise.
    """
    if "master_accuracy" not in summary:
        return {}
    told = [_errors(columns, summary) for columns in evaluations or [_columns(summary)]]
    found = {
        key: mean([errors[key] for errors in told if key in errors])
        for key in (MASTER, DOWNLOADED, OWN)
        if any(key in errors for errors in told)
    }
    clients = summary.get("clients_by_width")
    bits = _over_clients(summary.get("average_bits_by_width"), clients) if clients else None
    return found if bits is None else {**found, "average_bits": bits}


def _columns(summary):
    """A summary's accuracies as rounds.csv names them."""
    columns = {key: summary[key] for key in ("accuracy", "master_accuracy")}
    for key in ("accuracy", "own_accuracy"):
        for width, share in summary.get(f"{key}_by_width", {}).items():
            columns[f"{key}_at_{width}_bits"] = share
    return columns


def _errors(columns, summary):
    """Errors of one evaluation, percent."""
    found = {MASTER: 100 * (1 - columns["master_accuracy"])}
    clients = summary.get("clients_by_width")
    if not clients:
        return {**found, DOWNLOADED: 100 * (1 - columns["accuracy"])}
    for key, name in (("accuracy", DOWNLOADED), ("own_accuracy", OWN)):
        by_width = {width: columns.get(f"{key}_at_{width}_bits") for width in clients}
        share = _over_clients(by_width, clients)
        if share is not None:
            found[name] = 100 * (1 - share)
    return found


def _over_clients(by_width, clients):
    """Mean over clients of a figure for each budget; None where one is not there."""
    taken = [width for width, count in clients.items() if count]
    if by_width is None or any(by_width.get(width) is None for width in taken):
        return None
    return sum(by_width[w] * clients[w] for w in taken) / sum(clients[w] for w in taken)


def grids(section, found):
    """A section as a list of one `Grid`.

    Args:
        section: `BudgetSection`.
        found: What `figures.summaries` returned.
    """
    rows = [_row(row, section, found) for row in section.rows]
    columns = [("label", "", "")]
    columns += [(f"{key}_text", f"{heading} %", "s") for key, heading in _ERRORS.items()]
    columns.append(("average_bits", "bits", ".2f"))
    for key, heading in _BYTES.items():
        columns += [(f"{key}_kb", f"{heading} kB", ".1f")]
    columns.append(("seeds", "seeds", "d"))
    shown = [column for column in columns if any(row.get(column[0]) is not None for row in rows)]
    return [Grid(section.name, section.title, shown, rows)]


def _row(row, section, found):
    figures = {"label": row.label, "run": row.run, "seeds": len(found[row.run])}
    for key in _ERRORS:
        errors = list(values(found, Reading(row.run, key)).values())
        accuracy = None if mean(errors) is None else 100 - mean(errors)
        figures[key], figures[f"{key}_std"] = mean(errors), std(errors)
        figures[f"{key}_text"] = with_spread(accuracy, std(errors), ".2f")
    for key in ("average_bits", *_BYTES):
        figures[key] = mean(list(values(found, Reading(row.run, key)).values()))
    for key in _BYTES:
        figures[f"{key}_kb"] = figures[key] and figures[key] / 1e3
    return figures
