"""Figures of representations: class means against the simplex, metrics against chance, and the simplex itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from weyl.report._canvas import INK, LINE, MUTED, SERIES, draw_svg, locator, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from weyl.geometry import Collapse, Profile, SimplexOptimum

__all__ = ["cosines", "layers", "levels", "means", "optimum", "shares"]

MOST = 30  # classes in a figure; the worst are shown
STRONGEST = 0.75  # opacity of a cell, so that its number can be read in a light and in a dark page
NUMBERS = 10  # classes up to which a cell has a number
LEAST = 1e-4  # of chance; below it a value is drawn at the edge
RELATIVE = ("nc1", "nc1_ratio", "cdnv", "nc2", "equinorm", "equiangular", "nc3", "nc4", "nc5", "sk_defect")
TURNS = (0.0, 0.9, -0.9, 1.8, -1.8, 2.7, -2.7)  # where else a name can go, in radians from outwards
PARTS = {"train": "training", "test": "held out"}
LABELS = {
    "nc1": "NC1",
    "nc1_ratio": "NC1, traces",
    "cdnv": "NC1, CDNV",
    "nc2": "NC2",
    "equinorm": "NC2, lengths",
    "equiangular": "NC2, angles",
    "nc3": "NC3",
    "nc4": "NC4",
    "nc5": "NC5",
    "sk_defect": "$S_k$ defect",
}
# A tetrahedron seen from the front and a little above, its last vertex on top, no edge behind another.
FLAT = np.array([[1.0, 0.0], [0.0, -1.0]])
VIEW = np.array([[0.985, 0.174, 0.0], [-0.052, 0.295, -0.954]])


def cosines(found: Collapse) -> str:
    r"""Draw the cosine of every two class means less :math:`-1/(k-1)`, its value in a simplex.

    Parameters
    ----------
    found : Collapse
        With at least two classes; of many, those with the largest shares of the defect are drawn.

    Returns
    -------
    str
        An ``<svg>`` element: one colour where two classes are too near, another where they are too far apart.
    """
    k = len(found.classes)
    order = _worst(found)
    lengths = np.sqrt(np.clip(np.diag(found.gram), 0, None))
    scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    gap = (found.gram * np.outer(scale, scale) + 1 / (k - 1))[np.ix_(order, order)]
    most = max(float(np.abs(gap[~np.eye(len(order), dtype=bool)]).max()), 0.1)
    names = [short(found.classes[c], 14) for c in order]

    def draw(ax: Axes) -> None:
        from matplotlib.patches import Rectangle

        for i, j in np.ndindex(*gap.shape):
            value = float(gap[i, j])
            face, strength = (LINE, 0.5) if i == j else (SERIES[1] if value > 0 else SERIES[0], abs(value) / most)
            ax.add_patch(
                Rectangle((j, i), 0.94, 0.94, facecolor=face, alpha=STRONGEST * min(1.0, strength), linewidth=0)
            )
            if len(order) <= NUMBERS and i != j:
                size = 8 if len(order) > 6 else 10
                ax.text(j + 0.47, i + 0.49, _signed(value), ha="center", va="center", fontsize=size, color=INK)
        small = 9 if len(order) <= 12 else 6.5
        ax.set_yticks([i + 0.47 for i in range(len(order))], names, fontsize=small)
        upright = max(map(len, names)) <= 3
        ax.set_xticks([i + 0.47 for i in range(len(order))], names, fontsize=small, rotation=0 if upright else 90)
        ax.set(xlim=(0, len(order)), ylim=(len(order), 0), aspect="equal")
        ax.grid(visible=False)
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)

    which = "" if len(order) == k else f" of the {len(order)} classes with the largest shares of the defect"
    text = (
        f"Cosines between class means{which} differ from -1/(k-1) = {-1 / (k - 1):.3f} by at most {most:.3f};"
        f" nearest together relative to a simplex: {_pairs(found)}."
    )
    return draw_svg("Angles between class means, against the simplex", text, draw, height=4.6)


def shares(found: Collapse) -> str:
    """Draw each class's share of the squared S_k defect, with the line of equal shares.

    Parameters
    ----------
    found : Collapse
        Of many classes, those with the largest shares are drawn.

    Returns
    -------
    str
        An ``<svg>`` element; classes above twice an equal share stand out.
    """
    k = len(found.classes)
    worst = found.worst_classes(MOST)

    def draw(ax: Axes) -> None:
        for place, (_, share) in enumerate(worst):
            ax.barh(place, share, height=0.68, color=SERIES[1] if share > 2 / k else SERIES[0], alpha=0.85, linewidth=0)
        ax.axvline(1 / k, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        ax.text(1 / k, -0.75, " equal shares", color=MUTED, fontsize=9, va="bottom")
        ax.set_yticks(range(len(worst)), [short(name, 18) for name, _ in worst], fontsize=9)
        ax.set(ylim=(len(worst) - 0.5, -0.6), xlabel="share of the squared defect")
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        ax.xaxis.set_major_locator(locator(5))
        ax.grid(axis="y", visible=False)
        ax.tick_params(length=0)

    text = f"{worst[0][0]} has {worst[0][1]:.0%} of the squared defect; an equal share would be {1 / k:.0%}."
    return draw_svg("Which classes break the symmetry", text, draw, height=1.1 + 0.24 * len(worst))


def levels(parts: Mapping[str, Collapse]) -> str:
    r"""Draw every metric between its floor (left edge) and chance (1), on a logarithmic scale.

    Parameters
    ----------
    parts : mapping of str to Collapse
        One or two, such as training and held-out data; the first is drawn filled, the second open.

    Returns
    -------
    str
        An ``<svg>`` element; intervals as lines.
    """
    first = next(iter(parts.values()))
    chosen = [name for name in RELATIVE if _relative(first, name, getattr(first, name)) is not None]
    heights = [_relative(found, name, getattr(found, name)) for found in parts.values() for name in chosen]
    most = max(2.5, *(2 * height for height in heights if height is not None))

    def draw(ax: Axes) -> None:
        for place, name in enumerate(chosen):
            for number, found in enumerate(parts.values()):
                at = _relative(found, name, getattr(found, name))
                if at is None:
                    continue
                y = place + 0.17 * (2 * number - 1) * (len(parts) > 1)
                colour = SERIES[number]
                low, high = (_relative(found, name, end) for end in found.intervals.get(name, (None, None)))
                if low is not None and high is not None:
                    ax.plot([low, high], [y, y], color=colour, linewidth=1.5, alpha=0.6, solid_capstyle="butt")
                face = "none" if number else colour
                # An arrow head where the value lies beyond the left edge.
                ax.plot([at], [y], "<" if at == LEAST else "o", color=colour, markerfacecolor=face, markersize=6.5)
        ax.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        ax.text(0.93, -0.72, "chance", color=MUTED, fontsize=9, ha="right", va="bottom")
        for number, name in enumerate(parts if len(parts) > 1 else ()):
            marker = "●○"[number]
            title = f"{marker} {PARTS.get(name, name)}"
            ax.text(0.01 + 0.26 * number, 1, title, color=SERIES[number], va="bottom", transform=ax.transAxes)
        ax.set_yticks(range(len(chosen)), [LABELS[name] for name in chosen], fontsize=9)
        ax.set(xscale="log", xlim=(LEAST * 0.8, most), ylim=(len(chosen) - 0.4, -0.7))
        ticks = [10.0**power for power in range(-4, math.floor(math.log10(most)) + 1)]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("height above the floor, in units of chance")
        ax.grid(axis="y", visible=False)
        ax.tick_params(length=0)

    told = ", ".join(f"{name} {_relative(first, name, getattr(first, name)):.3g}" for name in chosen)
    text = f"Zero is the best attainable value and one is chance. On {next(iter(parts))}: {told}."
    return draw_svg("Metrics between their floor and chance", text, draw, height=1.2 + 0.27 * len(chosen))


def means(found: Collapse) -> str:
    """Draw the centred class means, with the nearest regular simplex: a tetrahedron for four classes.

    For four classes all three dimensions of the means are seen from one side; otherwise their first two principal
    directions, with the part of their spread that lies in them.

    Parameters
    ----------
    found : Collapse
        With at least two classes.

    Returns
    -------
    str
        An ``<svg>`` element: dots are class means, rings the vertices of the nearest simplex of their span.
    """
    k = len(found.classes)
    centred = found.means - found.means.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    left, sizes = left[:, : k - 1], sizes[: k - 1]
    # Signs of singular vectors are arbitrary; one convention gives the same picture everywhere.
    left = left * np.where(left[np.abs(left).argmax(0), range(left.shape[1])] < 0, -1.0, 1.0)
    solid = k == 4 and left.shape[1] == 3
    view = VIEW if solid else np.eye(2, left.shape[1])
    if k in (3, 4) and left.shape[1] == k - 1:
        # Turned so that every class has the place that it has in the simplex of `optimum`.
        view = (VIEW if solid else FLAT) @ (_helmert(k) @ left)
    points = (left * sizes) @ view.T
    vertices = (left * sizes.mean()) @ view.T
    share = 1.0 if solid else float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-300))
    title = "Class means and the nearest tetrahedron" if solid else "Class means in their first two directions"

    def draw(ax: Axes) -> None:
        if k <= 8 and left.shape[1] == k - 1:
            _edges(ax, vertices, LINE, 1.4)
            _edges(ax, points, MUTED, 0.8, alpha=0.7)
            _faces(ax, points)
        for c, (point, vertex) in enumerate(zip(points, vertices, strict=True)):
            colour = SERIES[c % len(SERIES)]
            ax.plot(*zip(point, vertex, strict=True), color=colour, linewidth=1, alpha=0.6)
            ax.plot(*vertex, "o", color=colour, markerfacecolor="none", markersize=11, markeredgewidth=1.1, alpha=0.7)
            ax.plot(*point, "o", color=colour, markersize=6.5, zorder=4)
        _named(ax, points, found.classes)

    text = (
        f"{k} class means; the two directions shown hold {share:.0%} of their spread."
        if not solid
        else f"Four class means in three dimensions; NC2 is {found.nc2:.3f}, zero for a regular tetrahedron."
    )
    return draw_svg(title, text, draw, height=4.2)


def layers(profile: Profile) -> str:
    """Draw NC1 and the accuracy of the nearest class mean, layer by layer.

    Parameters
    ----------
    profile : Profile
        What was measured.

    Returns
    -------
    str
        An ``<svg>`` element; a ring marks the layer after which the tail could be cut.
    """
    names = [row.layer for row in profile.layers]
    accuracy = [row.accuracy for row in profile.layers]
    nc1 = [math.nan if row.nc1_ratio is None else row.nc1_ratio for row in profile.layers]
    top = max((value for value in nc1 if math.isfinite(value)), default=1.0) or 1.0
    cut = profile.cut

    def draw(ax: Axes) -> None:
        places = list(range(len(names)))
        ax.plot(places, [value / top for value in nc1], "s--", color=SERIES[1], markersize=4.5, linewidth=1.4)
        ax.plot(places, accuracy, "o-", color=SERIES[0], markersize=5)
        if cut is not None:
            at = names.index(cut.layer)
            ax.plot([at], [accuracy[at]], "o", color=SERIES[2], markersize=13, markerfacecolor="none")
        ax.text(0.0, 1.08, "● accuracy of the nearest class mean", color=SERIES[0], fontsize=9, transform=ax.transAxes)
        told = f"■ spread within classes over between (1 is {top:.2g})"
        ax.text(0.0, 1.02, told, color=SERIES[1], fontsize=9, transform=ax.transAxes)
        step = math.ceil(len(names) / 12)
        shown = [short(name, 14) for name in names[::step]]
        steep = sum(map(len, shown)) > 50
        angle, side = (60, "right") if steep else (0, "center")
        ax.set_xticks(places[::step], shown, fontsize=8, rotation=angle, ha=side)
        ax.set(ylim=(0, 1.04), xlim=(-0.3, len(names) - 0.7), xlabel="layer, from input to output")
        ax.grid(axis="x", visible=False)

    text = (
        f"The nearest class mean is right on {accuracy[0]:.0%} after {names[0]} and on {accuracy[-1]:.0%} after"
        f" {names[-1]}; the whole network on {profile.accuracy:.0%}."
    )
    return draw_svg("From layer to layer", text, draw, height=3.5)


def optimum(best: SimplexOptimum, radii: Sequence[float] = ()) -> str:
    """Draw the logits of least risk: a triangle or a tetrahedron for 3 or 4 classes, otherwise risk against radius.

    Parameters
    ----------
    best : SimplexOptimum
        The optimum.
    radii : sequence of float, optional
        Radii of the curve; up to twice that of the optimum unless given.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    k = len(best.vertices)
    if k in (3, 4):
        return _vertices(best, k)
    from weyl.geometry import simplex_optimum

    grid = list(radii) or list(np.linspace(best.radius / 50, 2 * best.radius, 100))
    risks = [simplex_optimum(k, radius, best.p).risk for radius in grid]

    def draw(ax: Axes) -> None:
        ax.plot(grid, risks, color=SERIES[0])
        ax.plot([best.radius], [best.risk], "o", color=SERIES[1], markersize=8, zorder=5)
        ax.annotate(
            f"R = {best.radius:g}: {best.risk:.4g} nats",
            (best.radius, best.risk),
            xytext=(8, 10),
            textcoords="offset points",
            color=SERIES[1],
        )
        ax.axhline(math.log(k), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        end = (grid[-1], math.log(k))
        ax.annotate(f"guessing, log {k}", end, (0, 4), textcoords="offset points", color=MUTED, fontsize=9, ha="right")
        ax.set(yscale="log", xlim=(0, grid[-1]))
        ax.set(xlabel="radius of the ball of logits", ylabel="least cross-entropy, nats")
        ax.xaxis.set_major_locator(locator(6))

    text = f"For {k} classes the least cross-entropy at radius {best.radius:g} is {best.risk:.6g} nats."
    return draw_svg("Least risk against the radius of the logits", text, draw)


def _vertices(best: SimplexOptimum, k: int) -> str:
    """The simplex itself."""
    vertices = np.asarray(best.vertices)
    points = vertices @ _helmert(k).T @ (VIEW if k == 4 else FLAT).T

    def draw(ax: Axes) -> None:
        _edges(ax, points, SERIES[0], 1.6)
        _faces(ax, points)
        for c, point in enumerate(points):
            ax.plot([0, point[0]], [0, point[1]], color=LINE, linewidth=1)
            ax.plot(*point, "o", color=SERIES[c % len(SERIES)], markersize=8, zorder=4)
        _named(ax, points, [f"class {c}" for c in range(k)])

    side = float(np.linalg.norm(vertices[0] - vertices[1]))
    text = f"The best logits of {k} classes: a regular simplex of side {side:.4g} and radius {best.radius:g}."
    return draw_svg("The simplex of least risk", text, draw, height=4.0)


def _helmert(k: int) -> Any:
    """Orthonormal coordinates of what is orthogonal to (1, …, 1), a fixed choice: Helmert's."""
    basis = np.array([[1.0] * i + [-float(i)] + [0.0] * (k - i - 1) for i in range(1, k)])
    return basis / np.linalg.norm(basis, axis=1, keepdims=True)


def _faces(ax: Axes, points: Any) -> None:
    """A breath of colour on every triangle, so that a tetrahedron looks solid."""
    if len(points) in (3, 4):
        for face in combinations(points, 3):
            ax.fill(*zip(*face, strict=True), color=SERIES[0], alpha=0.05, linewidth=0, zorder=0)


def _edges(ax: Axes, points: Any, colour: str, width: float, alpha: float = 1.0) -> None:
    for i, j in combinations(range(len(points)), 2):
        ax.plot(*zip(points[i], points[j], strict=True), color=colour, linewidth=width, alpha=alpha, zorder=1)


def _named(ax: Axes, points: Any, names: Sequence[str]) -> None:
    """Names beside the points, outwards and apart, in a picture without axes whose sides are equal."""
    middle = points.mean(0)
    reach = float(np.abs(points - middle).max()) or 1.0
    taken: list[Any] = list(points)
    for c, (point, name) in enumerate(zip(points, names, strict=True)):
        if len(points) > MOST:
            break
        away = point - middle
        first = math.atan2(away[1], away[0])
        spots = [point + 0.15 * reach * np.array([math.cos(first + turn), math.sin(first + turn)]) for turn in TURNS]
        free = [spot for spot in spots if min(np.linalg.norm(spot - other) for other in taken) > 0.1 * reach]
        at = (free or spots)[0]
        taken.append(at)
        side = at[0] - point[0]
        ha = "left" if side > 0.07 * reach else "right" if side < -0.07 * reach else "center"
        ax.text(
            at[0], at[1], short(name, 16), color=SERIES[c % len(SERIES)], ha=ha, va="center", fontsize=9.5, zorder=5
        )
    wide = 1.25 + 0.03 * min(16, max(map(len, names)))
    low, high = points.min(0), points.max(0)
    centre, half = (low + high) / 2, float((high - low).max()) / 2 or 1.0
    ax.set(xlim=(centre[0] - wide * half, centre[0] + wide * half), aspect="equal")
    ax.set(ylim=(centre[1] - 1.25 * half, centre[1] + 1.25 * half))
    ax.set_axis_off()


def _relative(found: Collapse, name: str, value: float | None) -> float | None:
    """Where a value lies between floor (0) and chance (1); at least `LEAST`."""
    levels = found.reference.get(name)
    if value is None or levels is None or levels.chance is None or not math.isfinite(value):
        return None
    floor = levels.floor or 0.0
    if not levels.chance > floor:
        return None
    return max(LEAST, (value - floor) / (levels.chance - floor))


def _worst(found: Collapse) -> list[int]:
    """Indices of the classes to draw: all, or the worst in their own order."""
    k = len(found.classes)
    return sorted(np.argsort(-found.shares, kind="stable")[:MOST].tolist()) if k > MOST else list(range(k))


def _pairs(found: Collapse) -> str:
    near = [f"{a} and {b}" for a, b, value in found.worst_pairs(8) if value > 0][:2]
    return ", ".join(near) or "none"


def _signed(value: float) -> str:
    return "0" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−").replace("0.", ".", 1)
