"""What weyl shows: the contents of a report, its figures, and the one offline HTML file that holds them.

Importing this package costs nothing: matplotlib and Jinja2 are imported when something is drawn.
"""

from weyl._files import refuse_existing, write_atomic
from weyl.report._barrier import AS_THEY_ARE, Line
from weyl.report._collapse import CAUTION, METHODS, Measured, criteria, cut_told, pair_excess, symmetry_told
from weyl.report._content import Demo, Inspection, Path, Trained, Twin, families, order_to_dict
from weyl.report._group import HELD, MOVES, gauge_families, gauge_rows, order_told, overlap_told
from weyl.report._html import render_collapse, render_demo, render_inspection
from weyl.report._lookalikes import Lookalike, Lookalikes
from weyl.report._text import counted, power_of_ten, printable, scientific, subscripts, to_json
from weyl.report._trainings import Search, Trainings, Way

__all__ = [
    "AS_THEY_ARE",
    "CAUTION",
    "HELD",
    "METHODS",
    "MOVES",
    "Demo",
    "Inspection",
    "Line",
    "Lookalike",
    "Lookalikes",
    "Measured",
    "Path",
    "Search",
    "Trained",
    "Trainings",
    "Twin",
    "Way",
    "counted",
    "criteria",
    "cut_told",
    "families",
    "gauge_families",
    "gauge_rows",
    "order_to_dict",
    "order_told",
    "overlap_told",
    "pair_excess",
    "power_of_ten",
    "printable",
    "refuse_existing",
    "render_collapse",
    "render_demo",
    "render_inspection",
    "scientific",
    "subscripts",
    "symmetry_told",
    "to_json",
    "write_atomic",
]
