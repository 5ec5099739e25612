"""Exponents: the solver against dense linear algebra over the rationals and over two elements."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weyl.trace._solve import ZERO, Exponents, independent

rows_of = st.lists(
    st.lists(st.tuples(st.integers(1, 8), st.sampled_from([-2, -1, 1, 2])), min_size=1, max_size=4), max_size=10
)


def matrix(rows: list[list[tuple[int, int]]], modulus: int) -> np.ndarray:
    """Equations as a dense matrix over eight unknowns."""
    dense = np.zeros((len(rows), 8), dtype=object)
    for number, row in enumerate(rows):
        for unknown, coefficient in row:
            dense[number, unknown - 1] += coefficient
    return dense % modulus if modulus else dense


def rank(dense: np.ndarray, modulus: int) -> int:
    """Rank by elimination in exact arithmetic."""
    work = [[Fraction(int(entry)) for entry in row] for row in dense]
    found = 0
    for column in range(8):
        pivot = next((r for r in range(found, len(work)) if work[r][column]), None)
        if pivot is None:
            continue
        work[found], work[pivot] = work[pivot], work[found]
        for r in range(len(work)):
            if r != found and work[r][column]:
                factor = work[r][column] / work[found][column]
                work[r] = [a - factor * b for a, b in zip(work[r], work[found], strict=True)]
                if modulus:
                    work[r] = [Fraction(int(a) % 2) for a in work[r]]
        found += 1
    return found


@pytest.mark.parametrize("modulus", [0, 2])
@given(rows=rows_of)
def test_solutions_satisfy_every_equation_and_there_are_enough_of_them(
    modulus: int, rows: list[list[tuple[int, int]]]
) -> None:
    system = Exponents(modulus)
    unknowns = [system.new() for _ in range(8)]
    for row in rows:
        system.relate([(unknowns[x - 1], c) for x, c in row])
    system.solve()
    expressions = [system.expression(x) for x in unknowns]
    free = sorted({root for expression in expressions for root in expression})
    for row in rows:
        for root in free:
            total = sum(c * expressions[x - 1].get(root, 0) for x, c in row)
            assert (total % 2 if modulus else total) == 0
    assert len(free) == 8 - rank(matrix(rows, modulus), modulus)
    solutions = [{x: e[root] for x, e in enumerate(expressions) if root in e} for root in free]
    assert len(independent(solutions, modulus)) == len(free)


def test_what_is_zero_stays_zero() -> None:
    system = Exponents()
    x, y = system.new(), system.new()
    system.relate([(x, 1), (y, -2)])
    system.zero(x)
    system.solve()
    assert system.root(y) == (ZERO, 0)
    assert not system.expression(y)


@pytest.mark.parametrize("modulus", [0, 2])
@given(rows=rows_of, beside=rows_of)
def test_independent_rows_are_a_basis_beside_others(
    modulus: int, rows: list[list[tuple[int, int]]], beside: list[list[tuple[int, int]]]
) -> None:
    def tables(found: list[list[tuple[int, int]]]) -> list[dict[object, int]]:
        return [dict(enumerate(row)) for row in matrix(found, modulus).tolist()]

    chosen = independent(tables(rows), modulus, tables(beside))
    both = rank(np.concatenate([matrix(beside, modulus), matrix(rows, modulus)]), modulus)
    assert len(chosen) == both - rank(matrix(beside, modulus), modulus)
    picked = [rows[i] for i in chosen]
    assert rank(np.concatenate([matrix(beside, modulus), matrix(picked, modulus)]), modulus) == both
