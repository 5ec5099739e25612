"""The whole group as data: what acts beside permutations, on what, and what its order counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weyl.report._text import counted, starred

if TYPE_CHECKING:
    from weyl.groups import Group
    from weyl.structure import Structure

__all__ = ["HELD", "LEGEND", "MOVES", "WORDS", "gauge_families", "gauge_rows", "order_told", "overlap_told"]

# By the value of a kind of gauge.
WORDS: Mapping[str, str] = {
    "sign": "signs",
    "scale": "positive scales",
    "linear": "invertible matrices",
    "orthogonal": "rotations",
    "centred": "rotations about the mean",
    "complex": "complex scales",
    "translation": "translations",
    "shift": "integer shifts",
}

# By the kind of move.
MOVES: Mapping[str, str] = {
    "permute": "permutations",
    "sign": "signs",
    "scale": "scales",
    "mix": "matrices",
    "translate": "translations",
}
# What the symbol of a group is made of.
LEGEND: Mapping[str, str] = {
    "S_n": "permutations of n units",
    "B_n": "permutations and signs",
    "Mon+_n, Mon_n": "permutations with positive scales, with all scales but 0",
    "GL_n, O_n": "invertible matrices, rotations; permutations are among them",
    "Z2, R+, R*, C*": "signs, positive, real and complex scales",
    "R^n, Z^n": "translations, those by integers",
    "H ≀ S_n": "a copy of H for each of n units, which are permuted, too",
    "H ⋉ R^n": "H, and translations beside it",
    "G × H": "G and H, independently of each other; a power is so many copies",
}
# What holds weights fixed, by its name in an orbit.
HELD: Mapping[str, str] = {
    "duplicates": "units that may trade places",
    "dead": "units whose scale does nothing",
    "sign_fixed": "units whose flip does nothing",
    "proportional": "units that are equal up to scale",
}


def gauge_rows(structure: Structure) -> list[dict[str, Any]]:
    """One row a gauge: what acts on units beside permutations, of all copies of its space together.

    Parameters
    ----------
    structure : Structure
        Of a model.

    Returns
    -------
    list of dict
        ``gauge``, ``kind``, ``what`` (the kind in words), ``space`` (empty for whole tensors), ``copies``, ``size``,
        ``signs``, ``dimension`` and ``tensors``, the names of those on which it acts.

    Examples
    --------
    >>> import torch, weyl
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> (row,) = gauge_rows(weyl.discover(net, (torch.zeros(1, 2),)))
    >>> row["what"], row["space"], row["dimension"], row["tensors"]
    ('positive scales', '0', 3, ['0.weight', '0.bias', '2.weight'])
    """
    rows = []
    for gauge in structure.gauges:
        copies, size = 1, 1
        if gauge.space:
            space = structure.space(gauge.space)
            copies, size = space.multiplicity, space.size
        rows.append(
            {
                "gauge": gauge.name,
                "kind": gauge.kind.value,
                "what": WORDS[gauge.kind.value],
                "space": gauge.space,
                "copies": copies,
                "size": size,
                "signs": copies * gauge.kind.signs(size),
                "dimension": copies * gauge.kind.dimension(size),
                "tensors": [name for name in structure.axes if name in structure.weights.get(gauge.name, ())],
            }
        )
    return rows


def gauge_families(rows: Sequence[Mapping[str, Any]], most: int = 20) -> list[dict[str, Any]]:
    """Rows of `gauge_rows` of one kind on one space added up; those of equal layers, too, where there are many.

    Parameters
    ----------
    rows : sequence of mapping
        One a gauge.
    most : int
        So many rows need not be collected over layers.

    Returns
    -------
    list of dict
        ``kind``, ``what``, ``space``, ``gauges`` (how many), ``signs``, ``dimension`` and ``tensors`` of all; layer
        numbers of what is collected are written ``*``.

    Examples
    --------
    >>> common = {"kind": "scale", "what": "positive scales", "signs": 0, "dimension": 4}
    >>> rows = [{"space": f"h.{i}", "tensors": [f"h.{i}.weight"], **common} for i in range(3)]
    >>> [(row["space"], row["gauges"], row["dimension"], row["tensors"]) for row in gauge_families(rows, 2)]
    [('h.*', 3, 12, ['h.*.weight'])]
    """
    many = len({(row["kind"], row["space"]) for row in rows}) > most
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["kind"], starred(row["space"]) if many else row["space"]), []).append(row)
    collected = []
    for (kind, family), members in found.items():
        several = len({row["space"] for row in members}) > 1
        tensors = (starred(name) if several else name for row in members for name in row["tensors"])
        collected.append(
            {
                "kind": kind,
                "what": members[0]["what"],
                "space": family if several else members[0]["space"],
                "gauges": len(members),
                "signs": sum(row["signs"] for row in members),
                "dimension": sum(row["dimension"] for row in members),
                "tensors": list(dict.fromkeys(tensors)),
            }
        )
    return collected


def order_told(group: Group) -> str:
    """What the order of a group counts, and what it does not.

    Examples
    --------
    >>> from weyl.groups import Gauge, GaugeKind, Group, Space
    >>> order_told(Group((Space("fc", 3),)))
    'permutations'
    >>> order_told(Group((Space("fc", 3),), (Gauge("a", "fc", GaugeKind.SCALE), Gauge("b", "fc", GaugeKind.SIGN))))
    'permutations and sign flips; the continuous part, of dimension 3, is not counted'
    """
    signs = group.order != group.permutation_order
    parts = [f"permutations{' and sign flips' if signs else ''}"]
    if group.dimension:
        parts.append(f"the continuous part, of dimension {group.dimension:,}, is not counted")
    if group.infinite:
        parts.append("integer shifts are not counted: there are infinitely many")
    return "; ".join(parts)


def overlap_told(structure: Structure) -> str:
    """What gauges share, in words; empty if nothing."""
    dimension, signs = structure.overlap
    if not dimension and not signs:
        return ""
    shared = " and ".join(counted(n, word) for n, word in ((dimension, "dimension"), (signs, "sign")) if n)
    return f"gauges share {shared}, which the totals count once"
