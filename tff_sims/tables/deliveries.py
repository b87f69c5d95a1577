"""Sections of models that are delivered in parts: bytes, accuracy, and time until they are usable.

Figures come from the summaries of `tff_sims.deliver`: bytes of files, CPU seconds of a device's
process. Seconds on a link are `tff_sims.fleet.transfer`'s, for one connection that everything comes
through, with `LATENCY`.
"""

import dataclasses

from tff_sims.deliver_chains import budget
from tff_sims.fleet import transfer
from tff_sims.tables.grid import Grid
from tff_sims.tables.plan import Reading
from tff_sims.tables.readings import mean, paired, std, values, with_spread

RATES = (0.1, 1, 10, 100)
"""Bandwidths, Mbit/s."""
LATENCY = 0.02
"""Seconds there and back, as the fleets' own Wi-Fi; ours."""
RAW = "FP32"
"""Key of the whole float32 model in a summary, against which everything is set."""
_PLANES = (1, 2, 3, 4, 8)  # Steps of bit planes that are shown, 2 bits each.
_CODED = ", coded"


@dataclasses.dataclass(frozen=True)
class DeliverySection:
    """Chains of stages that one trained model is delivered in, one line each.

    Attributes:
        name, title: As in `plan.Section`.
        run: Name of the run of `tff_sims.deliver`.
        chains: Tuple of its chains that are shown.
        fp32: `Reading` of the error that theirs are set against.
        beside: Whether it shows what stands beside the parts, too.
    """

    name: str
    title: str
    run: str
    chains: tuple
    fp32: Reading
    beside: bool = True

    @property
    def shown(self):
        """As of `plan.Section`."""
        baseline = (f"{RAW}, the baseline", [self.fp32.run])
        return [baseline, *((_label(chain), [self.run]) for chain in self.chains)]


def derived(summary):
    """What the figures of one run of `tff_sims.deliver` say; nothing of another program's summary.

    Args:
        summary: Dict.

    Returns:
        Dict of dicts, chain -> figure: errors_at_once (percent, of the base), base_share (percent
        of FP32's bytes), parts_more (percent that all parts are more than the target coded at
        once), and for each rate first_seconds_RATE and all_seconds_RATE (until the first, and the
        last stage is usable), with _share for the percent of what FP32 takes whole;
        first_share_worst is the largest of these over the rates. Things that are whole have only
        the seconds.
    """
    if "chains" not in summary or "whole" not in summary:
        return {}
    whole, found = summary["whole"], {}
    raw = whole[RAW]
    for name, figures in {**summary["chains"], **whole}.items():
        sizes, taken = figures["bytes"], figures["seconds"]
        shares = []
        for rate in RATES:
            of_raw = seconds(raw["bytes"][0], raw["seconds"][0], rate)
            for key, count in (("first", 1), ("all", len(sizes))):
                until = seconds(sum(sizes[:count]), sum(taken[:count]), rate)
                found.setdefault(f"{key}_seconds_{rate:g}", {})[name] = until
                share = 100 * until / of_raw
                found.setdefault(f"{key}_share_{rate:g}", {})[name] = share
                shares += [share] if key == "first" else []
        if name not in summary["chains"]:
            continue
        target = name.rpartition(",")[2] + _CODED
        one = {
            "errors_at_once": 100 * (1 - figures["accuracies"][0]),
            "base_share": 100 * sizes[0] / raw["bytes"][0],
            "parts_more": 100 * (sum(sizes) / whole[target]["bytes"][0] - 1),
            "first_share_worst": max(shares),
        }
        for key, figure in one.items():
            found.setdefault(key, {})[name] = figure
    return found


def seconds(nbytes, apply_seconds, mbps):
    """Until what was downloaded is usable: its transfer, and putting it to use.

    Args:
        nbytes: Bytes that arrive in one go.
        apply_seconds: Seconds of putting them to use.
        mbps: Megabits (10^6) a second.
    """
    return float(transfer.seconds(nbytes, mbps, LATENCY)) + apply_seconds


def grids(section, found):
    """A section as `Grid`s: the chains, NAME_times, and NAME_beside where it shows that.

    Args:
        section: `DeliverySection`.
        found: What `figures.summaries` returned.
    """
    told = [_chains(section, found), _times(section, found)]
    return [*told, _beside(section, found)] if section.beside else told


def _chains(section, found):
    rows = []
    for chain in section.chains:
        parts = _parts(section, found, chain)
        errors = list(_read(section, found, "errors_at_once", chain).values())
        at_once = Reading(section.run, "errors_at_once", chain)
        below = paired(found, at_once, section.fp32)
        accuracy = None if not errors else 100 - mean(errors)
        rows.append(
            {
                "label": _label(chain),
                "accuracy": accuracy,
                "accuracy_text": with_spread(accuracy, std(errors), ".2f"),
                "below": mean(below),
                "below_text": with_spread(mean(below), std(below), "+.2f"),
                "base_kb": _kb([sizes[:1] for sizes, _ in parts]),
                "base_share": _mean(section, found, "base_share", chain),
                "all_kb": _kb([sizes for sizes, _ in parts]),
                "parts_more": _mean(section, found, "parts_more", chain),
                "base_seconds": mean([taken[0] for _, taken in parts]),
                "all_seconds": mean([sum(taken) for _, taken in parts]),
                "seeds": len(errors),
            }
        )
    columns = [
        ("label", "stages", ""),
        ("accuracy_text", "accuracy at once %", "s"),
        ("below_text", "points below FP32", "s"),
        ("base_kb", "base kB", ".1f"),
        ("base_share", "of FP32 %", ".1f"),
        ("all_kb", "all parts kB", ".1f"),
        ("parts_more", "more than coded at once %", "+.2f"),
        ("base_seconds", "base applied, s", ".3f"),
        ("all_seconds", "all applied, s", ".3f"),
        ("seeds", "seeds", "d"),
    ]
    return Grid(section.name, section.title, columns, rows)


def _times(section, found):
    whole = _of_first(found[section.run], "whole")
    rows, columns = [], [("label", "", "")]
    for name in [*section.chains, *whole]:
        row = {"label": _label(name) + (" whole" if name in whole else "")}
        for key in ("first", "all"):
            for rate in RATES:
                at = f"{key}_{rate:g}"
                row[at] = _mean(section, found, f"{key}_seconds_{rate:g}", name)
                row[f"{at}_share"] = _mean(section, found, f"{key}_share_{rate:g}", name)
                known = row[at] is not None
                row[f"{at}_text"] = f"{row[at]:.2f} ({row[f'{at}_share']:.0f} %)" if known else None
        row["seeds"] = len(_read(section, found, "first_seconds_1", name))
        rows.append(row)
    columns += [(f"first_{rate:g}_text", f"first at {rate:g}", "s") for rate in RATES]
    columns += [(f"all_{rate:g}_text", f"all at {rate:g}", "s") for rate in RATES]
    title = "Seconds until the first stage and all are usable at Mbit/s (% of FP32's whole)"
    return Grid(f"{section.name}_times", title, columns, rows)


def _beside(section, found):
    """The model whole, bit planes and other coders, one line each."""
    entries = {}
    for summary in found[section.run].values():
        of_raw = summary["whole"][RAW]["bytes"][0]
        for label, nbytes, accuracy in _things(summary):
            entries.setdefault(label, []).append((nbytes, 100 * nbytes / of_raw, accuracy))
    rows = []
    for label, of_seeds in entries.items():
        nbytes, shares, accuracies = zip(*of_seeds)
        known = [100 * accuracy for accuracy in accuracies if accuracy is not None]
        rows.append(
            {
                "label": label,
                "kb": mean(nbytes) / 1e3,
                "share": mean(shares),
                "accuracy": mean(known),
                "accuracy_text": with_spread(mean(known), std(known), ".2f"),
                "seeds": len(of_seeds),
            }
        )
    columns = [
        ("label", "", ""),
        ("kb", "kB", ".1f"),
        ("share", "of FP32 %", ".1f"),
        ("accuracy_text", "accuracy %", "s"),
        ("seeds", "seeds", "d"),
    ]
    title = "Beside the parts: the same model whole, in plain bit planes, by other coders"
    return Grid(f"{section.name}_beside", title, columns, rows)


def _things(summary):
    """Yields (label, bytes, accuracy or None) of what stands beside the parts of one seed."""
    for name, figures in summary["whole"].items():
        yield f"{_label(name)} whole", figures["bytes"][0], figures["accuracies"][0]
    planes = summary.get("planes") or {"bytes": []}
    for step in _PLANES if planes["bytes"] else ():
        label = f"bit planes, {2 * step} bits"
        yield label, sum(planes["bytes"][:step]), planes["accuracies"][step - 1]
    for name, nbytes in sorted((summary.get("peers") or {}).items()):
        if nbytes is not None:
            yield name, nbytes, None


def lines(section, found):
    """What a picture of accuracy over bytes shows.

    Args:
        section: `DeliverySection`.
        found: What `figures.summaries` returned.

    Returns:
        Dict of label -> list of (kilobytes, accuracy in percent), means over the seeds.
    """
    of_seeds = list(found[section.run].values())
    if not of_seeds:
        return {}
    drawn = {"bases alone": []}
    for chain in section.chains:
        points = _points([summary["chains"][chain] for summary in of_seeds])
        if chain.startswith("INT") and len(points) > 1:
            drawn["bases alone"].append(points[0])
        if budget(chain.partition(",")[0]):
            drawn.setdefault("bases alone, allocated", []).append(points[0])
        if chain.partition(",")[0] in ("INT4", "S1E3M3"):
            drawn[_label(chain)] = points
    for name in ("bases alone", "bases alone, allocated"):
        drawn[name] = sorted(drawn.pop(name, []))
    drawn = {name: points for name, points in drawn.items() if points}
    if all(summary.get("planes") for summary in of_seeds):
        drawn["bit planes"] = _points([summary["planes"] for summary in of_seeds])
    for name in _of_first(found[section.run], "whole"):
        figures = [summary["whole"][name] for summary in of_seeds]
        if all(figure.get("accuracies") for figure in figures):
            drawn[f"{_label(name)} whole"] = _points(figures)
    return drawn


def _points(figures):
    """Cumulative kilobytes and accuracy after each part, means over the seeds."""
    points = []
    for count in range(1, len(figures[0]["bytes"]) + 1):
        kilobytes = mean([sum(figure["bytes"][:count]) / 1e3 for figure in figures])
        accuracy = mean([100 * figure["accuracies"][count - 1] for figure in figures])
        points.append((kilobytes, accuracy))
    return points


def _label(chain):
    raw = ", as float32" if chain == RAW else ""
    names = [part.strip() for part in chain.split(",")]
    for place, name in enumerate(names):
        limit = budget(name)
        if limit is not None:
            names[place] = f"{limit[0]:g} {'%' if limit[1] else 'bits'} allocated"
    return ", ".join(names) + raw


def _of_first(of_seeds, key):
    return next((list(summary[key]) for summary in of_seeds.values()), [])


def _parts(section, found, chain):
    """List of (bytes of the parts, seconds of each), one a seed."""
    chains = [summary["chains"][chain] for summary in found[section.run].values()]
    return [(figures["bytes"], figures["seconds"]) for figures in chains]


def _kb(of_seeds):
    return mean([sum(sizes) / 1e3 for sizes in of_seeds])


def _read(section, found, key, chain):
    return values(found, Reading(section.run, key, chain))


def _mean(section, found, key, chain):
    return mean(list(_read(section, found, key, chain).values()))
