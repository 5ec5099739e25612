"""Dead biases: what is added before a BatchNorm its mean takes away; what is added to keys, the softmax."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.utils._pytree import tree_leaves

from weyl.groups import GaugeKind
from weyl.trace._cells import Cell
from weyl.trace._gauges import Generator, Place
from weyl.trace._grade import Entry, Grader
from weyl.trace._graded import Graded, Strand, Term
from weyl.trace._solve import ZERO
from weyl.trace._values import Value

__all__ = ["Sources", "find_dead", "find_shifts", "find_sources", "innermost"]

# Products of queries with transposed keys, written by hand.
SCORES = frozenset("matmul bmm baddbmm".split())
CONVOLUTIONS = frozenset("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution".split())


@dataclass(frozen=True)
class Sources:
    """Where blocks of values come from and who reads them.

    ``biased`` has for the unknown of a block that was made by adding a bias: name of the bias, and block of the bias;
    ``readers`` the operators that compute with the block, and the argument, views left out.
    """

    biased: Mapping[int, tuple[str, int, Strand]]
    readers: Mapping[int, list[tuple[Entry, Value]]]

    def only_reader(self, term: Term | None, entry: Entry) -> bool:
        """Whether one operator, and one argument of it, is all that reads a block."""
        found = self.readers.get(term.scalar, []) if term is not None else []
        return len(found) == 1 and found[0][0] is entry


def find_sources(
    grader: Grader,
    log: Sequence[Entry],
    outputs: object,
    parameters: Mapping[str, Graded],
    names: Mapping[int, str],
    uses: Mapping[str, int],
) -> Sources:
    """Follow every block from the operator that made it to those that read it."""
    biased: dict[int, tuple[str, int, Strand]] = {}
    added = Counter(found[0] for found in (_bias(entry, names) for entry in log) if found is not None)
    readers: dict[int, list[tuple[Entry, Value]]] = defaultdict(list)
    returned = tuple(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Value))
    for entry in (*log, Entry(None, returned, ())):
        given = {t.scalar for value in entry.values for t in grader.get(value).terms or ()}
        made = {t.scalar for r in entry.results if r is not None for t in grader.get(r).terms or ()} - {ZERO}
        if entry.call is not None and made and given.issuperset(made):
            continue  # a view
        for value in entry.values:
            for term in grader.get(value).terms or ():
                readers[term.scalar].append((entry, value))
        found = _bias(entry, names)
        if found is not None and found[0] in parameters and uses[found[0]] == added[found[0]]:
            name, dim = found
            (result,) = (r for r in entry.results if r is not None)
            blocks = {t.strands[0]: n for n, t in enumerate(parameters[name].terms or ())}
            for term in grader.get(result).terms or ():
                strand = term.strands[dim]
                if strand in blocks:
                    biased[term.scalar] = (name, blocks[strand], strand)
    return Sources(biased, readers)


def _bias(entry: Entry, names: Mapping[int, str]) -> tuple[str, int] | None:
    """The bias that an operator adds, and the dimension along which it stands."""
    call = entry.call
    if call is None or len(entry.results) != 1 or entry.results[0] is None:
        return None
    rank = entry.results[0].ndim
    if call.name == "linear":
        bias, dim = call.get("bias"), rank - 1
    elif call.name == "addmm" and 0 not in (call.get("alpha", 1), call.get("beta", 1)):
        bias, dim = call["self"], rank - 1
        if call.get("beta", 1) != 1:
            return None
    elif call.name in CONVOLUTIONS:
        bias, dim = call.get("bias"), rank - call["weight"].ndim + 1
    else:
        return None
    name = names.get(id(bias))
    if name is None or not isinstance(bias, Value) or bias.ndim != 1:
        return None
    return name, dim


def find_dead(
    grader: Grader,
    log: Sequence[Entry],
    sources: Sources,
    parameters: Mapping[str, Graded],
    names: Mapping[int, str],
    uses: Mapping[str, int],
    within: Mapping[Cell, frozenset[Cell]],
) -> list[Generator]:
    """Translations of biases that leave the function as it is.

    A block of a bias may be translated if that is without effect wherever the block was added.
    """
    without_effect: dict[int, tuple[tuple[str, int], ...]] = {}
    for entry in log:
        if entry.call is not None and entry.call.name == "batch_norm":
            without_effect.update(_before_norm(grader, entry, sources, parameters, names, uses))
        elif entry.call is not None and entry.call.name == "scaled_dot_product_attention":
            without_effect.update(_of_keys(grader, entry, sources, entry.call["key"], -2))
        elif entry.call is not None and entry.call.name in SCORES and _softened(grader, entry, sources):
            without_effect.update(_of_keys(grader, entry, sources, entry.values[-1], -1))
    blocks: dict[tuple[str, int, Strand], list[int]] = defaultdict(list)
    for scalar, source in sources.biased.items():
        blocks[source].append(scalar)
    found: list[Generator] = []
    for (name, number, strand), made in blocks.items():
        also = {without_effect.get(scalar) for scalar in made}
        atom = innermost(grader, strand, within)
        if None in also or len(also) != 1 or atom is None:
            continue
        (further,) = also
        at = [cell for cell, _ in strand.atoms].index(atom)
        added: dict[Place, float] = {(n, block, 0, at): 1.0 for n, block in ((name, number), *(further or ()))}
        found.append(Generator(atom, GaugeKind.TRANSLATION, {}, added=added))
    return found


def find_shifts(grader: Grader, log: Sequence[Entry], sources: Sources) -> dict[int, Place]:
    """Unknown signs of sines whose argument a bias shifts, with the place in the bias; all others are zero.

    The bias must add to the sine alone: then half a period more changes the sign of the result.
    """
    blocks: dict[tuple[str, int, Strand], set[int]] = defaultdict(set)
    for scalar, source in sources.biased.items():
        blocks[source].add(scalar)
    entries = {id(e.call["self"]): e for e in log if e.call is not None and e.call.name in ("sin", "cos")}
    found: dict[int, Place] = {}
    for value, turned in grader.shifts:
        operand, entry = grader.get(value), entries[id(value)]
        scalars = {term.scalar for term in operand.terms or ()}
        alike = {term.strands: term for term in operand.terms or ()}
        for signs in turned.terms or ():
            term = alike.get(signs.strands)
            added = None if term is None else sources.biased.get(term.scalar)
            alone = added is not None and blocks[added] <= scalars and sources.only_reader(term, entry)
            grader.signs.zero(signs.scalar)
            for strand, unknowns in zip(signs.strands, signs.unknowns, strict=True):
                for unknown in unknowns:
                    if alone and added is not None and strand == added[2] and len(unknowns) == 1 and unknown:
                        found[unknown] = (added[0], added[1], 0, 0)
                    else:
                        grader.signs.zero(unknown)
    return found


def innermost(grader: Grader, strand: Strand, within: Mapping[Cell, frozenset[Cell]]) -> Cell | None:
    """The atom of a block that may depend on all others of it, so that its values are any values on the block."""
    cells = [cell for cell, _ in strand.atoms]
    if strand.uniform or len(set(cells)) != len(cells) or any(cell not in grader.tracked for cell in cells):
        return None
    return next((cell for cell in cells if set(cells) - {cell} <= within.get(cell, frozenset())), None)


def _before_norm(
    grader: Grader,
    entry: Entry,
    sources: Sources,
    parameters: Mapping[str, Graded],
    names: Mapping[int, str],
    uses: Mapping[str, int],
) -> dict[int, tuple[tuple[str, int], ...]]:
    """Blocks that only a BatchNorm reads, with the block of its running mean that is translated as well."""
    call = entry.call
    assert call is not None
    mean = names.get(id(call.get("running_mean")))
    if mean is None or mean not in parameters or uses[mean] != 1 or call.get("training", False):
        return {}
    blocks = {t.strands[0]: n for n, t in enumerate(parameters[mean].terms or ())}
    found: dict[int, tuple[tuple[str, int], ...]] = {}
    for term in grader.get(call["input"]).terms or ():
        source = sources.biased.get(term.scalar)
        if source is None or not sources.only_reader(term, entry):
            continue
        strand = source[2]
        if strand == term.strands[1] and strand in blocks:
            found[term.scalar] = ((mean, blocks[strand]),)
    return found


def _softened(grader: Grader, entry: Entry, sources: Sources) -> bool:
    """Whether a product, after sums and products with numbers, goes into a softmax of its last dimension only."""
    while True:
        value = entry.results[0]
        if value is None or len(entry.results) != 1:
            return False
        terms = grader.get(value).terms or ()
        readers = {id(e): e for term in terms for e, _ in sources.readers.get(term.scalar, ())}
        if not terms or len(readers) != 1 or any(len(sources.readers.get(t.scalar, ())) != 1 for t in terms):
            return False
        (entry,) = readers.values()
        call = entry.call
        if call is None:
            return False
        if not any(v is value for v in entry.values):
            return False  # a view between them: its last dimension may be another one
        if call.name in ("softmax", "_softmax"):
            return bool(call["dim"] % value.ndim == value.ndim - 1)
        others = [v for v in entry.values if v is not value]
        if call.name in ("mul", "div") and call["self"] is value and all(v.ndim == 0 for v in others):
            continue
        if call.name not in ("add", "sub") or call["self"] is not value:
            return False


def _of_keys(
    grader: Grader, entry: Entry, sources: Sources, key: Value, dim: int
) -> dict[int, tuple[tuple[str, int], ...]]:
    """Blocks that only attention reads, as its keys, with a bias that is the same at every place along a dimension."""
    blocks: dict[tuple[str, int, Strand], dict[int, Strand]] = defaultdict(dict)
    for term in grader.get(key).terms or ():
        source = sources.biased.get(term.scalar)
        if source is None or not sources.only_reader(term, entry) or sources.readers[term.scalar][0][1] is not key:
            continue
        own = {cell for cell, _ in source[2].atoms}
        if not any(cell in own for cell, _ in term.strands[dim].atoms):
            blocks[source][term.scalar] = term.strands[dim]
    found: dict[int, tuple[tuple[str, int], ...]] = {}
    for scalars in blocks.values():
        # the same at every place: its blocks cover the whole dimension
        if sum(places.count for places in set(scalars.values())) == key.shape[dim]:
            found.update(dict.fromkeys(scalars, ()))
    return found
