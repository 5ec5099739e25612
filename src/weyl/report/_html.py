"""One offline HTML file: no script, no link, nothing fetched; every value escaped."""

from __future__ import annotations

import re
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any

from weyl._version import __version__
from weyl.report import figures
from weyl.report._collapse import CAUTION, METHODS, Measured, criteria, cut_told, pair_excess, symmetry_told
from weyl.report._content import Demo, Inspection, families
from weyl.report._group import HELD, LEGEND, MOVES, gauge_families, gauge_rows, order_told, overlap_told
from weyl.report._text import power_of_ten, printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from weyl.groups import Order

__all__ = ["environment", "render_collapse", "render_demo", "render_inspection"]

MANY = 20  # spaces; above this, those of equal layers share a row


def render_inspection(inspection: Inspection, *, exact: bool = False, numbers: str = "") -> str:
    """Render the report of ``weyl inspect`` as one HTML document.

    Parameters
    ----------
    inspection : Inspection
        What to show.
    exact : bool
        Show all digits of the order.
    numbers : str
        Name of the JSON file beside the report.

    Returns
    -------
    str
        HTML.
    """
    order = inspection.structure.group.order
    digits = order.digits() if exact else ""
    template = environment().get_template("inspection.html")
    return template.render(it=inspection, digits=digits, numbers=numbers)


def render_demo(demo: Demo, *, numbers: str = "") -> str:
    """Render the report of ``weyl demo`` as one HTML document.

    Parameters
    ----------
    demo : Demo
        What to show.
    numbers : str
        Name of the JSON file beside the report.

    Returns
    -------
    str
        HTML.
    """
    return environment().get_template("demo.html").render(demo=demo, numbers=numbers, caution=CAUTION)


def render_collapse(measured: Measured, *, numbers: str = "") -> str:
    """Render the report of ``weyl collapse`` as one HTML document.

    Parameters
    ----------
    measured : Measured
        What to show.
    numbers : str
        Name of the JSON file beside the report.

    Returns
    -------
    str
        HTML.
    """
    return environment().get_template("collapse.html").render(it=measured, numbers=numbers)


@cache
def environment() -> Environment:
    """Templates of this package, with all that they use; made once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from weyl.report import _barrier_figures, _collapse_figures

    def shown(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = Environment(
        loader=PackageLoader("weyl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    made.filters.update(
        breakable=_breakable,
        power=_power,
        symbol=_symbol,
        typeset=_typeset,
        significant=_significant,
        figure=lambda x: "–" if x is None else _significant(x) if isfinite(x) else "∞",
        rows=_rows,
        acting=lambda inspection: gauge_families(gauge_rows(inspection.structure), MANY),
        percent=lambda x: f"{100 * x:.1f} %",
    )
    made.globals.update(
        version=__version__,
        criteria=criteria,
        cut_told=cut_told,
        methods=METHODS,
        pair_excess=pair_excess,
        symmetry_told=symmetry_told,
        order_told=order_told,
        overlap_told=overlap_told,
        moves=MOVES,
        legend_of_symbols=LEGEND,
        held=HELD,
        # The figures escape what they show; only their own markup may pass.
        spaces_figure=lambda structure: Markup(figures.spaces(structure)),
        barrier_figure=lambda path, name: Markup(figures.barrier(path, name=name)),
        dimensions_figure=lambda rows: Markup(figures.dimensions(rows)),
        growth_figure=lambda mark: Markup(figures.growth(mark=mark)),
        cosines_figure=lambda found: Markup(_collapse_figures.cosines(found)),
        layers_figure=lambda it: Markup(
            _collapse_figures.layers(it.profile, [it.layer(row.layer) for row in it.profile.layers])
        ),
        lines_figure=lambda lines, what: Markup(_barrier_figures.curves(lines, what)),
        levels_figure=lambda parts: Markup(_collapse_figures.levels(parts)),
        means_figure=lambda found: Markup(_collapse_figures.means(found)),
        shares_figure=lambda found: Markup(_collapse_figures.shares(found)),
    )
    return made


def _power(order: Order) -> Markup:
    """An order as a power of ten, with a raised exponent."""
    from markupsafe import Markup

    mantissa, exponent = power_of_ten(order)
    markup = "{} × 10<sup>{}</sup>" if exponent else "{}"
    return Markup(markup).format(mantissa, exponent)


def _symbol(text: str) -> Markup:
    """A group symbol such as ``S_64^3``, with lowered and raised numbers."""
    from markupsafe import Markup, escape

    raised = re.sub(r"_(\d+|n\b)", r"<sub>\1</sub>", str(escape(printable(text))))
    return Markup(re.sub(r"\^(\d+|n\b)", r"<sup>\1</sup>", raised))


def _breakable(name: str) -> Markup:
    """A name that may end a line after a dot, an underscore or an ampersand, before it is broken elsewhere."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.findall(r"[^._&]*[._&]+|[^._&]+", printable(name)))


def _typeset(text: str) -> Markup:
    """The letters that the metrics are written with, their indices lowered: ``Σ_W``, ``S_k``."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"\b(Σ|S)_([WBk])\b", r"\1<sub>\2</sub>", str(escape(printable(text)))))


def _significant(value: float, digits: int = 3) -> Markup:
    """A number with so many significant digits, its power of ten raised where it has one."""
    from markupsafe import Markup

    text = f"{value:.{digits}g}"
    mantissa, e, exponent = text.partition("e")
    if not e:
        return Markup(text)
    return Markup("{} × 10<sup>{}</sup>").format(mantissa, f"{int(exponent)}".replace("-", "−"))


def _rows(inspection: Inspection) -> list[dict[str, Any]]:
    rows = inspection.structure.rows()
    return families(rows) if len(rows) > MANY else [{**row, "times": 1} for row in rows]
