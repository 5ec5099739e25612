"""The table of the README, from the results alone."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import numpy as np

from studies.conserved._design import ARMS, NETWORKS

BEGIN, END = "<!-- conserved:table -->", "<!-- conserved:end -->"


def chosen(results: dict[str, Any], network: str, arm: str, rate: float | None = None) -> list[dict[str, Any]]:
    """Runs of one network and one arm, and of one learning rate if given."""
    return [
        run
        for run in results["runs"]
        if run["network"] == network and run["arm"] == arm and rate in (None, run["rate"])
    ]


def medians(results: dict[str, Any], network: str, arm: str, name: str) -> list[float]:
    """Median over seeds of a number of the runs, for every learning rate."""
    rates = results["constants"]["rates"]
    return [median(run[name] for run in chosen(results, network, arm, rate)) for rate in rates]


def fitted_order(rates: list[float], drifts: list[float]) -> float:
    """Slope of log drift against log rate, by least squares: 1 if the drift is proportional to the rate.

    Parameters
    ----------
    rates, drifts : list of float
        As many, positive.
    """
    return float(np.polyfit(np.log(rates), np.log(drifts), 1)[0])


def table(results: dict[str, Any]) -> str:
    """One row for every network and arm."""
    rates = results["constants"]["rates"]
    expected = math.exp(-2 * results["constants"]["decay"] * results["constants"]["time"])
    lines = [
        f"| | drift at rate {rates[0]:g} | at rate {rates[-1]:g} | order | retained at rate {rates[-1]:g} "
        "| control: first layer, at the same rate | order of the control |",
        "|---|---|---|---|---|---|---|",
    ]
    for network, title in NETWORKS.items():
        lines.append(f"| **{title}** | | | | | | |")
        for arm, name in ARMS.items():
            drift, control, kept = (medians(results, network, arm, what) for what in ("drift", "control", "retained"))
            orders = (fitted_order(rates, values) for values in (drift, control))
            order, order_control = (f"{order:.2f}" for order in orders)
            retained = f"{kept[-1]:.4f}" + (f" (exp(−2λt) = {expected:.4f})" if arm == "decay" else "")
            lines.append(
                f"| {name} | {drift[0]:.2g} | {drift[-1]:.2g} | {order} | {retained} | {control[-1]:.2g} "
                f"| {order_control} |"
            )
    return "\n".join(lines) + "\n"


def with_table(text: str, results: dict[str, Any]) -> str:
    """Return the README with the table between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(results)}{END}{after}"
