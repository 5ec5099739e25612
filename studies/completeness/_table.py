"""The table of the README, from the results alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studies.completeness._design import FAMILIES

BEGIN, END = "<!-- completeness:table -->", "<!-- completeness:end -->"
Run = dict[str, Any]


def verdict(run: Run) -> str:
    """What the rank says of the group.

    Returns
    -------
    str
        ``exact``: nothing is lost but by the group; ``beside``: but by it and what the design adds; ``more`` is lost;
        ``less`` is lost than by the group, which must not be; ``unclear`` if the rank is in doubt; ``idle`` if some
        ReLU never switches on these inputs, so that more may be lost.
    """
    if run["deficiency"] < run["at_rest"]:
        return "less"
    if not run["clear"]:
        return "unclear"
    if not run["switching"]:
        return "idle"
    if run["deficiency"] == run["at_rest"]:
        return "exact"
    return "beside" if run["deficiency"] == run["at_rest"] + run["beside"] else "more"


def counts(runs: Sequence[Run]) -> dict[str, int]:
    """Number of runs of each verdict."""
    found = dict.fromkeys(("exact", "beside", "more", "idle", "unclear", "less"), 0)
    for run in runs:
        found[verdict(run)] += 1
    return found


def table(results: dict[str, Any]) -> str:
    """Write the table: one row a family, and all together.

    Parameters
    ----------
    results : dict
        As they are read from the results file.
    """
    lines = [
        "| | networks | group alone | with what is known beside it | more is lost | a ReLU never switches | unclear |"
        " less is lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, family in FAMILIES.items():
        runs = [run for run in results["runs"] if run["family"] == name]
        if runs:
            lines.append(_row(family.title, runs))
    lines.append(_row("**all**", results["runs"]))
    return "\n".join([*lines, "", summary(results["runs"])]) + "\n"


def summary(runs: Sequence[Run]) -> str:
    """Say the fractions in a sentence."""
    found = counts(runs)
    settled = len(runs) - found["idle"] - found["unclear"]
    plain = [run for run in runs if not run["beside"]]
    alone = counts(plain)
    open_ = len(plain) - alone["idle"] - alone["unclear"]
    return (
        f"Where every ReLU switches: P − rank is the dimension of the group in {alone['exact']} of {open_} networks of"
        f" which theory knows nothing beside it ({_percent(alone['exact'], open_)}), and that with what is known"
        f" beside it in {found['exact'] + found['beside']} of {settled} of all"
        f" ({_percent(found['exact'] + found['beside'], settled)}). Of all {len(runs)} networks, idle ReLUs included,"
        f" {found['exact'] + found['beside']} agree ({_percent(found['exact'] + found['beside'], len(runs))})."
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _row(title: str, runs: Sequence[Run]) -> str:
    return f"| {title} | {len(runs)} | {' | '.join(str(n or '') for n in counts(runs).values())} |"


def with_table(text: str, results: dict[str, Any]) -> str:
    """Return the README with the table between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(results)}{END}{after}"
