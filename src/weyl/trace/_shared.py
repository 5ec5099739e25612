"""Biases that are added to each other: one may take from the other, and the sum stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch.utils._pytree import tree_leaves

from weyl.groups import GaugeKind
from weyl.trace._cells import Cell
from weyl.trace._dead import innermost
from weyl.trace._gauges import Generator, Place
from weyl.trace._grade import Entry, Grader
from weyl.trace._graded import Graded, Strand
from weyl.trace._values import Value
from weyl.trace.rules._recurrent import GATES

__all__ = ["find_shared"]

# Gates to which both biases of a recurrent layer are added alike; the candidate of a GRU scales one of them.
ALIKE = {"lstm": (0, 1, 2, 3), "gru": (0, 1), "rnn_tanh": (0,), "rnn_relu": (0,)}
# Operators that leave the last dimension of a parameter as it is.
PARTS = frozenset("slice unsqueeze expand clone contiguous".split())


@dataclass(frozen=True)
class _Graph:
    """Who makes and who reads each value, and what is known of parameters."""

    grader: Grader
    parameters: Mapping[str, Graded]
    names: Mapping[int, str]
    uses: Mapping[str, int]
    made: Mapping[int, Entry]
    readers: Mapping[int, list[Entry]]

    def own(self, value: object) -> str | None:
        """Name of a parameter that may change and that one operator reads, or None."""
        name = self.names.get(id(value))
        return name if name is not None and name in self.parameters and self.uses[name] == 1 else None


def find_shared(
    grader: Grader,
    log: Sequence[Entry],
    outputs: object,
    parameters: Mapping[str, Graded],
    names: Mapping[int, str],
    uses: Mapping[str, int],
    within: Mapping[Cell, frozenset[Cell]],
) -> list[Generator]:
    """Translations of one bias that another takes back: of recurrent layers, and of whatever a sum adds.

    Parameters
    ----------
    grader, log, outputs
        As graded.
    parameters : mapping of str to Graded
        Those that may change.
    names, uses
        Names of the values of parameters, and how often each parameter is read.
    within : mapping of Cell to frozenset of Cell
        Atoms on whose index the action on an atom may depend.
    """
    made = {id(result): entry for entry in log for result in entry.results if result is not None}
    readers: dict[int, list[Entry]] = defaultdict(list)
    returned = tuple(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Value))
    for entry in (*log, Entry(None, returned, ())):
        for value in entry.values:
            readers[id(value)].append(entry)
    graph = _Graph(grader, parameters, names, uses, made, readers)
    found: list[Generator] = []
    for entry in log:
        if entry.call is None:
            continue
        pairs = _recurrent(graph, entry) if entry.call.name.removesuffix("_cell") in ALIKE else _sum(graph, entry)
        for strand, added in pairs:
            atom = innermost(grader, strand, within)
            if atom is not None:
                at = [cell for cell, _ in strand.atoms].index(atom)
                places: dict[Place, float] = {(*place, at): c for place, c in added.items()}
                found.append(Generator(atom, GaugeKind.TRANSLATION, {}, added=places))
    return found


Added = dict[tuple[str, int, int], float]


def _recurrent(graph: _Graph, entry: Entry) -> Iterator[tuple[Strand, Added]]:
    """The two biases of every layer and direction, gate by gate."""
    call = entry.call
    assert call is not None
    name = call.name.removesuffix("_cell")
    if call.name.endswith("_cell"):
        weights = [call["w_ih"], call["w_hh"], call.get("b_ih"), call.get("b_hh")]
        per_cell = 4
    elif call.get("has_biases"):
        weights = list(call["params"])
        per_cell = len(weights) // (call["num_layers"] * (2 if call["bidirectional"] else 1))
    else:
        return
    for start in range(0, len(weights), per_cell):
        one, other = (graph.own(w) for w in weights[start + 2 : start + 4])
        if one is None or other is None or one == other:
            continue
        size = weights[start].shape[0] // GATES[name]
        rows = {t.strands[0]: n for n, t in enumerate(graph.parameters[other].terms or ())}
        for number, term in enumerate(graph.parameters[one].terms or ()):
            strand = term.strands[0]
            if strand in rows and strand.base // size in ALIKE[name] and strand.base // size == strand.last // size:
                yield strand, {(one, number, 0): 1.0, (other, rows[strand], 0): -1.0}


def _sum(graph: _Graph, entry: Entry) -> Iterator[tuple[Strand, Added]]:
    """Biases among the terms of a sum: each but the first together with the first."""
    result = entry.results[0] if len(entry.results) == 1 else None
    if not _adds(entry) or result is None or not result.ndim:
        return
    if len(graph.readers[id(result)]) == 1 and _adds(graph.readers[id(result)][0]):
        return  # a part of a longer sum
    found: dict[str, tuple[int, int]] = {}
    for value, sign in _terms(graph, entry, 1):
        place = _bias(graph, value) if value.shape[-1:] == result.shape[-1:] else None
        if place is not None and place[0] not in found:
            found[place[0]] = (place[1], sign)
    (first, *rest) = found or [""]
    for strand in {term.strands[-1] for term in graph.grader.get(result).terms or ()}:
        taken = _places(graph, first, found[first][0], strand) if first else []
        for other in rest:
            given = _places(graph, other, found[other][0], strand)
            if taken and given:
                added: Added = dict.fromkeys(taken, float(found[first][1]))
                added.update(dict.fromkeys(given, -float(found[other][1])))
                yield strand, added


def _adds(entry: Entry) -> bool:
    call = entry.call
    return call is not None and call.name in ("add", "sub") and call.get("alpha", 1) == 1 and len(entry.values) == 2


def _terms(graph: _Graph, entry: Entry, sign: int) -> Iterator[tuple[Value, int]]:
    """The terms of a sum of sums, with signs; sums that something else reads as well stay whole."""
    assert entry.call is not None
    for name in ("self", "other"):
        value = entry.call[name]
        own = -sign if name == "other" and entry.call.name == "sub" else sign
        inner = graph.made.get(id(value))
        if inner is not None and _adds(inner) and len(graph.readers[id(value)]) == 1:
            yield from _terms(graph, inner, own)
        else:
            yield value, own


def _bias(graph: _Graph, value: Value) -> tuple[str, int] | None:
    """The parameter, and its dimension, that adds the same to every place of a term, and to nothing else."""
    name = graph.own(value)
    if name is not None:
        return (name, value.ndim - 1) if value.ndim else None
    entry = graph.made.get(id(value))
    if entry is None or entry.call is None or len(graph.readers[id(value)]) != 1:
        return None
    call = entry.call
    if call.name == "embedding":
        name = graph.own(call["weight"])
        return None if name is None else (name, 1)
    if call.name == "linear":
        name = graph.own(call.get("bias"))
        return None if name is None else (name, 0)
    if call.name in PARTS and len(entry.values) == 1 and entry.values[0].shape[-1:] == value.shape[-1:]:
        name = graph.own(entry.values[0])
        return None if name is None else (name, entry.values[0].ndim - 1)
    return None


def _places(graph: _Graph, name: str, dim: int, strand: Strand) -> list[tuple[str, int, int]]:
    """Blocks of a parameter that have a strand in a dimension."""
    terms = graph.parameters[name].terms or ()
    return [(name, number, dim) for number, term in enumerate(terms) if term.strands[dim] == strand]
