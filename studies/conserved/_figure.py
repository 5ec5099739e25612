"""The figure of the study, from the results alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from studies.collapse import _paper as paper
from studies.conserved._design import ARMS, NETWORKS
from studies.conserved._table import chosen, medians

MARKERS = {"relu": "o", "bottleneck": "s"}


def write_figure(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the figure, as SVG and as PNG on light and on dark."""
    return paper.write(
        lambda colours: figure(results, colours),
        folder / "conserved",
        "Conserved quantities during training",
        "Left: drift against learning rate; right: the part of the quantities that is left, against time.",
    )


def figure(results: dict[str, Any], colours: Mapping[str, str]) -> Figure:
    """Drift against the learning rate, and what is left along the way at the smallest one."""
    drawn = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    rates = results["constants"]["rates"]
    for arm, colour in zip(ARMS, ("c1", "c2", "c3", "c4"), strict=True):
        for network, marker in MARKERS.items():
            drift = medians(results, network, arm, "drift")
            style = {"color": colours[colour], "marker": marker, "markersize": 5}
            left.loglog(rates, drift, **style, label=ARMS[arm] if network == "relu" else None)
            runs = chosen(results, network, arm, rates[-1])
            line = "-" if network == "relu" else "--"
            right.plot(runs[0]["path"]["time"], runs[0]["path"]["retained"], line, color=colours[colour])
    slope = medians(results, "relu", "descent", "drift")[0] / rates[0] / 3
    left.loglog(rates, [rate * slope for rate in rates], ":", color=colours["muted"], label="slope 1")
    left.set(xlabel="learning rate", ylabel="drift of the quantities, relative")
    times = np.linspace(0, results["constants"]["time"], 60)
    decayed = [math.exp(-2 * results["constants"]["decay"] * t) for t in times]
    right.plot(times, decayed, ":", color=colours["muted"], linewidth=4, label="exp(−2λt), right")
    right.set(xlabel="time: learning rate × steps", ylabel=f"part left, learning rate {rates[-1]:g}")
    drawn.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    shapes = " and dashed lines: ".join(("circles and full lines: " + NETWORKS["relu"], NETWORKS["bottleneck"]))
    left.set_title(shapes.replace("and dashed", "\nsquares and dashed"), fontsize=8, color=colours["muted"], loc="left")
    return drawn
