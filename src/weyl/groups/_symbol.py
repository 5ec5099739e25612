"""Groups in the usual notation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from weyl.groups._gauge import GaugeKind
from weyl.groups._space import Space

__all__ = ["bracket", "copy_symbol", "global_terms", "join_terms", "power"]

# A permuted space with so many gauges of signs, scales and complex numbers.
_NAMED = {(0, 0, 0): "S", (1, 0, 0): "B", (0, 1, 0): "Mon+", (1, 1, 0): "Mon"}


def copy_symbol(space: Space, kinds: Mapping[GaugeKind, int]) -> str:
    """What acts on one copy of a space that has so many gauges of every kind."""
    n = space.size
    matrices = {f"GL_{n}": GaugeKind.LINEAR, f"O_{n}": GaugeKind.ORTHOGONAL, f"O_{n - 1} × Z2": GaugeKind.CENTRED}
    terms = Counter({term: kinds[kind] for term, kind in matrices.items() if kinds.get(kind)})
    diagonal = _diagonal(n, kinds, space.permuted and not terms)
    if diagonal:
        terms[diagonal] += 1
    added = {"R": GaugeKind.TRANSLATION, "Z": GaugeKind.SHIFT}
    vectors = Counter({f"{field}^{n * kinds[kind]}": 1 for field, kind in added.items() if kinds.get(kind)})
    if not terms or not vectors:
        return join_terms(terms or vectors)
    return f"{bracket(join_terms(terms))} ⋉ {bracket(join_terms(vectors))}"


def _diagonal(n: int, kinds: Mapping[GaugeKind, int], permuted: bool) -> str:
    counts = tuple(kinds.get(kind, 0) for kind in (GaugeKind.SIGN, GaugeKind.SCALE, GaugeKind.COMPLEX))
    if permuted and counts in _NAMED:
        return f"{_NAMED[counts]}_{n}"
    if not any(counts):
        return ""
    terms = Counter({term: count for term, count in zip(("Z2", "R+", "C*"), counts, strict=True) if count})
    text = "R*" if counts == (1, 1, 0) else join_terms(terms)
    return f"{bracket(text)} ≀ S_{n}" if permuted else f"({text})^{n}"


def global_terms(kinds: Mapping[GaugeKind, int]) -> Counter[str]:
    """Factors of gauges without a space."""
    signs, scales = kinds.get(GaugeKind.SIGN, 0), kinds.get(GaugeKind.SCALE, 0)
    both = min(signs, scales)
    counts = {
        "R*": both,
        "Z2": signs - both,
        "R+": scales - both,
        "R": kinds.get(GaugeKind.TRANSLATION, 0),
        "Z": kinds.get(GaugeKind.SHIFT, 0),
    }
    return Counter({term: count for term, count in counts.items() if count})


def join_terms(terms: Mapping[str, int]) -> str:
    """A product of terms to their powers."""
    if not terms:
        return "1"
    text = [power(term, count) for term, count in terms.items()]
    return text[0] if len(text) == 1 else " × ".join(bracket(term) for term in text)


def power(term: str, count: int) -> str:
    """A term to a power, in brackets where it needs them."""
    if count == 1:
        return term
    return f"({term})^{count}" if " " in term or "^" in term else f"{term}^{count}"


def bracket(text: str) -> str:
    """A term in brackets unless it is one symbol or a power."""
    return f"({text})" if " " in text else text
