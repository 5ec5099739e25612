"""Regular structures as recurrent matrices, which colour refinement cannot tell apart: the search has to."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.canonical.enumeration import Whole
from tests.laws.nets import Net, lin
from tests.orbits.test_orbit import ODD, table
from torch import Tensor, nn

import weyl
from weyl.canonical import canonicalize, fingerprint
from weyl.canonical._labelling import label
from weyl.errors import LimitError
from weyl.groups import Space
from weyl.structure import Product, Units

Matrix = NDArray[np.float64]
State = dict[str, Tensor]


def cycle(n: int) -> Matrix:
    return np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0)


def torus(steps: list[tuple[int, int]]) -> Matrix:
    """Places of a 4×4 torus, joined by steps and their negatives."""
    places = np.zeros((16, 16))
    for row, column in np.ndindex(4, 4):
        for down, right in steps:
            for sign in (1, -1):
                places[4 * row + column, 4 * ((row + sign * down) % 4) + (column + sign * right) % 4] = 1
    return places


TRIANGLES = np.kron(np.eye(2), cycle(3))
# Both are strongly regular with 16 vertices of degree 6; every two vertices have 2 common neighbours.
SHRIKHANDE = torus([(0, 1), (1, 0), (1, 1)])
ROOK = torus([(0, 1), (0, 2), (1, 0), (2, 0)])


def twisted(base: list[tuple[int, int]], vertices: int, twist: bool) -> Matrix:
    """Graphs of Cai, Fürer and Immerman over a base graph: even subsets of the edges of every vertex, odd at one."""
    ends = {(e, bit): at for at, (e, bit) in enumerate(np.ndindex(len(base), 2))}
    inner = []
    for vertex in range(vertices):
        edges = [e for e, pair in enumerate(base) if vertex in pair]
        for bits in np.ndindex(*[2] * len(edges)):
            if sum(bits) % 2 == (twist and vertex == 0):
                inner.append([ends[e, bit] for e, bit in zip(edges, bits, strict=True)])
    total = len(ends) + len(inner)
    graph = np.zeros((total, total))
    for at, places in enumerate(inner, len(ends)):
        graph[at, places] = graph[places, at] = 1
    # The two ends of an edge know each other.
    for e in range(len(base)):
        graph[ends[e, 0], ends[e, 1]] = graph[ends[e, 1], ends[e, 0]] = 2
    return graph


K4 = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


@cache
def rnn(units: int) -> weyl.Structure:
    """A recurrence that flips nothing and mixes nothing."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        h = net.w(x)
        return net.o(nn.functional.silu(net.h(nn.functional.silu(net.h(h)))))

    net = Net(run, w=lin(1, units), h=lin(units, units), o=lin(units, 1)).double().eval()
    return weyl.discover(net, (torch.ones(1, 1, dtype=torch.float64),))


def graph_state(graph: Matrix) -> State:
    structure = rnn(len(graph))
    shapes = {name: [axis.size for axis in axes] for name, axes in structure.axes.items()}
    return {name: torch.ones(shape, dtype=torch.float64) for name, shape in shapes.items()} | {
        "h.weight": torch.from_numpy(graph)
    }


def test_the_recurrence_is_one_space_of_permutations() -> None:
    structure = rnn(6)
    assert int(structure.group.order) == 720 and structure.group.dimension == 0


def prints(graph: Matrix, seeds: int = 3) -> set[str]:
    structure, state = rnn(len(graph)), graph_state(graph)
    copies = [weyl.act(structure.group.random(seed), structure, state) for seed in range(seeds)]
    assert any(not torch.equal(c["h.weight"], state["h.weight"]) for c in copies)
    return {fingerprint(structure, s) for s in (state, *copies)}


@pytest.mark.parametrize(
    ("one", "other", "orders"),
    [
        (cycle(6), TRIANGLES, (12, 72)),
        (cycle(8), np.kron(np.eye(2), cycle(4)), (16, 128)),
        (SHRIKHANDE, ROOK, (192, 1152)),
    ],
    ids=["cycles of 6", "cycles of 8", "strongly regular"],
)
def test_graphs_that_refinement_confuses(one: Matrix, other: Matrix, orders: tuple[int, int]) -> None:
    """Degrees agree, so that no colour splits; permuted copies agree, the other graph does not."""
    assert (one.sum(0) == one.sum() / len(one)).all() and one.sum() == other.sum()
    left, right = prints(one), prints(other)
    assert len(left) == len(right) == 1 and left != right
    for graph, order in ((one, orders[0]), (other, orders[1])):
        form = canonicalize(rnn(len(graph)), graph_state(graph))
        assert form.stabilizer == order and form.exact
        assert form.ties == (("w", (), tuple(range(len(graph)))),)


def test_one_edge_moved_is_another_graph() -> None:
    graph = SHRIKHANDE.copy()
    row, column = np.argwhere(np.triu(graph))[0]
    graph[row, column] = graph[column, row] = 0
    assert len(prints(graph)) == 1 and prints(graph) != prints(SHRIKHANDE)


def test_graphs_of_cai_furer_and_immerman() -> None:
    straight, crossed = (twisted(K4, 4, twist) for twist in (False, True))
    assert len(straight) == 28 and sorted(straight.sum(0)) == sorted(crossed.sum(0))
    left, right = prints(straight, 2), prints(crossed, 2)
    assert len(left) == len(right) == 1 and left != right


def test_a_search_that_is_too_long_says_so() -> None:
    """Many disjoint copies of a graph: their choices multiply."""
    state = graph_state(SHRIKHANDE)
    structure = rnn(16)
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    with pytest.raises(LimitError, match="too many for the search"):
        label(structure, state.__getitem__, shapes, budget=3)
    assert label(structure, state.__getitem__, shapes).stabiliser == 192


# ------------------------------------------------------------------ what was wrong once
EYES = np.vstack([np.eye(2)] * 3)
TURN = np.eye(3) + 2 * np.roll(np.eye(3), 1, 0)


def agree(structure: weyl.Structure, state: State, stabiliser: int) -> None:
    """Copies under random elements have one fingerprint; the stabiliser is what enumeration finds."""
    whole = Whole(structure)
    flat = whole.flat(state)
    assert whole.stabiliser(flat) == stabiliser
    rng = np.random.default_rng(0)
    copies = [whole.state(whole.orbit(flat)[g]) for g in rng.integers(whole.order, size=12)]
    assert len({fingerprint(structure, copy) for copy in copies}) == 1
    assert {canonicalize(structure, copy).stabilizer for copy in copies} == {stabiliser}


@pytest.mark.parametrize(
    ("blocks", "stabiliser"),
    [((np.eye(3), TURN), 3), ((TURN, TURN.T), 6), ((TURN, TURN), 6), ((np.eye(3), np.eye(3)), 12)],
)
def test_the_copy_that_is_searched_first_has_no_say(blocks: tuple[Matrix, Matrix], stabiliser: int) -> None:
    spaces = (Space("h", 2), Space("d", 3, within=("h",)), Space("a", 3))
    structure = table(spaces, {"q": (Product((Units("h", 2), Units("d", 3))), Units("a", 3))})
    agree(structure, {"q": torch.from_numpy(np.vstack(blocks))}, stabiliser)


def test_heads_with_a_unit_set_apart_are_no_twins() -> None:
    spaces = (Space("h", 3), Space("d", 2, within=("h",)), Space("a", 2))
    structure = table(spaces, {"o": (Units("a", 2), Product((Units("h", 3), Units("d", 2))))})
    agree(structure, {"o": torch.from_numpy(EYES.T.copy())}, 12)


def test_all_products_of_signs_that_are_not_known_count() -> None:
    """One sign of the two is known on some rows only."""
    structure = table(
        (Space("a", 2, ODD), Space("b", 1, ODD)),
        {"in": (Units("a", 2),), "mid": (Units("b", 1), Units("a", 2)), "norm": (Units("a", 2),)},
        (("a", ("in", "norm")), ("a", ("norm", "mid")), ("b", ("mid",)), ("a", ("mid",))),
    )
    state = {"in": [0.0, 1.0], "mid": [[0.0, 1.0]], "norm": [0.0, 1.0]}
    agree(structure, {name: torch.tensor(values, dtype=torch.float64) for name, values in state.items()}, 8)
