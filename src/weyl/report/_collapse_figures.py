"""Figures of representations: class means against the simplex, metrics against chance, and the simplex itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from weyl.report._canvas import INK, LINE, MUTED, SERIES, draw_svg, locator, short
from weyl.report._collapse import cosine_excess, pair_excess

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from weyl.geometry import Collapse, Profile, SimplexOptimum

__all__ = ["cosines", "layers", "levels", "means", "optimum", "shares"]

MOST = 30  # classes in a figure; the worst are shown
STRONGEST = 0.75  # opacity of a cell, so that its number can be read in a light and in a dark page
SHOWN = 40  # rows of layers that have a name
NUMBERS = 10  # classes up to which a cell has a number
LEAST = 1e-4  # of chance; below it a value is drawn at the edge
RING = 5  # classes from which names stand in a ring around the picture
TURNS = (0.0, 0.9, -0.9, 1.8, -1.8, 2.7, -2.7)  # where else a name can go, in radians from outwards
PARTS = {"train": "training", "test": "held out"}
LABELS = {
    "nc1": "NC1, pseudo-inverse",
    "nc1_ratio": "NC1, traces",
    "cdnv": "NC1, CDNV",
    "nc2": "NC2",
    "equinorm": "NC2, lengths",
    "equiangular": "NC2, angles",
    "nc3": "NC3, simplex",
    "duality": "NC3, self-duality",
    "nc4": "NC4",
    "nc5": "NC5",
    "sk_defect": "Sₖ defect",
}
RELATIVE = tuple(LABELS)
# A tetrahedron seen from the front and a little above, its last vertex on top, no edge behind another.
FLAT = np.array([[1.0, 0.0], [0.0, -1.0]])
REAR = (0, 1)  # its edge behind the others
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
    gap = cosine_excess(found)[np.ix_(order, order)]
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
                size = 9 if len(order) > 6 else 11
                ax.text(j + 0.47, i + 0.49, _signed(value), ha="center", va="center", fontsize=size, color=INK)
        small = 10 if len(order) <= 12 else 8
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
        ax.text(1 / k, -0.75, " equal shares", color=MUTED, fontsize=10, va="bottom")
        ax.set_yticks(range(len(worst)), [short(name, 18) for name, _ in worst], fontsize=10)
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
    chosen = [name for name in RELATIVE if _relative(first, name, getattr(first, name, None)) is not None]
    heights = [_relative(found, name, getattr(found, name, None)) for found in parts.values() for name in chosen]
    most = max(2.5, *(2 * height for height in heights if height is not None))

    def draw(ax: Axes) -> None:
        for place, name in enumerate(chosen):
            for number, found in enumerate(parts.values()):
                at = _relative(found, name, getattr(found, name, None))
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
        ax.text(0.93, -0.72, "chance", color=MUTED, fontsize=10, ha="right", va="bottom")
        for number, name in enumerate(parts if len(parts) > 1 else ()):
            marker = "●○"[number]
            title = f"{marker} {PARTS.get(name, name)}"
            ax.text(0.36 * number - 0.3, 1, title, color=SERIES[number], va="bottom", transform=ax.transAxes)
        ax.set_yticks(range(len(chosen)), [LABELS[name] for name in chosen], fontsize=10)
        ax.set(xscale="log", xlim=(LEAST * 0.8, most), ylim=(len(chosen) - 0.4, -0.7))
        ticks = [10.0**power for power in range(-4, math.floor(math.log10(most)) + 1)]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("above the best, in units of chance")
        ax.grid(axis="y", visible=False)
        ax.tick_params(length=0)

    told = ", ".join(f"{name} {_relative(first, name, getattr(first, name, None)):.3g}" for name in chosen)
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
            rear = REAR if solid else None
            _edges(ax, vertices, LINE, 1.4, behind=rear)
            _edges(ax, points, MUTED, 0.8, alpha=0.7, behind=rear)
            _faces(ax, points)
        for c, (point, vertex) in enumerate(zip(points, vertices, strict=True)):
            colour = SERIES[c % len(SERIES)]
            ax.plot(*zip(point, vertex, strict=True), color=colour, linewidth=1, alpha=0.6)
            ax.plot(*vertex, "o", color=colour, markerfacecolor="none", markersize=11, markeredgewidth=1.1, alpha=0.7)
            ax.plot(*point, "o", color=colour, markersize=6.5, zorder=4)
        (_ringed if RING <= k <= MOST else _named)(ax, points, found.classes)

    text = (
        f"{k} class means; the two directions shown hold {share:.0%} of their spread."
        if not solid
        else f"Four class means in three dimensions; NC2 is {found.nc2:.3f}, zero for a regular tetrahedron."
    )
    return draw_svg(title, text, draw, height=4.2)


def layers(profile: Profile, titles: Sequence[str] = ()) -> str:
    """Draw the accuracy of the nearest class mean and NC1 in its trace form, layer by layer.

    Parameters
    ----------
    profile : Profile
        What was measured.
    titles : sequence of str, optional
        How to call the layers; their paths unless given.

    Returns
    -------
    str
        An ``<svg>`` element of two panels, a row a layer; a ring marks the layer after which the tail could be cut.
    """
    names = [short(title, 22) for title in titles or [row.layer for row in profile.layers]]
    accuracy = [100 * row.accuracy for row in profile.layers]
    nc1 = [_positive(row.nc1_ratio) for row in profile.layers]
    cut = profile.cut

    def draw(left: Axes, right: Axes) -> None:
        rows = list(range(len(names)))
        left.plot(accuracy, rows, "o-", color=SERIES[0], markersize=5, linewidth=1.4)
        left.axvline(100 * profile.accuracy, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        right.plot(nc1, rows, "s-", color=SERIES[1], markersize=4.5, linewidth=1.4)
        if cut is not None:
            at = [row.layer for row in profile.layers].index(cut.layer)
            left.plot([accuracy[at]], [at], "o", color=SERIES[2], markersize=13, markerfacecolor="none")
        step = math.ceil(len(names) / SHOWN)
        left.set_yticks(rows[::step], names[::step], fontsize=10)
        left.set(ylim=(len(names) - 0.5, -0.5))
        left.set_xlabel("nearest mean\nright on, %", color=SERIES[0])
        right.set_xlabel("NC1, traces\n(lower is tighter)", color=SERIES[1])
        left.xaxis.set_major_locator(locator(4))
        finite = [value for value in nc1 if math.isfinite(value)]
        if finite and max(finite) > 20 * min(finite):
            right.set_xscale("log")
            right.minorticks_off()
        else:
            right.xaxis.set_major_locator(locator(4))
            right.set_xlim(left=0)
        right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        for ax in (left, right):
            ax.tick_params(length=0)
            ax.grid(axis="y", visible=False)

    text = (
        f"The nearest class mean is right on {accuracy[0]:.0f}% after {names[0]} and on {accuracy[-1]:.0f}% after"
        f" {names[-1]}; the whole network, dashed, on {profile.accuracy:.0%}."
    )
    return draw_svg("From layer to layer", text, draw, height=1.1 + 0.3 * min(len(names), SHOWN), panels=2)


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
            xytext=(8, 8),
            textcoords="offset points",
            color=SERIES[1],
        )
        ax.axhline(math.log(k), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        end = (grid[-1], math.log(k))
        ax.annotate(f"guessing, log {k}", end, (0, 4), textcoords="offset points", color=MUTED, fontsize=10, ha="right")
        ax.set(xlim=(0, grid[-1]), ylim=(0, 1.12 * math.log(k)))
        ax.set(xlabel="radius of the ball of logits", ylabel="least cross-entropy, nats")
        ax.xaxis.set_major_locator(locator(6))

    text = f"For {k} classes the least cross-entropy at radius {best.radius:g} is {best.risk:.6g} nats."
    return draw_svg("Least risk against the radius of the logits", text, draw)


def _vertices(best: SimplexOptimum, k: int) -> str:
    """The simplex itself."""
    vertices = np.asarray(best.vertices)
    points = vertices @ _helmert(k).T @ (VIEW if k == 4 else FLAT).T

    def draw(ax: Axes) -> None:
        _edges(ax, points, SERIES[0], 1.6, behind=REAR if k == 4 else None)
        _faces(ax, points)
        for c, point in enumerate(points):
            ax.plot([0, point[0]], [0, point[1]], color=MUTED, linewidth=0.9, alpha=0.7)
            ax.plot(*point, "o", color=SERIES[c % len(SERIES)], markersize=8, zorder=4)
        _named(ax, points, [f"class {c}" for c in range(k)])
        ax.text(0, 1, f"side {side:.4g}", color=SERIES[0], va="top", transform=ax.transAxes)
        told = f"{'radius' if best.p == 2 else 'from centre'} {reach:.4g}"
        ax.text(0, 0.93, told, color=MUTED, va="top", transform=ax.transAxes)

    side = float(np.linalg.norm(vertices[0] - vertices[1]))
    reach = float(np.linalg.norm(vertices[0] - vertices.mean(0)))
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


def _edges(
    ax: Axes, points: Any, colour: str, width: float, alpha: float = 1.0, behind: tuple[int, int] | None = None
) -> None:
    for i, j in combinations(range(len(points)), 2):
        style: Any = (0, (4, 3)) if (i, j) == behind else "-"
        ends = zip(points[i], points[j], strict=True)
        ax.plot(*ends, color=colour, linewidth=width, alpha=alpha, linestyle=style, zorder=1)


def _ringed(ax: Axes, points: Any, names: Sequence[str]) -> None:
    """Names in a ring around the picture, in the order of the points' directions, each with a line to its point."""
    middle = (points.min(0) + points.max(0)) / 2
    away = points - middle
    reach = float(np.linalg.norm(away, axis=1).max()) or 1.0
    turn = np.arctan2(away[:, 1], away[:, 0])
    order = np.argsort(turn, kind="stable")
    even = 2 * math.pi * np.arange(len(points)) / len(points)
    # The ring turns as a whole to where its names are nearest to their points.
    start = float(np.angle(np.exp(1j * (turn[order] - even)).sum()))
    size = 10 if len(points) <= 12 else 8
    for c, angle in zip(order.tolist(), (even + start).tolist(), strict=True):
        colour, outwards = SERIES[c % len(SERIES)], np.array([math.cos(angle), math.sin(angle)])
        near, at = middle + 1.2 * reach * outwards, middle + 1.26 * reach * outwards
        ax.plot(*zip(points[c], near, strict=True), color=colour, linewidth=0.7, alpha=0.6, zorder=2)
        ha = "left" if outwards[0] > 0.3 else "right" if outwards[0] < -0.3 else "center"
        va = "center" if ha != "center" else "bottom" if outwards[1] > 0 else "top"
        ax.text(at[0], at[1], short(names[c], 14), color=colour, ha=ha, va=va, fontsize=size, zorder=5)
    wide = 1.45 + 0.055 * min(14, max(map(len, names)))
    ax.set(xlim=(middle[0] - wide * reach, middle[0] + wide * reach), aspect="equal")
    ax.set(ylim=(middle[1] - 1.45 * reach, middle[1] + 1.45 * reach))
    ax.set_axis_off()


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
        ax.text(at[0], at[1], short(name, 16), color=SERIES[c % len(SERIES)], ha=ha, va="center", fontsize=10, zorder=5)
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


def _positive(value: float | None) -> float:
    """A value for an axis; not a number where there is none."""
    return value if value is not None and math.isfinite(value) and value > 0 else math.nan


def _worst(found: Collapse) -> list[int]:
    """Indices of the classes to draw: all, or the worst in their own order."""
    k = len(found.classes)
    return sorted(np.argsort(-found.shares, kind="stable")[:MOST].tolist()) if k > MOST else list(range(k))


def _pairs(found: Collapse) -> str:
    near = [f"{a} and {b}" for a, b, value in pair_excess(found, 8) if value > 0][:2]
    return ", ".join(near) or "none"


def _signed(value: float) -> str:
    return "0" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−").replace("0.", ".", 1)
