"""The laws that groups, actions and proofs obey."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weyl._memory import tensor_identity
from weyl.actions import act
from weyl.groups import Element, Group
from weyl.proof import exact_element, verify
from weyl.structure import Structure

__all__ = [
    "assert_action_laws",
    "assert_function_preserved",
    "assert_group_laws",
    "assert_structure_round_trip",
    "assert_untouched",
]

TOLERANCE = 1e-9
State = Mapping[str, Tensor]
Agreement = Callable[[State, State, str], None]


def assert_group_laws(group: Group, seed: int = 0) -> None:
    """Assert identity, inverse, associativity and reproducible randomness.

    For elements that compose without rounding the laws must hold exactly, for others to 1e-9.

    Parameters
    ----------
    group : Group
        The group to try.
    seed : int
        Seed of the elements.

    Raises
    ------
    AssertionError
        If a law is broken.

    Examples
    --------
    >>> from weyl.groups import Gauge, GaugeKind, Group, Space
    >>> spaces = (Space("heads", 3), Space("inside", 4, within=("heads",)))
    >>> assert_group_laws(Group(spaces, (Gauge("inside mix", "inside", GaugeKind.LINEAR),)))
    """
    _assert_laws(group, [group.random(seed + i, exact=True) for i in range(3)], lambda a, b: a == b)
    _assert_laws(group, [group.random(seed + i) for i in range(3)], lambda a, b: a.close(b, TOLERANCE))
    assert group.identity().is_identity, "the identity moves something"
    for exact in (True, False):
        assert group.random(seed, exact=exact) == group.random(seed, exact=exact), "the same seed gave two elements"


def _assert_laws(group: Group, elements: Sequence[Element], same: Callable[[Element, Element], bool]) -> None:
    """Assert the laws for three elements, for some notion of equality."""
    a, b, c = elements
    one = group.identity()
    assert same(a @ one, a), "a @ 1 is not a, or the identity moves units"
    assert same(one @ a, a), "1 @ a is not a, or the identity moves units"
    assert same(a @ ~a, one), "a @ ~a is not the identity"
    assert same(~a @ a, one), "~a @ a is not the identity"
    assert same((a @ b) @ c, a @ (b @ c)), "composition is not associative"
    assert same(~(a @ b), ~b @ ~a), "~(a @ b) is not ~b @ ~a"


def assert_action_laws(structure: Structure, state: Mapping[str, Tensor], seed: int = 0) -> None:
    """Assert that ``act`` is a group action that keeps keys, shapes, dtypes, ties, and its input.

    Elements that act without rounding (permutations, signs, powers of two) must compose to the last bit in the
    precision of the state, others to 1e-9 in float64, relative to the largest entry of a tensor or 1.

    Parameters
    ----------
    structure : Structure
        Of the model of the state.
    state : mapping of str to tensor
        Any state dict of the model.
    seed : int
        Seed of the elements.

    Raises
    ------
    AssertionError
        If a law is broken.

    Examples
    --------
    >>> import torch, weyl
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> assert_action_laws(weyl.discover(net, (torch.zeros(1, 3),)), net.state_dict())
    """
    before = {name: tensor.clone() for name, tensor in state.items()}
    moved = act(structure.group.random(seed), structure, state)
    assert list(moved) == list(state), "act changed the keys or their order"
    for name, tensor in state.items():
        assert torch.equal(tensor, before[name]), f"act changed its input {name!r}"
        assert moved[name].shape == tensor.shape, f"act changed the shape of {name!r}"
        assert moved[name].dtype == tensor.dtype, f"act changed the dtype of {name!r}"
    for first in state:
        for second in state:
            if state[first].data_ptr() == state[second].data_ptr() and state[first].shape == state[second].shape:
                tied = moved[first].data_ptr() == moved[second].data_ptr() or not state[first].numel()
                assert tied, f"act untied {first!r} and {second!r}"
    exact = [exact_element(structure, seed + i, integers=False) for i in range(2)]
    _assert_acts(structure, state, exact, _assert_same)
    double = {tensor_identity(t): t.double() if t.is_floating_point() else t for t in state.values()}
    wide = {name: double[tensor_identity(tensor)] for name, tensor in state.items()}
    _assert_acts(structure, wide, [structure.group.random(seed + i) for i in range(2)], _assert_close)


def _assert_acts(structure: Structure, state: State, elements: Sequence[Element], same: Agreement) -> None:
    """Assert the laws of an action for two elements, for some notion of equality."""
    g, h = elements
    moved = act(g, structure, state)
    _assert_same(act(structure.group.identity(), structure, state), state, "the identity moves")
    same(act(~g, structure, moved), state, "~g does not undo g on")
    same(act(g @ h, structure, state), act(g, structure, act(h, structure, state)), "(g @ h) is not g after h on")


def _assert_same(a: State, b: State, what: str) -> None:
    for name, tensor in b.items():
        assert torch.equal(a[name], tensor), f"{what} {name!r}"


def _assert_close(a: State, b: State, what: str) -> None:
    for name, tensor in b.items():
        if not tensor.is_floating_point():
            assert torch.equal(a[name], tensor), f"{what} {name!r}"
        elif tensor.numel():
            error = float((a[name] - tensor).abs().max())
            assert error <= TOLERANCE * max(1.0, float(tensor.abs().max())), f"{what} {name!r}, by {error:.1e}"


def assert_function_preserved(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    structure: Structure | None = None,
    seed: int = 0,
    output: Callable[[Any], Any] | None = None,
) -> None:
    """Assert that random elements keep the function of a model, by a check that rejects a wrong element.

    Parameters
    ----------
    model, args, kwargs, structure, seed, output
        As in :func:`weyl.verify`.

    Raises
    ------
    AssertionError
        If an element changes the function, or the wrong element is not rejected.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> assert_function_preserved(net, (torch.ones(2, 3),))
    """
    proof = verify(model, args, kwargs, structure=structure, seed=seed, output=output)
    assert proof.holds, f"{proof.verdict}: {proof.reason}"
    assert proof.exact is not False, "outputs differ in the last bit on small-integer weights"


def assert_structure_round_trip(structure: Structure) -> None:
    """Assert that a structure survives its text form.

    Parameters
    ----------
    structure : Structure
        Any structure.

    Raises
    ------
    AssertionError
        If the structure read back differs, or is written differently.

    Examples
    --------
    >>> from weyl.structure import Structure
    >>> assert_structure_round_trip(Structure((), {}))
    """
    text = structure.to_json()
    again = Structure.from_json(text)
    assert again == structure, "the structure read back differs"
    assert again.to_json() == text, "the structure read back is written differently"


@contextmanager
def assert_untouched(model: nn.Module) -> Iterator[None]:
    """Assert that a block of code leaves a model and the global random state as they were.

    Parameters
    ----------
    model : nn.Module
        Mode, attributes and hooks of every submodule, parameters, gradients and buffers are compared, and the random
        states of torch (CPU), numpy and Python.

    Raises
    ------
    AssertionError
        If anything changed.

    Examples
    --------
    >>> import torch, weyl
    >>> net = torch.nn.Linear(2, 2)
    >>> with assert_untouched(net):
    ...     structure = weyl.discover(net, (torch.zeros(1, 2),))
    """
    before, tensors = _fingerprint(model), _tensors(model)
    states = torch.random.get_rng_state(), _numpy_state(), random.getstate()
    yield
    assert _fingerprint(model) == before, "mode, hooks or attributes of the model changed"
    for name, tensor in _tensors(model).items():
        assert name in tensors, f"{name} is new, so the model changed"
        assert torch.equal(tensor, tensors[name]), f"{name} changed"
    assert torch.equal(torch.random.get_rng_state(), states[0]), "the random state of torch changed"
    assert _numpy_state() == states[1], "the random state of numpy changed"
    assert random.getstate() == states[2], "the random state of Python changed"


def _fingerprint(model: nn.Module) -> list[object]:
    """Mode, attributes and hooks of every submodule; simple attributes by value, others by identity."""
    return [
        (name, {key: value if isinstance(value, SIMPLE) else _members(value) for key, value in vars(part).items()})
        for name, part in model.named_modules()
    ]


def _numpy_state() -> bytes:
    """The global state of numpy as bytes (its text is abridged)."""
    return pickle.dumps(np.random.get_state())


SIMPLE = (bool, int, float, str, type(None))


def _members(value: object) -> object:
    if isinstance(value, dict):
        return tuple((str(key), id(item)) for key, item in value.items())
    return id(value)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of parameters, their gradients, and all buffers."""
    named = [*model.named_parameters(), *model.named_buffers()]
    gradients = [(f"the gradient of {name}", p.grad) for name, p in model.named_parameters() if p.grad is not None]
    return {name: tensor.detach().clone() for name, tensor in [*named, *gradients]}
