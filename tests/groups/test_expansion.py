"""Counts of over-parametrised minima, against enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from weyl.errors import UsageError
from weyl.groups import expansion_counts


def enumerated(r: int, m: int, odd: bool) -> tuple[int, int]:
    """Incoming vectors of m neurons out of r given ones, m spare ones, their negatives and zero, up to renaming spares.

    An assignment can be completed by outgoing weights if and only if every given vector occurs.
    """
    signs = (1, -1) if odd else (1,)
    choices = [s * v for v in range(1, r + m + 1) for s in signs] + ([0] if odd else [])
    copies, patterns = 0, set()
    for chosen in product(choices, repeat=m):
        if not set(range(1, r + 1)) <= {abs(v) for v in chosen}:
            continue
        copies += all(0 < abs(v) <= r for v in chosen)
        names: dict[int, int] = {}
        pattern = []
        for v in chosen:
            if abs(v) > r:
                names.setdefault(abs(v), (r + 1 + len(names)) * (1 if v > 0 else -1))
                pattern.append(names[abs(v)] * (1 if v > 0 else -1))
            else:
                pattern.append(v)
        patterns.add(tuple(pattern))
    return copies, len(patterns)


@pytest.mark.parametrize(("r", "m", "total"), [(1, 2, 3), (2, 3, 12), (2, 4, 62), (3, 4, 60), (3, 6, 3120)])
def test_the_published_numbers(r: int, m: int, total: int) -> None:
    assert expansion_counts(r, m).total == total


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(("r", "m"), [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (1, 4), (2, 4), (3, 3)])
def test_enumeration_agrees(r: int, m: int, odd: bool) -> None:
    found = expansion_counts(r, m, "odd" if odd else "generic")
    assert (found.copies, found.total) == enumerated(r, m, odd)


@pytest.mark.parametrize(("odd", "function"), [(True, np.tanh), (False, lambda z: np.exp(z) + np.tanh(z))])
def test_every_subspace_computes_the_function_and_no_other_does(odd: bool, function: object) -> None:
    """On data: outgoing weights reproduce a neuron exactly if and only if a copy of it is there (r = 1, m = 2)."""
    x = np.linspace(-2, 2, 41)
    target = function(0.7 * x)
    for chosen in product([0.7, -0.7, 0.0, 1.3, -1.3, 0.4], repeat=2):
        table = np.stack([function(w * x) for w in chosen], axis=1)
        rest = target - table @ np.linalg.lstsq(table, target, rcond=None)[0]
        copies = {0.7, -0.7} if odd else {0.7}
        assert (np.abs(rest).max() < 1e-10) == bool(copies & set(chosen)), chosen


def test_named_activations_have_the_parity_of_their_values() -> None:
    import torch

    from weyl.groups._expansion import ODD

    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for name in ODD:
        torch.testing.assert_close(getattr(torch, name)(-x), -getattr(torch, name)(x))
        assert expansion_counts(2, 3, name) == expansion_counts(2, 3, "odd")
    torch.testing.assert_close(torch.sigmoid(-x), 1 - torch.sigmoid(x))
    for refused in (torch.nn.functional.gelu, torch.nn.functional.silu, torch.nn.functional.softplus):
        torch.testing.assert_close(refused(x) - refused(-x), x)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((2, 1), "m must be at least r"),
        ((0, 1), "r must be a positive integer"),
        ((1, True), "m must be a positive integer"),
        ((1, 2, "relu"), "positively homogeneous"),
        ((1, 2, "sigmoid"), "constant plus an odd"),
        ((1, 2, "gelu"), "linear function plus an even"),
        ((1, 2, "mish"), "parity of 'mish' is not known"),
    ],
)
def test_refusals(arguments: tuple[object, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        expansion_counts(*arguments)


def test_large_numbers_are_exact() -> None:
    found = expansion_counts(10, 60)
    assert found.total > found.copies > 10**59
    assert found.copies == sum((-1) ** (10 - i) * __import__("math").comb(10, i) * i**60 for i in range(1, 11))
