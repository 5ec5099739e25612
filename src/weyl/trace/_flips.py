"""Flips of sigmoids: ``sigmoid(-x) = 1 - sigmoid(x)``, where the biases of all readers can take up the constant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch.utils._pytree import tree_leaves

from weyl.trace._grade import Entry, Grader
from weyl.trace._graded import Graded, Term
from weyl.trace._values import Value

__all__ = ["Reader", "find_readers"]

# Operators that give the same entries.
CARRIERS = frozenset(
    """clone contiguous detach alias lift_fresh_copy to _to_copy dropout view reshape flatten unflatten squeeze
    unsqueeze _unsafe_view permute transpose""".split()
)


@dataclass(frozen=True)
class Reader:
    """A linear map or convolution that reads a sigmoid: names of its weight and bias, and what it reads.

    ``dim`` is the dimension of the units in the input, 1 being that of the weight.
    """

    weight: str
    bias: str
    read: Graded
    dim: int

    def terms(self) -> Iterator[Term]:
        """Blocks of the input."""
        yield from self.read.terms or ()


def find_readers(
    grader: Grader,
    log: Sequence[Entry],
    outputs: object,
    free: Collection[str],
    names: Mapping[int, str],
    uses: Mapping[str, int],
) -> list[Reader]:
    """Follow every sigmoid to its readers; where one cannot take up the constant, the sigmoid does not flip.

    Parameters
    ----------
    grader : Grader
        With all equations; more are added.
    log : sequence of Entry
        All operators.
    outputs : tree of Value
        What is returned.
    free : collection of str
        Names of the parameters that may change.
    names : mapping of int to str
        Names of the values that are parameters.
    uses : mapping of str to int
        How many operators read each parameter.
    """
    readers_of: dict[int, list[Entry]] = defaultdict(list)
    for entry in log:
        for value in entry.values:
            readers_of[id(value)].append(entry)
    movable = {identity: name for identity, name in names.items() if name in free}
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Value):
            readers_of[id(leaf)].append(Entry(None, (leaf,), ()))
    found: list[Reader] = []
    for source in grader.flips:
        readers = _follow(grader, source, readers_of, movable, uses)
        if readers is None:
            grader.kill(grader.get(source), scale=False)
            continue
        for reader in readers:
            _only_units(grader, reader)
        found.extend(readers)
    return found


def _follow(
    grader: Grader,
    source: Value,
    readers_of: Mapping[int, list[Entry]],
    names: Mapping[int, str],
    uses: Mapping[str, int],
) -> list[Reader] | None:
    """The readers of a value, through views; None if one of them is not affine with a bias of its own."""
    found: list[Reader] = []
    stack = [source]
    while stack:
        value = stack.pop()
        for entry in readers_of[id(value)]:
            call = entry.call
            if call is not None and call.name in CARRIERS and len(entry.values) == 1:
                stack.extend(result for result in entry.results if result is not None)
                continue
            reader = _reader(grader, entry, value, names, uses)
            if reader is None:
                return None
            found.append(reader)
    return found


def _reader(
    grader: Grader, entry: Entry, value: Value, names: Mapping[int, str], uses: Mapping[str, int]
) -> Reader | None:
    call = entry.call
    if call is None or sum(v is value for v in entry.values) != 1 or call.get("input") is not value:
        return None
    if call.name == "linear" and call["weight"].ndim == 2:
        dim = value.ndim - 1
    elif (
        call.name in ("conv1d", "conv2d", "conv3d") and call.get("groups", 1) == 1 and _unpadded(call.get("padding", 0))
    ):
        dim = value.ndim - call["weight"].ndim + 1
    else:
        return None
    weight, bias = names.get(id(call["weight"])), names.get(id(call.get("bias")))
    if weight is None or bias is None or weight == bias or uses[bias] != 1:
        return None
    return Reader(weight, bias, grader.get(value), dim)


def _unpadded(padding: object) -> bool:
    if isinstance(padding, str):
        return padding == "valid"
    return padding == 0 or (isinstance(padding, (list, tuple)) and all(p == 0 for p in padding))


def _only_units(grader: Grader, reader: Reader) -> None:
    """Only the units that the reader sums over flip; not places, samples, or the tensor as a whole."""
    for term in reader.terms():
        grader.signs.zero(term.scalar)
        for dim, unknowns in enumerate(term.unknowns):
            if dim != reader.dim:
                for unknown in unknowns:
                    grader.signs.zero(unknown)
