"""The figures of the study, from the results alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

import weyl
from studies.collapse import _paper as paper
from studies.collapse._design import LIMITS
from studies.collapse._table import number

Colours = Mapping[str, str]
SERIES = ("c1", "c2", "c3", "c4")
# Camera: turned about the vertical axis, raised, and so many radii away.
AZIMUTH, ELEVATION, DISTANCE = 70.0, 15.0, 6.0

# Columns of the trajectories: title, and the arms with their names, each column beside the base.
COLUMNS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Activation", (("tanh-sgd", "tanh"), ("sigmoid-sgd", "sigmoid"))),
    ("Optimiser and decay", (("relu-adam", "Adam"), ("no-decay-sgd", "no decay"), ("no-decay-adam", "Adam, no decay"))),
    ("Labels", (("random-relu-sgd", "random"), ("random-relu-adam", "random, Adam"))),
    (
        "Class sizes, weights",
        (("sizes", "sizes 100:1"), ("sizes-simplex", "sizes 100:1, fixed simplex"), ("weights", "weights 100:1")),
    ),
    (
        "Head, fixed",
        (
            ("simplex", "simplex"),
            ("signed-simplex", "simplex, no last ReLU"),
            ("gaussian", "random vectors"),
            ("parameter-free", "parameter-free simplex"),
        ),
    ),
    ("Network", (("cnn", "convolutional"), ("no-norm", "no batch norm."), ("no-norm-tanh", "no b. n., tanh"))),
)
ROWS = (("train", "nc1_ratio", "NC1, train"), ("test", "nc1_ratio", "NC1, test"), ("train", "nc2", "NC2, train"))


def write_figures(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write both figures, as SVG and as PNG on light and on dark."""
    end = results["picture"]["final"]["train"]
    tetrahedron = paper.write(
        lambda colours: tetrahedron_figure(results["picture"], colours),
        folder / "tetrahedron",
        "Class means of four classes move to the vertices of a regular tetrahedron",
        f"Features of a network at three moments of its training; at the end NC2 is {number(end['nc2'])}.",
    )
    trajectories = paper.write(
        lambda colours: trajectory_figure(results, colours),
        folder / "trajectories",
        "Collapse metrics during training",
        "NC1 on training and held-out data and NC2, for each factor of the study; the README has the numbers.",
    )
    return [*tetrahedron, *trajectories]


def tetrahedron_figure(picture: dict[str, Any], colours: Colours) -> Figure:
    """Draw features, class means and their paths at three moments, from one point of view."""
    panels = picture["panels"]
    figure = Figure(figsize=(3.6 * len(panels), 4.0))
    for i, panel in enumerate(panels):
        ax = figure.add_axes((i / len(panels), 0.0, 1 / len(panels), 1.0))
        ax.set(xlim=(-1.24, 1.24), ylim=(-1.0, 1.75), aspect="equal")
        ax.axis("off")
        _panel(ax, picture, panel, colours, last=i == len(panels) - 1)
        at = picture["steps"].index(panel["step"])
        epoch = panel["epoch"]
        title = "before training" if not epoch else f"after {epoch:.0f} epoch{'s' * (round(epoch) != 1)}"
        inside = 100 * (1 - picture["outside"][at])
        ax.text(0, 1.58, title, ha="center", fontsize=13, color=colours["ink"])
        shown = "> 99.9" if inside > 99.9 else f"{inside:.0f}"
        ax.text(
            0, 1.43, f"{shown} % of the variance lies in this space", ha="center", fontsize=9, color=colours["muted"]
        )
    return figure


def _panel(ax: Axes, picture: dict[str, Any], panel: dict[str, Any], colours: Colours, last: bool) -> None:
    turn = _view()
    ideal = weyl.simplex(4, 3).numpy() @ turn
    _edges(ax, ideal, colours)
    upto = picture["steps"].index(panel["step"]) + 1
    paths = np.array(picture["means"][:upto]) @ turn
    clouds = np.array(panel["points"]) @ turn
    for c in np.argsort(-clouds[:, :, 1].mean(1)):  # the farthest first
        flat, near = _project(clouds[c])
        size = 13 * float(near.mean()) ** 2
        ax.scatter(*flat.T, s=size, color=colours[SERIES[c]], alpha=0.45, linewidths=0, zorder=4)
    corners, _ = _project(ideal)
    for c in np.argsort(-paths[-1, :, 1]):
        colour = colours[SERIES[c]]
        flat, near = _project(paths[:, c])
        if len(flat) > 1:
            ax.plot(*flat.T, color=colours["paper"], linewidth=4, zorder=5)
            ax.plot(*flat.T, color=colour, linewidth=1.9, zorder=5)
            ax.plot(*flat[0], "o", markersize=4, color=colours["paper"], markeredgecolor=colour, zorder=6)
        ring = {"markeredgecolor": colours["paper"], "markeredgewidth": 1.5}
        ax.plot(*flat[-1], "o", markersize=10.5 * near[-1], color=colour, zorder=7, **ring)
        if last:
            place = corners[c] * (1 + 0.17 / np.linalg.norm(corners[c]))
            name = str(picture["classes"][c])
            ax.text(*place, name, ha="center", va="center", fontsize=15, color=colour, weight="bold")


def _edges(ax: Axes, ideal: np.ndarray, colours: Colours) -> None:
    """The regular tetrahedron; an edge that its body hides is dashed."""
    flat, _ = _project(ideal)
    camera = np.array([0.0, -DISTANCE, 0.0])
    # a face is opposite to a corner, and its outward normal is minus that corner
    seen = [float(-corner @ (camera + corner / 3)) > 0 for corner in ideal]
    for face in (c for c in range(4) if seen[c]):
        ax.fill(*np.delete(flat, face, axis=0).T, color=colours["muted"], alpha=0.06, linewidth=0, zorder=1)
    for i in range(4):
        for j in range(i):
            hidden = not any(seen[c] for c in range(4) if c not in (i, j))
            style: dict[str, Any] = {"linestyle": (0, (3, 3)), "linewidth": 0.9} if hidden else {"linewidth": 1.3}
            ax.plot(*flat[[i, j]].T, color=colours["muted"], alpha=0.6, zorder=2, **style)


def _view() -> np.ndarray:
    """Rotation from the coordinates of `weyl.simplex` to the camera's: right, away, up."""
    side, low = 2 * math.sqrt(2) / 3, -1 / 3
    angles = np.radians([90, 210, 330])
    standing = np.array([[0, 0, 1], *([side * math.cos(a), side * math.sin(a), low] for a in angles)])
    left, _, right = np.linalg.svd(weyl.simplex(4, 3).numpy().T @ standing)
    a, e = np.radians(AZIMUTH), np.radians(ELEVATION)
    about = np.array([[math.cos(a), math.sin(a), 0], [-math.sin(a), math.cos(a), 0], [0, 0, 1]])
    raised = np.array([[1, 0, 0], [0, math.cos(e), math.sin(e)], [0, -math.sin(e), math.cos(e)]])
    return left @ right @ about @ raised


def _project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perspective: places on the paper, and how near each point is (1 at the centre)."""
    near = DISTANCE / (DISTANCE + points[:, 1])
    return points[:, [0, 2]] * near[:, None], near


def trajectory_figure(results: dict[str, Any], colours: Colours) -> Figure:
    """Draw metrics during training: a column for each factor, median and range over seeds."""
    figure = Figure(figsize=(2.45 * len(COLUMNS), 6.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    grid = figure.subplots(len(ROWS), len(COLUMNS), sharex=True, sharey="row", squeeze=False)
    runs = results["runs"]
    chance = results["references"]
    for column, (title, arms) in enumerate(COLUMNS):
        shown = [("base", "base", colours["muted"])]
        shown += [(arm, name, colours[SERIES[i]]) for i, (arm, name) in enumerate(arms)]
        shown = [item for item in shown if any(run["arm"]["name"] == item[0] for run in runs)]
        for row, (part, metric, label) in enumerate(ROWS):
            ax = grid[row][column]
            for arm, _, colour in shown:
                _curve(ax, [run for run in runs if run["arm"]["name"] == arm], part, metric, colour)
            _axes(ax, metric, chance[part][metric]["chance"], colours, last=column == len(COLUMNS) - 1)
            if column == 0:
                ax.set_ylabel(label, fontsize=11, color=colours["ink"])
        top = grid[0][column]
        top.set_title(title + "\n" * 5, loc="left", fontsize=11, linespacing=1.25)
        for i, (_, name, colour) in enumerate(shown):
            top.text(0, 1.45 - 0.09 * i, name, color=colour, fontsize=9, transform=top.transAxes)
        grid[-1][column].set_xlabel("epoch")
    return figure


def _axes(ax: Axes, metric: str, chance: float, colours: Colours, last: bool) -> None:
    ax.set(xscale="log", xlim=(0.9, None))
    ax.set_yscale("log")
    ax.axhline(LIMITS[metric], color=colours["muted"], linewidth=0.9, linestyle=(0, (1, 2)))
    if metric == "nc2":
        ax.axhline(chance, color=colours["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
    ax.xaxis.set_major_locator(FixedLocator([1, 10, 100]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.tick_params(which="both", length=0)
    if last:
        levels = [(LIMITS[metric], "limit"), *([(chance, "chance")] if metric == "nc2" else [])]
        for level, name in levels:
            place = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 8.5}
            ax.text(1.03, level, name, color=colours["muted"], **place)


def _curve(ax: Axes, runs: Sequence[dict[str, Any]], part: str, metric: str, colour: str) -> None:
    """Median over seeds, and the range behind it, from the first epoch on."""
    epochs = runs[0]["trajectory"]["epoch"]
    values = np.array([run["trajectory"][part][metric] for run in runs], dtype=float)
    kept = [i for i, epoch in enumerate(epochs) if epoch >= 1]
    at, values = [epochs[i] for i in kept], values[:, kept]
    ax.fill_between(at, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
    ax.plot(at, np.median(values, 0), color=colour)
