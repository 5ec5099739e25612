"""Rotary pairs: where rotary embeddings leave complex numbers acting on pairs of units.

A rotary embedding turns every pair (real and imaginary parts stand in two halves of a head) by an angle that depends on
the place. What commutes with that is a complex number for every pair. It is recognised by reading every operator that
touches the pairs as complex arithmetic; where one does not fit, only the scales that grading found remain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weyl.trace._cells import Cell
from weyl.trace._context import Call
from weyl.trace._grade import Entry, Grader
from weyl.trace._graded import Graded
from weyl.trace._values import Value

__all__ = ["rotary_pairs"]

SAME = frozenset(
    """clone contiguous detach alias lift_fresh_copy to _to_copy view reshape flatten unflatten squeeze unsqueeze
    _unsafe_view permute transpose swapaxes t mT expand""".split()
)
CUTS = frozenset("slice narrow split split_with_sizes chunk".split())
PRODUCTS = frozenset("linear matmul mm bmm addmm einsum".split())

# How a value contains the pairs: whole, or one half with a sign.
WHOLE, REAL, IMAGINARY = "whole", "real", "imaginary"
Form = tuple[str, int]


def rotary_pairs(
    grader: Grader, log: Sequence[Entry], parameters: Mapping[str, Graded], atom: Cell
) -> dict[str, dict[int, int]] | None:
    """Where real and imaginary parts stand, if complex numbers act on the pairs of an atom; None if they do not.

    Returns
    -------
    dict of str to dict of int to int
        For every parameter that has pairs, and every dimension: the offset of the imaginary parts.
    """
    reading = _Reading(grader, atom)
    places: dict[str, dict[int, int]] = {}
    for name, tensor in parameters.items():
        dims = reading.dims(tensor)
        for dim in dims:
            offset = reading.offset(tensor, dim)
            if offset is None:
                return None
            places.setdefault(name, {})[dim] = offset
    return places if places and all(reading.follow(entry) for entry in log) else None


@dataclass
class _Reading:
    """The complex form of every value that contains the pairs of one atom."""

    grader: Grader
    atom: Cell
    forms: dict[int, Form] = field(default_factory=dict)

    def dims(self, tensor: Graded) -> list[int]:
        """Dimensions in which the atom stands."""
        terms = tensor.terms or ()
        return [d for d in range(tensor.ndim) if any(self._has(term.strands[d].atoms) for term in terms)]

    def _has(self, atoms: Sequence[tuple[Cell, int]]) -> bool:
        return any(cell is self.atom for cell, _ in atoms)

    def offset(self, tensor: Graded, dim: int) -> int | None:
        """Distance from real to imaginary parts, if the atom stands in two alike halves of a dimension."""
        strands = {term.strands[dim] for term in tensor.terms or () if self._has(term.strands[dim].atoms)}
        if len(strands) != 2:
            return None
        first, second = sorted(strands, key=lambda strand: strand.base)
        stride = next(s for cell, s in first.atoms if cell is self.atom)
        alike = first.atoms == second.atoms and first.uniform == second.uniform
        return second.base - first.base if alike and second.base - first.base == stride * self.atom.size else None

    def form(self, value: Value) -> Form | None:
        """The form of a value: None if it does not contain the atom, or is a constant."""
        tensor = self.grader.get(value)
        dims = self.dims(tensor)
        if not dims or tensor.constant:
            return None
        if id(value) in self.forms:
            return self.forms[id(value)]
        whole = len(dims) == 1 and self.offset(tensor, dims[0]) is not None
        return (WHOLE, 1) if whole else ("", 0)

    # ------------------------------------------------------------------ operators
    def follow(self, entry: Entry) -> bool:
        """Whether an operator fits; the forms of its results are noted."""
        forms = [self.form(value) for value in entry.values]
        results = [r for r in entry.results if r is not None and self.dims(self.grader.get(r))]
        if not any(forms):
            return not results
        if entry.call is None or ("", 0) in forms:
            return False
        return self._apply(entry.call, entry, forms, results)

    def _apply(self, call: Call, entry: Entry, forms: list[Form | None], results: list[Value]) -> bool:
        name = call.name
        if name in SAME and len(forms) == 1 and len(results) == 1:
            return self._note(results[0], forms[0])
        if name in CUTS and forms[0] == (WHOLE, 1) and len(forms) == 1:
            return all(self._half(entry.values[0], result) for result in results)
        if name in ("neg", "negative") and forms[0] is not None:
            return self._note(results[0], (forms[0][0], -forms[0][1]))
        if name in ("cat", "concat"):
            full = [form for form, value in zip(forms, entry.values, strict=True) if 0 not in value.shape]
            return self._note(results[0], full[0]) if len(full) == 1 else self._join(full, results)
        if name in ("mul", "multiply", "div"):
            return self._times(entry, forms, results)
        if name in ("add", "sub"):
            return all(form == (WHOLE, 1) for form in forms) and self._note(results[0], (WHOLE, 1))
        if name in PRODUCTS:
            plain = all(form in (None, (WHOLE, 1)) for form in forms)
            return plain and self._contracts(name, forms, results)
        if name == "scaled_dot_product_attention":
            query, key, value = (self.form(call[n]) for n in ("query", "key", "value"))
            return (query, key, value) == ((WHOLE, 1), (WHOLE, 1), None) and not results
        return False

    def _contracts(self, name: str, forms: list[Form | None], results: list[Value]) -> bool:
        """A product of two wholes sums over the pairs; of one, the result has them, and what is added has them too."""
        count = forms.count((WHOLE, 1))
        if not results:
            return count == 2 and name != "addmm"
        added = name in ("linear", "addmm") and len(forms) == 3
        return count == (2 if added else 1) and self._note(results[0], (WHOLE, 1))

    def _note(self, result: Value, form: Form | None) -> bool:
        if form is None:
            return False
        if form[0] == WHOLE:
            tensor = self.grader.get(result)
            dims = self.dims(tensor)
            if len(dims) != 1 or self.offset(tensor, dims[0]) is None:
                return False
        self.forms[id(result)] = form
        return True

    def _half(self, value: Value, result: Value) -> bool:
        """A part of a whole: all of it along another dimension, or one half of the pairs."""
        tensor, part = self.grader.get(value), self.grader.get(result)
        (dim,) = self.dims(tensor)
        if self.offset(part, dim) is not None:
            return self._note(result, (WHOLE, 1))
        first = min(t.scalar for t in part.terms or ())
        numbers = [t.strands[dim].base for t in tensor.terms or () if t.scalar == first]
        bases = sorted({t.strands[dim].base for t in tensor.terms or () if self._has(t.strands[dim].atoms)})
        if len(numbers) != 1 or numbers[0] not in bases:
            return False
        return self._note(result, (REAL if numbers[0] == bases[0] else IMAGINARY, 1))

    def _join(self, forms: list[Form | None], results: list[Value]) -> bool:
        """Two halves make a complex number again if it is the old one times 1, i, -1 or -i."""
        if len(forms) != 2 or None in forms or len(results) != 1:
            return False
        kinds = tuple(form[0] for form in forms if form)
        signs = tuple(form[1] for form in forms if form)
        if kinds == (REAL, IMAGINARY) and signs[0] == signs[1]:
            return self._note(results[0], (WHOLE, 1))
        if kinds == (IMAGINARY, REAL) and signs[0] == -signs[1]:
            return self._note(results[0], (WHOLE, 1))
        return False

    def _times(self, entry: Entry, forms: list[Form | None], results: list[Value]) -> bool:
        """A product with numbers that are the same for both halves."""
        if forms.count((WHOLE, 1)) != 1 or len(results) != 1:
            return False
        ((number, value),) = [(n, v) for n, v in enumerate(entry.values) if forms[n] == (WHOLE, 1)]
        if number and entry.call is not None and entry.call.name == "div":
            return False
        rest = [v for n, v in enumerate(entry.values) if n != number]
        tensor = self.grader.get(value)
        (dim,) = self.dims(tensor)
        back = tensor.ndim - dim
        return all(self._halves_alike(other, back) for other in rest) and self._note(results[0], (WHOLE, 1))

    def _halves_alike(self, value: Value, back: int) -> bool:
        if value.ndim < back or value.shape[-back] == 1:
            return True
        if value.constant is None:
            return False
        size = value.shape[-back]
        low, high = (value.constant.narrow(-back, start, size // 2) for start in (0, size // 2))
        return bool((low == high).all())
