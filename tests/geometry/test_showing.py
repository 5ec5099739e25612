"""A collapse as JSON, as a frame, as a figure and as HTML."""

import io
import json
import math

import matplotlib
import pytest
import torch

from weyl.geometry import METRICS, CollapseStatistics, collapse

G = torch.Generator().manual_seed(0)
Y = torch.arange(60) % 3
X = torch.randn(60, 4, generator=G) + 2 * torch.eye(3, 4)[Y]
Z = torch.randn(60, 3, generator=G)
HOSTILE = ["<script>alert(1)</script>", "$\\frac{a}$ $x", 'a"&<b>']


def reading(x=X, y=Y, k=3, **options):
    stats = CollapseStatistics(k, x.shape[1]).update(x, y, Z[: len(y), :1].repeat(1, k) * torch.arange(k))
    return stats.compute(torch.ones(k, x.shape[1]), ood=torch.ones(x.shape[1]), **options)


SAME = torch.tensor([[1.0, 0.0, 0, 0], [-1.0, 0.0, 0, 0]]).repeat(3, 1)
READINGS = {
    "plain": reading(bootstrap=20),
    "infinite": CollapseStatistics(3, 4).update(SAME, torch.arange(6) // 2).compute(bootstrap=20),
    "collapsed": CollapseStatistics(3, 4).update(torch.eye(4)[Y], Y, 1e3 * torch.eye(3)[Y]).compute(bootstrap=20),
    "one class": CollapseStatistics(3, 4).update(X, 0 * Y).compute(),
    "all zero": CollapseStatistics(3, 4).update(0 * X, Y, 0 * Z).compute(bootstrap=20),
    "absent": CollapseStatistics(5, 4).update(X, Y).compute(names=list("abcde")),
    "many classes": CollapseStatistics(60, 4).update(X, torch.arange(60)).compute(),
    "hostile": reading(names=HOSTILE),
    "few rows": CollapseStatistics(3, 4, keep=0).update(X, Y).compute(),
}


@pytest.mark.parametrize("name", READINGS)
def test_json(name):
    found = READINGS[name]
    text = json.dumps(found.to_dict(), allow_nan=False)
    back = json.loads(text)
    for metric in METRICS:
        value = getattr(found, metric)
        assert back[metric] == (value if value is not None and math.isfinite(value) else None)
    assert back["classes"] == list(found.classes) and back["absent"] == list(found.absent)
    assert back["counts"] == list(found.counts) and back["gram"] == found.gram.tolist()
    assert set(back["reference"]) == set(found.reference)
    assert json.loads(json.dumps(back)) == back


def test_json_of_layers():
    with torch.random.fork_rng():
        model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    found = collapse(model, [(X, Y)], layers=["0", "1"])
    back = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(back["layers"]) == {"0", "1"} and back["layers"]["1"]["nc1"] == found.layers["1"].nc1
    assert back["layer"] == "2"


@pytest.mark.parametrize("name", READINGS)
def test_rows_and_frame(name):
    found = READINGS[name]
    rows = found.rows()
    assert [row["metric"] for row in rows] == [m for m in METRICS if getattr(found, m) is not None]
    frame = found.to_frame()
    assert list(frame.index) == [row["metric"] for row in rows]
    for row in rows:
        assert frame.loc[row["metric"], "value"] == row["value"] == getattr(found, row["metric"])
        levels = found.reference.get(row["metric"])
        assert (row["chance"], row["floor"]) == ((levels.chance, levels.floor) if levels else (None, None))
        assert (row["low"], row["high"]) == found.intervals.get(row["metric"], (None, None))
        assert row["meaning"] == METRICS[row["metric"]].meaning


@pytest.mark.parametrize("name", READINGS)
def test_figures_can_be_drawn_and_have_content(name):
    found = READINGS[name]
    backend = matplotlib.get_backend()
    figure = found.plot()
    assert isinstance(figure, matplotlib.figure.Figure) and matplotlib.get_backend() == backend
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    assert len(file.getvalue()) > 5000
    angles, shares, metrics = figure.axes[:3]
    assert angles.images[0].get_array().shape == (len(found.classes),) * 2
    bars = shares.patches
    assert len({bar.get_y() for bar in bars}) == len(bars) == min(len(found.classes), 10)
    assert sum(bar.get_width() for bar in bars) == pytest.approx(sum(v for _, v in found.worst_classes(10)))
    drawn = [row for row in found.rows() if row["chance"] and row["metric"] in ("nc1", "nc2", "cdnv", "nc3")]
    assert len(metrics.lines) > len(drawn)


def test_equal_beginnings_of_names_are_different_classes():
    names = ["a common beginning, one", "a common beginning, two", "c"]
    bars = reading(names=names).plot().axes[1].patches
    assert len({bar.get_y() for bar in bars}) == 3


def test_the_points_of_the_figure_are_value_over_chance():
    found = READINGS["plain"]
    metrics = found.plot().axes[2]
    titles = [label.get_text() for label in metrics.get_yticklabels()]
    points = {
        titles[int(line.get_ydata()[0])]: line.get_xdata()[0] for line in metrics.lines if line.get_marker() == "o"
    }
    for name in ("nc1", "nc2", "cdnv"):
        expected = getattr(found, name) / found.reference[name].chance
        assert points[METRICS[name].title] == pytest.approx(expected)


@pytest.mark.parametrize("name", READINGS)
def test_html_shows_every_metric(name):
    found = READINGS[name]
    page = found._repr_html_()
    for row in found.rows():
        assert f"{row['value']:.4g}" in page and row["title"].replace("'", "&#x27;") in page
    assert page.count("<tr>") == page.count("</tr>") == len(found.rows()) + 1


def test_html_escapes_names():
    from dataclasses import replace

    found = replace(READINGS["hostile"], layer="<img src=x>")
    page = found._repr_html_()
    assert "<script" not in page and "<img" not in page and "&lt;img" in page


@pytest.mark.parametrize("name", READINGS)
def test_repr_is_one_line(name):
    text = repr(READINGS[name])
    assert text.startswith("Collapse(") and "\n" not in text and "samples" in text
