"""The best signs of every unit, where several families of signs act on the terms of one space."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["best_signs", "core"]

Parity = frozenset[str]

# Families that are enumerated at most; the others of a larger core stay as they are.
ENUMERATED = 6


def core(parities: Collection[Parity]) -> tuple[str, ...]:
    """Families after whose choice every parity depends on one further family at most; greedily few of them."""
    chosen: list[str] = []
    while True:
        left = [parity - set(chosen) for parity in parities]
        coupled = [parity for parity in left if len(parity) > 1]
        if not coupled:
            return tuple(chosen)
        counts = {name: sum(name in parity for parity in coupled) for parity in coupled for name in sorted(parity)}
        chosen.append(max(sorted(counts), key=counts.__getitem__))


def best_signs(values: Mapping[Parity, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Maximise :math:`\sum_v v_P \prod_{g \in P} s_g` over signs s, entry by entry.

    Parameters
    ----------
    values : mapping of frozenset of str to Tensor
        By the families of signs that a value changes with; all of one shape.

    Returns
    -------
    Tensor
        The maximum.
    dict of str to Tensor
        The signs that attain it, +1 or -1, for every family.
    """
    names = sorted({name for parity in values for name in parity})
    some = next(iter(values.values()))
    fixed = core(values)
    enumerated = fixed[:ENUMERATED]
    held = set(fixed[ENUMERATED:])
    best: Tensor | None = None
    signs: dict[str, Tensor] = {}
    for pattern in itertools.product((1, -1), repeat=len(enumerated)):
        value, own = _given(values, dict(zip(enumerated, pattern, strict=True)), held, some)
        if best is None:
            best = value
            signs = {name: own.get(name, torch.ones_like(some)) for name in names}
            continue
        better = value > best
        best = torch.where(better, value, best)
        signs = {name: torch.where(better, own.get(name, torch.ones_like(some)), signs[name]) for name in names}
    assert best is not None
    return best, signs


def _given(
    values: Mapping[Parity, Tensor], chosen: Mapping[str, int], held: Collection[str], like: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The maximum where some signs are given: every other one is free of the rest."""
    total = torch.zeros_like(like)
    alone: dict[str, Tensor] = {}
    for parity, value in values.items():
        sign = 1
        for name in parity:
            sign *= chosen.get(name, 1)
        free: Sequence[str] = [name for name in parity if name not in chosen and name not in held]
        if free:
            alone[free[0]] = alone[free[0]] + sign * value if free[0] in alone else sign * value
        else:
            total = total + sign * value
    signs = {name: torch.full_like(like, sign) for name, sign in chosen.items()}
    for name, value in alone.items():
        total = total + value.abs()
        signs[name] = torch.where(value < 0, -1.0, 1.0).to(like.dtype)
    return total, signs
