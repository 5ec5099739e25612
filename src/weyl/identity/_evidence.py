"""Evidence that one of two networks was derived from the other: p-values that no relabelling of units breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from weyl._text import one_line
from weyl.errors import NotFiniteError
from weyl.identity._chains import Halves, Split, follow, halves_of, planned, split_of, testable, width
from weyl.identity._rows import matched_once, matched_twice, rows_of
from weyl.identity._statistics import either, fisher, fixed_points_p, relabelled, spearman_p
from weyl.identity._upright import upright
from weyl.matching._build import build
from weyl.matching._problem import Problem
from weyl.structure import Structure

__all__ = ["Evidence", "SpaceEvidence", "Way", "evidence"]

KINDS = frozenset({"permute", "sign", "mix"})


class Way(NamedTuple):
    """One way in which the units of a space were matched twice: its p-value, its agreement, and the tensors used.

    `second` is empty where two halves of the first were used.
    """

    match_p: float
    agreement: float
    first: tuple[str, ...]
    second: tuple[str, ...]


@dataclass(frozen=True)
class SpaceEvidence:
    """What two matchings of the units of one space say.

    Parameters
    ----------
    name : str
        The space.
    units, copies : int
        Units of one copy, and how many copies there are.
    first, second : tuple of str
        Tensors of the two matchings; empty if no two groups could be told apart.
    csu_p : float or None
        Chance that units of unrelated networks stand in the same order so often: near 0 for two networks with one
        numbering. None if the space has no rows to compare.
    match_p : float or None
        Chance that two matchings of unrelated networks agree as much, whatever the numbering; uniform for those.
    agreement : float or None
        Share of units that both matchings send to the same place.
    agreement_p : float or None
        Chance of so many fixed points in random permutations: sharper than `match_p`, but not as exact.
    kept : float or None
        Share of units whose best partner has their own index.
    products : bool
        Whether units were compared by Gram matrices of what lives within them, such as heads.
    halves : tuple of str
        Tensors that were cut in half for two further matchings, each by half of the units of another space.
    halves_p, halves_agreement : float or None
        What these say.
    """

    name: str
    units: int
    copies: int
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    csu_p: float | None = None
    match_p: float | None = None
    agreement: float | None = None
    agreement_p: float | None = None
    kept: float | None = None
    products: bool = False
    halves: tuple[str, ...] = ()
    halves_p: float | None = None
    halves_agreement: float | None = None

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways in which units could be matched twice, the one that says most first."""
        found = []
        if self.match_p is not None and self.agreement is not None:
            found.append(Way(self.match_p, self.agreement, self.first, self.second))
        if self.halves_p is not None and self.halves_agreement is not None:
            found.append(Way(self.halves_p, self.halves_agreement, self.halves, ()))
        return tuple(sorted(found, key=lambda way: way.match_p))


@dataclass(frozen=True)
class Evidence:
    """Evidence that one network was derived from another.

    Parameters
    ----------
    spaces : tuple of SpaceEvidence
        One for every space whose units trade places.
    match_p, csu_p : float
        Of all spaces together, by Fisher's method; 1 where there is nothing to test. For `match_p` of both ways to
        match twice, the smaller with Šidák's correction for two.
    agreement_p : float
        Chance that random permutations of all spaces have as many fixed points together, for both ways likewise.
    agreement, kept : float or None
        Shares over the units of all spaces; the first of the way that says more.
    seed : int
        Of the relabellings.
    """

    spaces: tuple[SpaceEvidence, ...]
    match_p: float
    csu_p: float
    agreement_p: float
    agreement: float | None
    kept: float | None
    seed: int

    @property
    def heads(self) -> tuple[SpaceEvidence, ...]:
        """Spaces of which units were compared by what matrices within them leave alone."""
        return tuple(space for space in self.spaces if space.products)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "spaces": [asdict(space) for space in self.spaces]}


def evidence(
    structure: Structure,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Evidence:
    r"""Test whether two states were trained apart.

    Units of every space are matched twice, from tensors that share nothing: what goes in, and what comes out, either
    read in frames that were found from one end of the network or the other. Networks that were trained apart give two
    permutations that have nothing to do with each other; of networks that one training gave, both are the relabelling
    that hides it. Spearman's correlation of the two, under random labels, gives the p-value. A second pair of matchings
    uses either half of the units that a space is connected to; it needs only one end of the network, where the other
    was replaced.

    What all trainings on one task have in common would make the matchings agree, too. It is removed: the leading
    directions of one side, over the units, are projected out of the other, and all directions that are left count
    alike.

    Parameters
    ----------
    structure : Structure
        Of both.
    a, b : mapping of str to tensor
        Whole states, scales and linear gauges settled (in the normal gauge); not changed.
    seed : int
        Of the relabellings, and of what breaks ties.
    progress : callable, optional
        Gets the name of every space.

    Returns
    -------
    Evidence

    Raises
    ------
    NotFiniteError
        If a tensor has NaN or infinite entries.

    References
    ----------
    Zhu et al., "Independence tests for language models", 2025: the statistics CSU and MATCH.

    Examples
    --------
    >>> import torch, weyl
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(9, 64), nn.GELU(), nn.Linear(64, 9))
    >>> structure = weyl.discover(net, (torch.zeros(1, 9),))
    >>> generator = torch.Generator().manual_seed(0)
    >>> a, other = ({n: torch.randn(t.shape, generator=generator) for n, t in net.state_dict().items()} for _ in "ab")
    >>> order = torch.randperm(64, generator=generator)
    >>> b = {"0.weight": a["0.weight"][order], "0.bias": a["0.bias"][order],
    ...      "2.weight": a["2.weight"][:, order], "2.bias": a["2.bias"]}
    >>> evidence(structure, a, b).match_p < 1e-10, evidence(structure, a, other).match_p > 0.01
    (True, True)
    """
    _check(structure, a, b)
    still = upright(build(structure, a, b, KINDS))
    names = testable(still)
    generators = {name: np.random.default_rng([seed, place]) for place, name in enumerate(names)}
    same = {name: _same_numbers(still, name, generators[name]) for name in names}
    bottom, top = planned(still), planned(upright(build(structure, a, b, KINDS)), backwards=True)
    splits = {name: split for name in names if (split := split_of(bottom, top, name))}
    halves = {name: half for name in names if (half := halves_of((bottom, top), name))}
    reads = [(own, group) for s in splits.values() for own, group in zip(s.chains, (s.first, s.second), strict=True)]
    for chain in (bottom, top):
        follow(chain, [*reads, *((half.chain, half.places) for half in halves.values())])
    found, tallies = [], (_Tally(), _Tally())
    for place, name in enumerate(names):
        if progress is not None:
            progress(name)
        cut = np.random.default_rng([seed, place, 1])
        pairs = _matched(name, splits.get(name), generators[name]), _halved(name, halves.get(name), cut)
        drawn = generators[name], cut
        own = [tally.add(several, rng) for tally, several, rng in zip(tallies, pairs, drawn, strict=True)]
        found.append(_space(still, name, splits.get(name), halves.get(name), same[name], own))
    orders = [p for several, _ in same.values() for p in several]
    kept = [(share, still.units[name].size) for name, (_, shares) in same.items() for share in shares]
    first = min(tallies, key=lambda tally: tally.chance)
    return Evidence(
        tuple(found),
        either([tally.chance for tally in tallies if tally.sizes]),
        fisher(orders),
        either([fixed_points_p(tally.hits, tally.sizes) for tally in tallies if tally.sizes]),
        first.share,
        sum(share * size for share, size in kept) / sum(size for _, size in kept) if kept else None,
        seed,
    )


def _check(structure: Structure, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    for which, state in (("first", a), ("second", b)):
        for name in structure.axes:
            if state[name].is_floating_point() and not bool(state[name].isfinite().all()):
                raise NotFiniteError(f"{one_line(name)!r} of the {which} state has NaN or infinite entries")


def _same_numbers(problem: Problem, name: str, generator: np.random.Generator) -> tuple[list[float], list[float]]:
    """For every copy of a space, the chance of the order of b as it stands, and the share of units that stayed."""
    places = [place for place in sorted(problem.places[name]) if width(problem, name, place)]
    if not places:
        return [], []
    chances, shares = [], []
    for found in matched_once(rows_of(problem, name, places), generator):
        still = np.arange(len(found))
        chances.append(spearman_p(*relabelled(found, still, generator), tie=_tie(generator)))
        shares.append(float((found == still).mean()))
    return chances, shares


def _tie(generator: np.random.Generator) -> float:
    """A number in (0, 1], so that p-values of few units are uniform and never zero."""
    return 1 - float(generator.random())


Pairs = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def _matched(name: str, split: Split | None, generator: np.random.Generator) -> Pairs:
    """Two matchings for every copy of a space, from two groups of tensors."""
    if split is None:
        return []
    # The frame may have moved the units themselves: in both groups they must have the numbers that they came with.
    groups = [
        {
            parity: (ours, chain.undone(name, parity, theirs))
            for parity, (ours, theirs) in rows_of(chain.problem, name, places).items()
        }
        for chain, places in zip(split.chains, (split.first, split.second), strict=True)
    ]
    return matched_twice(groups[0], groups[1], generator)


def _halved(name: str, halves: Halves | None, generator: np.random.Generator) -> Pairs:
    """Two matchings for every copy of a space, from two halves of the units of another one."""
    if halves is None:
        return []
    problem = halves.chain.problem
    order = generator.permutation(problem.units[halves.columns].size)
    cut = len(order) // 2
    groups = [rows_of(problem, name, halves.places, (halves.columns, part)) for part in (order[:cut], order[cut:])]
    return matched_twice(groups[0], groups[1], generator)


@dataclass
class _Tally:
    """What one way to match twice says over all spaces."""

    chances: list[float] = field(default_factory=list)
    hits: int = 0
    sizes: list[int] = field(default_factory=list)

    def add(self, pairs: Pairs, generator: np.random.Generator) -> dict[str, Any]:
        """Count one space, and return what is said of it."""
        if not pairs:
            return {}
        chances = [spearman_p(*relabelled(*pair, generator), tie=_tie(generator)) for pair in pairs]
        hits = sum(int((one == other).sum()) for one, other in pairs)
        sizes = [len(one) for one, _ in pairs]
        self.chances += chances
        self.hits += hits
        self.sizes += sizes
        return {
            "match_p": fisher(chances),
            "agreement": hits / sum(sizes),
            "agreement_p": fixed_points_p(hits, sizes),
        }

    @property
    def chance(self) -> float:
        """All spaces together."""
        return fisher(self.chances)

    @property
    def share(self) -> float | None:
        """Of units that both matchings send to the same place."""
        return self.hits / sum(self.sizes) if self.sizes else None


def _space(
    problem: Problem,
    name: str,
    split: Split | None,
    halves: Halves | None,
    same: tuple[list[float], list[float]],
    found: Sequence[Mapping[str, Any]],
) -> SpaceEvidence:
    """What is found out about one space."""
    units = problem.units[name]
    copies = int(np.prod([problem.units[outer].size for outer in units.within], dtype=np.int64))
    orders, kept = same
    facts: dict[str, Any] = {
        "csu_p": fisher(orders) if orders else None,
        "kept": float(np.mean(kept)) if kept else None,
        "products": any(name in other.within for other in problem.units.values()),
        **found[0],
    }
    if split is not None and found[0]:
        facts |= {"first": _tensors(problem, split.first), "second": _tensors(problem, split.second)}
    if halves is not None and found[1]:
        facts |= {
            "halves": _tensors(problem, halves.places),
            "halves_p": found[1]["match_p"],
            "halves_agreement": found[1]["agreement"],
        }
    return SpaceEvidence(name, units.size, copies, **facts)


def _tensors(problem: Problem, places: tuple[tuple[int, int], ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(problem.terms[number].source for number, _ in places))
