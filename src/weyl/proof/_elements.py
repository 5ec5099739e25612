"""Elements for proofs: of one kind of move, without rounding, and deliberately wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from weyl._memory import tensor_identity
from weyl.actions import act
from weyl.groups import Element, Gauge, GaugeKind, Part
from weyl.proof._state import Sampler, State, is_float, replaced
from weyl.structure import Structure

__all__ = ["element_of", "exact_element", "moves_of", "wrong_states"]

MOVES = ("permute", *dict.fromkeys(kind.move for kind in GaugeKind))
CONTROLS = 8
DRAWS = 8
# Numbers k / 2^20 are added without rounding to numbers that are no larger than 2^30.
GRID = float(1 << 20)


def moves_of(structure: Structure) -> tuple[str, ...]:
    """The kinds of move that the group of a structure has."""
    group = structure.group
    found = {gauge.kind.move for gauge in group.gauges}
    if not group.permutation_order.trivial:
        found.add("permute")
    return tuple(move for move in MOVES if move in found)


def element_of(structure: Structure, move: str, seed: int) -> Element:
    """A random element of one kind of move; not the identity, unless eight draws in a row are."""
    for draw in range(DRAWS):
        element = structure.group.random(seed + 1000 * draw, kinds=(move,))
        if element.moves:
            break
    return element


def exact_element(structure: Structure, seed: int, *, integers: bool) -> Element:
    """A random element that acts without rounding: signs, powers of two, matrices that permute and flip.

    Left out are gauges that must round: those that multiply a tensor with an offset (the variance of a BatchNorm
    plus its eps), and those that add what is no multiple of 2^-20.

    Parameters
    ----------
    structure : Structure
        Whose group the element is of.
    seed : int
        Seed of the element.
    integers : bool
        Whether it is to act on small integers. On other numbers every addition rounds, so gauges that add are
        left out altogether.
    """
    group = structure.group
    element = group.random(seed, exact=True)
    values = {g.name: element.values[g.name] for g in group.gauges if not _rounds(structure, g, integers)}
    return Element(group.spaces, element, group.gauges, values)


def _rounds(structure: Structure, gauge: Gauge, integers: bool) -> bool:
    """Whether even exact values of a gauge may act with rounding."""
    weights = structure.weights.get(gauge.name, {})
    if gauge.kind.move in ("scale", "mix") and any(name in structure.offsets for name in weights):
        return True
    added = [weight.coefficient for several in weights.values() for weight in several if weight.coefficient]
    added += [absorption.constant / 2 for absorption in structure.absorptions.get(gauge.name, ())]
    return bool(added) and not (integers and all((x * GRID).is_integer() for x in added))


def wrong_states(structure: Structure, state: State, move: str, seed: int) -> Iterator[tuple[str, State]]:
    """States to which an element was applied in one tensor only, with the name of the tensor.

    The spaces, or gauges, that reach furthest come first. Where the group moves one tensor alone, so that half of a
    move cannot be made, or units that nothing reads, so that it is not seen, such a move is made where it does not
    belong.

    Parameters
    ----------
    structure : Structure
        Of the model.
    state : dict of str to tensor
        Weights in general position.
    move : str
        Kind of move; ``permute`` for a group without any.
    seed : int
        Of the element.
    """
    halves = _permuted(structure, state) if move == "permute" else _gauged(structure, state, move, seed)
    found = False
    for half in halves:
        found = True
        yield half
    if not found and move == "permute":
        yield from islice(_flipped(structure, state), CONTROLS)
    elif move != "permute":
        yield from islice(_strayed(structure, state, move, seed), CONTROLS)


def _permuted(structure: Structure, state: State) -> Iterator[tuple[str, State]]:
    """The units of one space reversed in one tensor, the largest spaces first."""
    group = structure.group
    identity = group.identity()
    permuted = [space for space in structure.spaces if space.name in identity]
    for space in sorted(permuted, key=lambda s: -s.size)[:CONTROLS]:
        places = list(dict.fromkeys(name for name, _ in space.occurrences if name in state))
        if len({tensor_identity(state[name]) for name in places}) < 2:
            continue
        part = Part(identity[space.name].permutation[..., ::-1].copy())
        moved = act(Element(group.spaces, {**identity, space.name: part}), structure, state)
        name = max(places, key=lambda n: (moved[n] is not state[n], state[n].ndim))
        yield name, replaced(state, name, moved[name])


def _gauged(structure: Structure, state: State, move: str, seed: int) -> Iterator[tuple[str, State]]:
    """The values of one gauge in one tensor, those that act on most entries first."""
    group = structure.group
    identity, element = group.identity(), element_of(structure, move, seed)
    gauges = [gauge for gauge in group.gauges if gauge.kind.move == move]
    for gauge in sorted(gauges, key=lambda g: -_reach(structure, state, g))[:CONTROLS]:
        alone = Element(group.spaces, identity, group.gauges, {gauge.name: element.values[gauge.name]})
        moved = act(alone, structure, state)
        changed = {tensor_identity(t): name for name, t in state.items() if moved[name] is not t}
        if len(changed) > 1:
            for name in sorted(changed.values(), key=lambda n: -state[n].numel())[:2]:
                yield name, replaced(state, name, moved[name])


def _reach(structure: Structure, state: State, gauge: Gauge) -> int:
    return sum(state[name].numel() for name in structure.weights.get(gauge.name, ()) if name in state)


def _flipped(structure: Structure, state: State) -> Iterator[tuple[str, State]]:
    """States in which some axis that is held still is reversed."""
    names = [n for n, t in state.items() if is_float(t) and t.ndim and n not in structure.unused]
    for name in sorted(names, key=lambda n: -state[n].ndim):
        for dim, size in enumerate(state[name].shape):
            if size > 1:
                yield name, replaced(state, name, state[name].flip(dim))


def _strayed(structure: Structure, state: State, move: str, seed: int) -> Iterator[tuple[str, State]]:
    """A move on the rows of a tensor on which no gauge of its kind acts; on others if there is none."""
    sampler = Sampler(seed)
    touched = {n for gauge in structure.gauges if gauge.kind.move == move for n in structure.weights[gauge.name]}
    names = [n for n, t in state.items() if is_float(t) and t.numel() and n not in structure.unused]
    for name in sorted(names, key=lambda n: (n in touched, -state[n].numel())):
        yield name, replaced(state, name, _stray(move, state[name], sampler))


def _stray(move: str, tensor: Tensor, sampler: Sampler) -> Tensor:
    """Flip, scale, reflect or translate the first axis of a tensor."""
    rows = tensor.reshape(len(tensor) if tensor.ndim else 1, -1)
    direction = sampler.normal(rows[:, :1])
    match move:
        case "sign":
            moved = rows * torch.where(direction >= direction.median(), -1, 1)
        case "scale":
            moved = rows * torch.exp2(direction)
        case "mix":
            moved = rows - 2 * direction @ (direction.mT @ rows) / (direction * direction).sum()
        case _:
            moved = rows + direction
    return moved.reshape(tensor.shape)
