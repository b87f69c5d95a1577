"""What finished runs say together: means, spreads, and differences seed by seed."""

import math
import statistics

from tff_sims.tables import budgets, deliveries, widths
from tff_sims.tables.grid import Grid
from tff_sims.tables.plan import Claim, WidthSection
from tff_sims.tables.readings import mean, paired, plain, std, summed, with_spread

_BYTES = {
    "parameter_bytes": "parameters",
    "downlink_bytes_per_client_round": "down",
    "uplink_bytes_per_client_round": "up",
    "both_bytes_per_client_round": "both",
    "peak_memory_bytes": "peak",
}


def summaries(table, folder):
    """What the table's finished runs say.

    Returns:
        Dict of run name -> dict of seed -> the run's summary, and in it "error": word error rate or
        share of wrong answers in percent, the mean over the run's last evaluations (`plan.Run`);
        and where there are accuracies at several widths, "errors" and "shift_errors" likewise, each
        a dict of the width, a str, -> percent; of a delivery what `deliveries.derived`
        returns, and of a federation under budgets what `budgets.derived` does.
    """
    found = {}
    for name, run in table.runs.items():
        found[name] = {}
        for seed in table.seeds:
            summary = folder.summary(name, seed)
            if summary is None:
                continue
            late = _last_evaluations(run, folder.rounds(name, seed))
            found[name][seed] = {
                **summary,
                **_both_ways(summary),
                "error": _error(summary, late),
                **_errors(summary),
                **deliveries.derived(summary),
                **budgets.derived(summary, [row["accuracies"] for row in late]),
            }
    return found


def _last_evaluations(run, rounds):
    """Rounds over whose evaluations a run's error is the mean; empty for its summary's alone."""
    late = [row for row in rounds if row["round"] > (1 - run.averaged) * run.rounds]
    return [row for row in late if row["error"] is not None]


def _error(summary, late):
    errors = [row["error"] for row in late]
    return statistics.fmean(errors) if errors else 100 * (1 - summary["accuracy"])


def _both_ways(summary):
    """Bytes down and up together, where a summary has both."""
    ways = [summary.get(f"{way}_bytes_per_client_round") for way in ("downlink", "uplink")]
    return {} if None in ways else {"both_bytes_per_client_round": sum(ways)}


def _errors(summary):
    found = {}
    for key in ("accuracies", "shift_accuracies"):
        if key in summary:
            errors = {width: 100 * (1 - share) for width, share in summary[key].items()}
            found[key.replace("accuracies", "errors")] = errors
    return found


def section_grids(section, table, found):
    """A section as a list of `Grid`s.

    Args:
        section: `plan.Section`, `plan.WidthSection`, `deliveries.DeliverySection` or
            `budgets.BudgetSection`.
        table: `plan.Table`.
        found: What `summaries` returned.
    """
    if isinstance(section, WidthSection):
        return widths.grids(section, found)
    if isinstance(section, deliveries.DeliverySection):
        return deliveries.grids(section, found)
    if isinstance(section, budgets.BudgetSection):
        return budgets.grids(section, found)
    return [section_grid(section, table, found)]


def section_rows(section, found):
    """Figures of a section's rows.

    Args:
        section: `plan.Section`.
        found: What `summaries` returned.

    Returns:
        List of dicts: label, run, seeds (how many are finished), error and its error_std (percent,
        mean and sample standard deviation over the seeds), difference and difference_std (points
        above the baseline, seed by seed), relative (difference in percent of the baseline's
        error), the mean bytes and rounds_per_minute, and for all of these a key with "_ratio", the
        share of the baseline's. What is not there is None.
    """
    (baseline,) = (row.run for row in section.rows if row.label == section.baseline)
    return [_row(row, baseline, found) for row in section.rows]


def _row(row, baseline, found):
    own, base = found[row.run], found[baseline]
    errors = [summary["error"] for summary in own.values()]
    differences = [] if row.run == baseline else paired(found, row.run, baseline)
    figures = {
        "label": row.label,
        "run": row.run,
        "seeds": len(own),
        "error": mean(errors),
        "error_std": std(errors),
        "difference": mean(differences),
        "difference_std": std(differences),
        "relative": None,
    }
    shared = [base[seed]["error"] for seed in sorted(set(own) & set(base))]
    if differences and mean(shared) > 0:
        figures["relative"] = 100 * figures["difference"] / mean(shared)
    for key in [*_BYTES, "rounds_per_minute"]:
        figures[key] = mean([s[key] for s in own.values() if s.get(key) is not None])
        reference = mean([s[key] for s in base.values() if s.get(key) is not None])
        known = figures[key] is not None and reference
        figures[f"{key}_ratio"] = figures[key] / reference if known else None
    return figures


def section_grid(section, table, found):
    """A section as a `Grid`."""
    rows = section_rows(section, found)
    for row in rows:
        row["error_text"] = with_spread(row["error"], row["error_std"], ".2f")
        row["difference_text"] = with_spread(row["difference"], row["difference_std"], "+.2f")
        row.update({f"{key}_mb": row[key] and row[key] / 1e6 for key in _BYTES})
    columns = [
        ("label", "", ""),
        ("error_text", f"{table.metric} %", "s"),
        ("difference_text", f"− {section.baseline}", "s"),
        ("relative", "rel. %", "+.1f"),
    ]
    for key, heading in _BYTES.items():
        columns += [(f"{key}_mb", f"{heading} MB", ".3f"), (f"{key}_ratio", "×", ".3f")]
    columns += [("rounds_per_minute", "rounds/min", ".1f"), ("rounds_per_minute_ratio", "×", ".2f")]
    columns.append(("seeds", "seeds", "d"))
    empty = {key for key, _, _ in columns if all(row.get(key) is None for row in rows)}
    return Grid(section.name, section.title, [c for c in columns if c[0] not in empty], rows)


def target_grid(table, found):
    """The table's targets, what was measured, and whether they are met, as a `Grid`."""
    rows = []
    for target in table.targets:
        told = _claimed if isinstance(target, Claim) else _targeted
        row = told(target, table, found)
        known, met = row.pop("known"), row.pop("met")
        judged = ("met" if met else "NOT met") if known else "not measured"
        if known and table.quick:
            judged = "too rough to judge"
        seeds = f"{row['seeds']} of {row.pop('planned')}"
        measured = row["measured"] if known else "-"
        rows.append({**row, "measured": measured, "verdict": judged, "seeds": seeds})
    columns = [
        ("what", "target", ""),
        ("wanted", "wanted", ""),
        ("measured", "measured", ""),
        ("verdict", "", ""),
        ("seeds", "seeds", ""),
    ]
    return Grid("targets", "Targets", columns, rows)


def _targeted(target, table, found):
    """What a `plan.Target` says, a dict."""
    (section,) = (part for part in table.sections if part.name == target.section)
    (row,) = (row for row in section_rows(section, found) if row["label"] == target.label)
    (baseline,) = (part.run for part in section.rows if part.label == section.baseline)
    of = f"{target.section}, {target.label}"
    if target.key == "error":
        points, percent = target.limit
        known = row["relative"] is not None
        above, above_percent = plain(row["difference"], 2), plain(row["relative"], 1)
        return dict(
            what=f"{of}: {table.metric} above {section.baseline} ({baseline})",
            wanted=f"at most {points:g} points, or {percent:g} %",
            measured=known and f"{above:+.2f} points, {above_percent:+.1f} %",
            known=known,
            met=known and (row["difference"] <= points or row["relative"] <= percent),
            seeds=row["seeds"],
            planned=len(table.seeds),
        )
    figure = row[target.key]
    known = figure is not None
    return dict(
        what=f"{of}: {target.key.replace('_', ' ')}",
        wanted=f"at most {target.limit:g}",
        measured=known and f"{figure:.3f}",
        known=known,
        met=known and figure <= target.limit,
        seeds=row["seeds"],
        planned=len(table.seeds),
    )


def _claimed(claim, table, found):
    """What a `plan.Claim` says, a dict."""
    sums = summed(found, claim.terms)
    runs = [table.runs[reading.run] for _, reading in claim.terms]
    known = bool(sums)
    return dict(
        what=claim.what,
        wanted=f"at most {claim.limit:g} {claim.unit}",
        measured=known and f"{with_spread(mean(sums), std(sums), '+.2f')} {claim.unit}",
        known=known,
        met=known and mean(sums) <= claim.limit,
        seeds=len(sums),
        planned=min(len(run.seeds or table.seeds) for run in runs),
    )


def effect_grid(table, found):
    """What taking away each part of the method does to the error, as a `Grid`."""
    rows = []
    for effect in table.effects:
        differences = paired(found, effect.without, effect.with_it)
        rows.append(
            {
                "part": effect.part,
                "without": effect.without.text,
                "with": effect.with_it.text,
                "by_seed": differences,
                "difference": with_spread(mean(differences), std(differences), "+.2f"),
                "verdict": verdict(differences),
            }
        )
    columns = [
        ("part", "taken away", ""),
        ("without", "run", ""),
        ("with", "against", ""),
        ("difference", f"{table.metric} points more", "s"),
        ("verdict", "", ""),
    ]
    notes = [
        "An effect shows where every seed has the same sign and the mean is more than twice its "
        "standard error; with few seeds that is a weak test, and is meant as no more."
    ]
    return Grid("effects", "What each of the methods does", columns, rows, notes)


def verdict(differences):
    """Whether differences, one a seed, show an effect, in words."""
    if len(differences) < 2:
        return "too few seeds to say"
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    same_sign = all(d > 0 for d in differences) or all(d < 0 for d in differences)
    if not same_sign or abs(mean) <= 2 * spread / math.sqrt(len(differences)):
        return "does not show"
    return "shows: worse without" if mean > 0 else "shows: better without"
