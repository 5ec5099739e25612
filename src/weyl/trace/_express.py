"""From settled cells to a :class:`Structure`: names, axis expressions, simplifications."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from weyl.groups import Kind, Space
from weyl.structure import Axis, Cases, Fixed, Product, Sum, Units, spaces_of
from weyl.trace import _cells as cells
from weyl.trace._cells import Cell, find, flatten
from weyl.trace._nest import specialise
from weyl.trace._unify import Unifier

__all__ = ["Expressions", "express", "merge_inseparable", "simplify"]


@dataclass
class Expressions:
    """Axis expressions in provisional names, and the atom behind every name."""

    axes: dict[str, tuple[Axis, ...]] = field(default_factory=dict)
    atoms: dict[str, Cell] = field(default_factory=dict)
    names: dict[Cell, str] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)

    def name(self, atom: Cell) -> str:
        """Provisional name of an atom."""
        if atom not in self.names:
            self.names[atom] = f"u{len(self.names)}"
            self.atoms[self.names[atom]] = atom
        return self.names[atom]

    def final(self, atom: Cell) -> str:
        """The name under which an atom ended up."""
        name = self.names[atom]
        while name in self.merged:
            name = self.merged[name]
        return name


def express(unifier: Unifier, parameters: dict[str, tuple[cells.Axis, ...]]) -> Expressions:
    """Write every axis of every parameter as an expression in atoms."""
    out = Expressions()
    known: dict[tuple[tuple[int, ...], ...], tuple[Axis, ...]] = {}
    for name, axes in parameters.items():
        key = tuple(tuple(map(id, flatten(axis))) for axis in axes)
        if key not in known:
            known[key] = tuple(_whole(unifier, out, axes, dim) for dim in range(len(axes)))
        out.axes[name] = known[key]
    return out


def _whole(unifier: Unifier, out: Expressions, axes: tuple[cells.Axis, ...], dim: int) -> Axis:
    """One axis; cases where it depends on the part of a sum that is another axis."""
    factors = flatten(axes[dim])
    for other, axis in enumerate(axes):
        home = flatten(axis)
        if other == dim or len(home) != 1 or not isinstance(home[0], Cell) or home[0].parts is None:
            continue
        total = home[0]
        if total not in factors and _depends_on(factors, total):
            options = (specialise(unifier, axes[dim], total, identity) for identity in total.ids)
            return Cases(other, tuple(_axis(unifier, out, option) for option in options))
    return _axis(unifier, out, axes[dim])


def _depends_on(factors: list[cells.Factor], total: Cell) -> bool:
    for factor in factors:
        if isinstance(factor, Cell):
            if any(find(key[0]) is total for key in factor.table):
                return True
            if any(_depends_on(flatten(part), total) for part in factor.parts or []):
                return True
    return False


def _axis(unifier: Unifier, out: Expressions, axis: cells.Axis) -> Axis:
    factors = flatten(axis)
    if not factors:
        return Fixed(1)
    done: list[Axis] = []
    for place, factor in enumerate(factors):
        if not isinstance(factor, Cell):  # only of size 0: a parameter is uniform along nothing else
            return Fixed(0)
        if factor.parts is None:
            done.append(Units(out.name(factor), factor.size))
            continue
        rest = factors[place + 1 :]
        if _depends_on(rest, factor):
            parts = [
                _axis(unifier, out, (*part, *specialise(unifier, tuple(rest), factor, identity)))
                for identity, part in zip(factor.ids, factor.parts, strict=True)
            ]
            done.append(Sum(tuple(parts)))
            break
        done.append(Sum(tuple(_axis(unifier, out, part) for part in factor.parts)))
    return done[0] if len(done) == 1 else Product(tuple(done))


def merge_inseparable(out: Expressions, inner_of: dict[str, set[str]]) -> dict[str, set[str]]:
    """Merge atoms that always stand side by side, in one order: a cut that no operator made use of.

    ``inner_of[b]`` are the atoms within which ``b`` may live. Where two live within each other every
    permutation of the pairs is allowed; as one space if their positions always form one run, otherwise the second
    is taken to be inside the first (a smaller group, but one that axis expressions can name).
    """
    while True:
        pair = next(((a, b) for b, outer in inner_of.items() for a in outer if b in inner_of.get(a, ())), None)
        if pair is None:
            return inner_of
        a, b = pair
        sides = [_adjacent(out, first, second) for first, second in ((a, b), (b, a))]
        if not any(sides):
            first = _first_of(out, a, b)
            inner_of[first].discard(b if first == a else a)
            continue
        first, second = (a, b) if sides[0] else (b, a)
        merged = f"{first}_{second}"
        size = out.atoms[first].size * out.atoms[second].size
        out.atoms[merged] = Cell(size, out.atoms[first].pin)
        out.merged.update({first: merged, second: merged})
        out.axes = {n: tuple(_fuse(x, first, second, merged, size) for x in axes) for n, axes in out.axes.items()}
        inner_of[merged] = (inner_of.pop(first) | inner_of.pop(second)) - {first, second}
        for name, outer in inner_of.items():
            if outer & {first, second}:
                inner_of[name] = (outer - {first, second}) | {merged}


def _first_of(out: Expressions, a: str, b: str) -> str:
    for axes in out.axes.values():
        for axis in axes:
            for name in spaces_of(axis):
                if name in (a, b):
                    return name
    return a


def _products(axis: Axis) -> Iterator[tuple[Axis, ...]]:
    match axis:
        case Product(factors):
            yield factors
            for factor in factors:
                if not isinstance(factor, Units):
                    yield from _products(factor)
        case Sum(children) | Cases(_, children):
            for child in children:
                yield from _products(child)
        case _:
            yield (axis,)


def _adjacent(out: Expressions, a: str, b: str) -> bool:
    """Whether every ``a`` is directly followed by ``b`` and every ``b`` directly preceded by ``a``."""
    for factors in _all_products(out):
        names = [f.space if isinstance(f, Units) else None for f in factors]
        follows = [i + 1 for i, n in enumerate(names) if n == a]
        if follows != [i for i, n in enumerate(names) if n == b]:
            return False
    return True


def _all_products(out: Expressions) -> Iterator[tuple[Axis, ...]]:
    for axes in out.axes.values():
        for axis in axes:
            yield from _products(axis)


def _fuse(axis: Axis, a: str, b: str, merged: str, size: int) -> Axis:
    match axis:
        case Product(factors):
            fused: list[Axis] = []
            for factor in factors:
                last = fused[-1] if fused else None
                if isinstance(factor, Units) and factor.space == b and isinstance(last, Units) and last.space == a:
                    fused[-1] = Units(merged, size)
                else:
                    fused.append(_fuse(factor, a, b, merged, size))
            return fused[0] if len(fused) == 1 else Product(tuple(fused))
        case Sum(parts):
            return Sum(tuple(_fuse(p, a, b, merged, size) for p in parts))
        case Cases(dim, options):
            return Cases(dim, tuple(_fuse(o, a, b, merged, size) for o in options))
        case _:
            return axis


def simplify(axes: tuple[Axis, ...], names: dict[str, str]) -> tuple[Axis, ...]:
    """Final names; everything that is not a named space becomes fixed, and runs of fixed positions one."""
    keep = {axis.dim for axis in axes if isinstance(axis, Cases)}
    return tuple(_simple(axis, names, whole=dim in keep) for dim, axis in enumerate(axes))


def _simple(axis: Axis, names: dict[str, str], whole: bool = False) -> Axis:
    match axis:
        case Units(space, size):
            return Units(names[space], size) if space in names else Fixed(size)
        case Product(factors):
            flat = [f for child in factors for f in _opened(_simple(child, names), Product)]
            return _rebuild(_run(flat, times=True), Product)
        case Sum(parts):
            if whole:
                return Sum(tuple(_simple(part, names) for part in parts))
            flat = [p for child in parts for p in _opened(_simple(child, names), Sum)]
            return _rebuild(_run(flat, times=False), Sum)
        case Cases(dim, options):
            return Cases(dim, tuple(_simple(option, names) for option in options))
        case _:
            return axis


def _opened(axis: Axis, kind: type) -> tuple[Axis, ...]:
    if isinstance(axis, Product) and kind is Product:
        return axis.factors
    if isinstance(axis, Sum) and kind is Sum:
        return axis.parts
    return (axis,)


def _run(children: list[Axis], times: bool) -> list[Axis]:
    """Neighbouring fixed positions as one."""
    out: list[Axis] = []
    for child in children:
        last = out[-1] if out else None
        if isinstance(child, Fixed) and child.size == 1 and times:
            continue
        if isinstance(child, Fixed) and isinstance(last, Fixed):
            out[-1] = Fixed(last.size * child.size if times else last.size + child.size)
        else:
            out.append(child)
    return out or [Fixed(1)]


def _rebuild(children: list[Axis], kind: type[Product] | type[Sum]) -> Axis:
    return children[0] if len(children) == 1 else kind(tuple(children))


def name_spaces(axes: dict[str, tuple[Axis, ...]], chosen: Iterable[str]) -> dict[str, str]:
    """A readable name for every space: the module of the parameter whose rows write it, numbered if shared."""
    wanted = set(chosen)
    first: dict[str, str] = {}
    for rows in (True, False):
        for parameter, expressions in axes.items():
            for axis in expressions[:1] if rows else expressions:
                for space in spaces_of(axis):
                    if space in wanted:
                        first.setdefault(space, parameter)
    order = list(dict.fromkeys(s for expressions in axes.values() for a in expressions for s in spaces_of(a)))
    taken: set[str] = set()
    names: dict[str, str] = {}
    for space in (s for s in order if s in wanted):
        base = first[space].rpartition(".")[0] or first[space]
        name, number = base, 2
        while name in taken:
            name, number = f"{base}#{number}", number + 1
        taken.add(name)
        names[space] = name
    return names


def kind_of(moves: frozenset[str]) -> Kind:
    """The largest kind whose moves are all among the given ones."""
    kinds = [kind for kind in Kind if kind.moves <= moves]
    return max(kinds, key=lambda kind: len(kind.moves))


def make_spaces(
    names: dict[str, str], out: Expressions, within: dict[str, set[str]], kinds: Mapping[str, frozenset[str]]
) -> tuple[tuple[Space, ...], tuple[Space, ...]]:
    """Spaces (outer before inner) and the fixed indices that tell copies of them apart.

    ``kinds`` says what acts on an atom beside permutations.
    """
    depth = {name: len(within.get(name, ())) for name in names}
    ordered = sorted(names, key=lambda name: depth[name])
    spaces, indices = [], []
    for name in ordered:
        atom = out.atoms[name]
        outer = tuple(names[o] for o in sorted(within.get(name, ()), key=lambda o: (depth[o], ordered.index(o))))
        moves = kinds.get(name, frozenset()) | ({"permute"} if atom.pin is None else set())
        if moves:
            spaces.append(Space(names[name], atom.size, kind_of(moves), outer))
        else:
            indices.append(Space(names[name], atom.size, Kind.TRIVIAL))
    return tuple(spaces), tuple(indices)
